"""Is a network's measured robustness to be believed? Its evaluation card, and what the pictures show of it.

`card` measures (with torch), `checks` judges what was measured (without torch).
"""

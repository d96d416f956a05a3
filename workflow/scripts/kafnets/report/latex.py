"""Plain text as LaTeX."""

_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "ε": r"$\varepsilon$",
    "∞": r"$_\infty$",
    "–": "--",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"$^\S$",
    "¶": r"$^\P$",
    "‖": r"$^\Vert$",
    "♯": r"$^\sharp$",
}


def tex(text):
    """`text` with every character that means something to LaTeX escaped."""
    return "".join(_TEX.get(character, character) for character in text)

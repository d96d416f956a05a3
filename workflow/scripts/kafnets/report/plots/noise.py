"""How far off chance alone may put a point of a curve."""

from .. import statistics


def reach(examples):
    """How many images a curve is of, and half the width, in percent, of its points' widest 95 % interval."""
    widest = statistics.wilson(examples / 2, examples)
    return f"{examples:,} images: ±{50 * (widest.high - widest.low):.2g} at 95 %"

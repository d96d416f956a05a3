"""Numbers as config.yaml writes them."""

from .errors import UserError


def fraction(text):
    """ "8/255" as a float, in units of the pixel range [0, 1].

    Raises:
        UserError: for anything but a number over 255 within [0, 1].
    """
    numerator, _, denominator = str(text).partition("/")
    try:
        value = float(numerator) / 255
    except ValueError:
        value = -1.0
    if denominator != "255" or not 0 <= value <= 1:
        raise UserError(f"{text!r} is not a radius; write it as n/255, for example 8/255")
    return value

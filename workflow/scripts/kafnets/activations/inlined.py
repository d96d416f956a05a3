"""What a kernel of several layers needs in order to compute an activation among them."""

from typing import Any, NamedTuple


class Inlined(NamedTuple):
    """An activation as functions for Triton kernels, in float32, on (positions, channels) tiles.

    Of a fixed activation, `value` (z, parameters) is f(z) and `slope` (z, parameters) is f'(z); `prepare` and
    `weight` are None. One that learns coefficients for each channel prepares its state first, see
    :mod:`.kaf.triton_functions` for the arguments.
    """

    value: Any
    slope: Any
    parameters: tuple = ()  # numbers, or tensors of which the first is what it learns, (C, size)
    prepare: Any = None
    weight: Any = None
    sizes: tuple = (0, 0, 0)  # coefficients a channel, and in how many groups of how many they are taken

    @property
    def learned(self):
        """The parameter that it learns, or None."""
        return self.parameters[0] if self.prepare else None

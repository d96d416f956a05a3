"""Triton's interpreter, where NumPy has become stricter than it knows."""

import os

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def mend():
    """Lets the bounds of a loop be values of the kernel: arrays of one element, no index for NumPy 2.4."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def mended(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = mended

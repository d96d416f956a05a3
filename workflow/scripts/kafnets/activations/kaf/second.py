"""The second derivatives of a KAF, which gradient alignment, curvature and the like ask for."""

from functools import partial

import torch

from . import portable

# Values whose second derivatives are computed at once. By the formula, of which torch's own rules hold two
# dozen tensors of D times their size, that is 0.1 GB on the CPU; by the plain loop they stay in the cache.
AT_ONCE = {"cpu": 2**16, "cuda": 2**21}


def derivatives(ctx, cotangents, gradients, once):
    """What the backward pass of the gradients' node returns; in parts of the batch.

    What is common, those of the gradient by x alone, not by dictionary or bandwidth, has a loop of its own.
    Everything else takes the derivatives of the formula.

    Args:
        ctx: of that node; its saved tensors are the gradient that came back, and the formula's arguments.
        cotangents: of the gradients by x, alpha, dictionary and bandwidth; None where there is none.
        gradients (callable): the formula's gradients in torch's own operations.
        once (bool): the result is not to be differentiated again, and no transform is at work.
    """
    grad, x, *parameters = ctx.saved_tensors
    wanted, (by_x, *by_parameters) = ctx.needs_input_grad[:5], cotangents
    simple = by_x is not None and all(one is None for one in by_parameters) and not any(wanted[3:])
    derive = partial(_by_input if once and simple else _by_formula, ctx, gradients)
    parts = min(len(x), max(1, x.numel() // AT_ONCE.get(x.device.type, 2**16)))
    by_x = [by_x] * parts if by_x is None else by_x.tensor_split(parts)
    found = [
        derive((g, part, *parameters), (by, *by_parameters))
        for g, part, by in zip(grad.tensor_split(parts), x.tensor_split(parts), by_x, strict=True)
    ]
    if parts > 1:  # what all parts share gets the sum
        of_values = [torch.cat(one) for one in zip(*(one[:2] for one in found), strict=True)]
        of_parameters = [_sum(one) for one in zip(*(one[2:] for one in found), strict=True)]
        found = [(*of_values, *of_parameters)]
    return *(g if need else None for g, need in zip(found[0], wanted, strict=True)), None, None, None


def _sum(gradients):
    return None if gradients[0] is None else sum(gradients)


def _by_input(ctx, gradients, tensors, cotangents):
    return (*portable.second(cotangents[0], *tensors, ctx.kernel), None, None)


def _by_formula(ctx, gradients, tensors, cotangents):
    needs = ctx.needs
    first, pull_back = torch.func.vjp(lambda *tensors: gradients(*tensors, ctx.kernel, needs), *tensors)
    given = [c for c, need in zip(cotangents, needs, strict=True) if need]
    given = tuple(torch.zeros_like(f) if c is None else c for f, c in zip(first, given, strict=True))
    return pull_back(given)

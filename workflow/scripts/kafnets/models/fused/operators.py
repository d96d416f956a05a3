"""Normalisation, addition and activation as one operator, for training."""


def normalise_activate(x, norm, activation, *, added=None, residual=None, shift=None, copies=1):
    r"""activation(norm(x + added) + residual), with the statistics of the batch.

    The running averages and the counter of `norm` are updated as the module itself does.

    Args:
        x (Tensor): (N, C, H, W), what a convolution without its bias gives.
        norm (nn.BatchNorm2d): in training mode.
        activation (nn.Module): of the registry, or nn.Identity.
        added (Tensor, optional): like x; added before the normalisation.
        residual (Tensor, optional): like x; added after it.
        shift (Tensor, optional): (C,), a bias that was left out of `x`: it changes nothing but the running mean.
        copies (int): how many tensors to return, all of the same memory; the gradients by them are added in the
            backward pass.

    Returns:
        Tensor like x, or a tuple of `copies` of them where there are several.
    """
    return plain(x, norm, activation, added=added, residual=residual, shift=shift, copies=copies)


def plain(x, norm, activation, *, added=None, residual=None, shift=None, copies=1):
    """:func:`normalise_activate` by torch's own operations, layer by layer: the oracle."""
    x = x if added is None else x + added
    x = x if shift is None else x + shift.detach()[:, None, None].to(x.dtype)
    x = norm(x)
    x = activation(x if residual is None else x + residual)
    return x if copies == 1 else (x,) * copies

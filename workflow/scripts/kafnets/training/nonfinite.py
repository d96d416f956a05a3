"""Where a training left the numbers."""

import torch


@torch.no_grad()
def first_layer(model, images):
    """The name of the first module whose output on `images` is not finite, or None."""
    names = {module: name for name, module in model.named_modules() if not list(module.children())}
    found = []

    def check(module, _, output):
        if not found and not torch.isfinite(output).all():
            found.append(names[module])

    hooks = [module.register_forward_hook(check) for module in names]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def last_gradient(model):
    """The parameter nearest to the loss whose gradient is not finite (met first going back), or None."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return name
    return None


def describe(model, images):
    """Which layer to look at, as words."""
    layer = first_layer(model, images)
    if layer is not None:
        return f"the output of layer {layer} is not finite"
    parameter = last_gradient(model)
    if parameter is not None:
        return f"the gradient of {parameter} is not finite"
    return "the loss is not finite"

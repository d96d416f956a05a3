"""Where a training left the numbers."""

import torch


class Watch:
    """Looks out for a loss or a gradient that is not finite, on the device: no step waits for an answer.

    Args:
        batch (Tensor): a batch's images; those of the first failing step are kept.
        tolerated (int): how many steps in a row may have a gradient that is not finite while the loss is: an
            overflow in float16 that the loss scale mends by itself.
    """

    def __init__(self, batch, tolerated):
        self.tolerated = tolerated
        self.images = torch.zeros_like(batch)
        self.steps, self.failed_at, self.overflows = torch.tensor([0, -1, 0], device=batch.device).unbind()

    def see(self, loss, norm, images):
        """Notes a step: its loss, the norm of its gradients, its images; whether it must not be taken.

        Returns:
            Tensor: 1.0 where the loss or the norm is not finite, else 0.0.
        """
        bad = failed = _is_not_finite(loss + norm)
        if self.tolerated:
            self.overflows.add_(1).mul_(bad.long())
            failed = _is_not_finite(loss).bool() | (self.overflows > self.tolerated)
        failed = torch.logical_and(failed, self.failed_at < 0)
        torch.where(failed, self.steps, self.failed_at, out=self.failed_at)
        kept = self.images[: len(images)]
        torch.where(failed, images, kept, out=kept)
        self.steps += 1
        return bad

    def failure(self):
        """The number of the first step that failed, and its images; None when there is none (waits)."""
        failed_at = self.failed_at.item()
        return None if failed_at < 0 else (failed_at, self.images)

    def state(self):
        """What the next step depends on."""
        return {"steps": self.steps.item(), "overflows": self.overflows.item()}

    def restore(self, state):
        """Puts back what :meth:`state` returned."""
        self.steps.fill_(state["steps"])
        self.overflows.fill_(state["overflows"])


def _is_not_finite(number):
    """1.0 or 0.0, in two kernels (torch.isfinite is four): infinity and NaN minus themselves are NaN."""
    return torch.ne(number - number, 0, out=torch.empty((), device=number.device))


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

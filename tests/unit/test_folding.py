"""The folded copy computes the same function, and really has fewer operations."""

import pytest
import torch
from kafnets.evaluation.folding import folded
from kafnets.models import create_model
from torch import nn


def trained_looking(model):
    """Normalisations as after a training: no statistic or parameter at its neutral value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.1, 2)
                module.weight.normal_(1, 0.3)
                module.bias.normal_(0, 0.3)
    return model


def normalisations_called(model):
    return sum(
        node.op == "call_module" and isinstance(model.get_submodule(node.target), nn.BatchNorm2d)
        for node in model.graph.nodes
    )


@pytest.mark.parametrize(
    "architecture, arguments, left",
    [
        ("vgg", {}, 0),
        ("resnet8", {"block": "original"}, 0),
        # behind a pre-activation's sum two read: only the normalisations between two convolutions fold
        ("resnet8", {"block": "preact"}, 4),
        ("resnet8", {"block": "preact", "shortcut": "projection"}, 2),
        ("resnet8", {"block": "thesis"}, 1),  # the one behind the sum with an identity shortcut
    ],
)
@pytest.mark.parametrize("activation", ["relu", "kaf_swish"])
def test_same_outputs_and_gradients(architecture, arguments, left, activation):
    torch.manual_seed(0)
    model = trained_looking(create_model(architecture, activation=activation, **arguments)).double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = folded(model)
    assert normalisations_called(fast) == left
    assert model.training and all(
        torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    )

    model.eval()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    outputs, expected = fast(images), model(images)
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(logits.logsumexp(1).sum(), images)[0] for logits in (outputs, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_shared_layers_are_left_alone():
    """Weights that serve two calls, or an output that two read, cannot take one normalisation's scale."""

    class Sharing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn1, self.bn2 = (
                nn.Conv2d(3, 3, 3, padding=1),
                nn.BatchNorm2d(3),
                nn.BatchNorm2d(3),
            )
            self.other = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            once = self.bn1(self.conv(x))
            other = self.other(once)
            return (self.bn2(self.conv(once)) + self.bn1(other) * other).mean((2, 3))

    model = trained_looking(Sharing()).double().eval()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    fast = folded(model)
    assert normalisations_called(fast) == 3
    torch.testing.assert_close(fast(images), model(images), rtol=1e-9, atol=1e-9)


def test_a_model_that_cannot_be_traced_is_copied():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3)) if x.sum() > 0 else self.conv(-x).mean((2, 3))

    model, images = Branching().eval(), torch.rand(2, 3, 8, 8)
    fast = folded(model)
    assert fast is not model
    torch.testing.assert_close(fast(images), model(images))

"""Lipschitz constants of networks, what they prove of images, and training for it."""

import copy
import math

import pytest
import torch
from kafnets import create_activation, create_model
from kafnets.certification.certify import certify
from kafnets.certification.margins import LipschitzMargin, distances, lipschitz_constant
from kafnets.certification.network import network_of
from kafnets.certification.product import proved
from kafnets.data.digits import prepare_digits
from kafnets.runtime.errors import UserError
from kafnets.training.methods.base import Network, create_method
from kafnets.training.methods.lmt import LipschitzMarginTraining
from method_cases import Plain, agree, normalised, some
from torch import nn
from torch.nn import functional


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def digits():
    """The 8 x 8 digits in one channel: training images and labels, test images and labels."""
    data = prepare_digits(name="digits8", size=8)
    return (
        *(data.train_images[:, :1] / 255, data.train_labels),
        *(data.test_images[:100, :1] / 255, data.test_labels[:100]),
    )


def trained(model, method, digits, steps, rate, momentum=0.9):
    """A model after some steps of SGD on batches of 64, in evaluation mode; c of a margin at its end."""
    images, labels, _, _ = digits
    network, generator = Network(model.train()), torch.Generator().manual_seed(1)
    method.prepare(network, images[:64])
    state = method.initial_state(images[:64])
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    for step in range(steps):
        method.begin_epoch(step * 10 // steps, state)
        rows = torch.randint(0, len(images), (64,), generator=generator)
        update = method.update(network, images[rows], labels[rows], state)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def plain_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


# -- constants


def jacobian(function, x):
    outputs = torch.autograd.functional.jacobian(lambda x: function(x[None])[0], x)
    return outputs.reshape(outputs.numel() // x.numel(), -1)


class Branches(nn.Module):
    """A network whose constant is known: linear but for an activation, with all kinds of steps."""

    def __init__(self, activation):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.act = activation
        self.one, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(36, 3)

    def forward(self, x):
        x = self.act(self.conv(x))
        x = self.bn(self.one(x) + x)
        return self.fc(self.pool(x).flatten(1))


def branches(activation):
    model = Branches(activation)
    with torch.no_grad():
        model.bn.running_var.copy_(torch.tensor([0.2, 1, 3, 0.5]))
        model.bn.weight.copy_(torch.tensor([1.0, -2, 0.3, 0.1]))
    return model.eval()


def test_the_constant_of_a_network_is_the_product_of_its_layers():
    """By explicit matrices: of the true size, the normalisation and each channel's slope folded in."""
    activation = create_activation("prelu", 4)
    (slope,) = activation.parameters()
    slope.data.copy_(torch.tensor([3.0, -0.5, 0.2, 1]).view_as(slope))
    model = branches(activation).double()
    x = torch.rand(2, 6, 6, dtype=torch.float64)
    h = torch.rand(4, 6, 6, dtype=torch.float64)
    slopes = torch.tensor([3.0, 1, 1, 1], dtype=torch.float64).view(-1, 1, 1)
    scale = (model.bn.weight / (model.bn.running_var + model.bn.eps).sqrt()).view(-1, 1, 1)
    first = jacobian(lambda x: slopes * model.conv(x), x)
    second = jacobian(lambda h: scale * model.one(h), h)
    norms = [torch.linalg.matrix_norm(one, 2).item() for one in (first, second)]
    # the sum is behind the activation: both of its terms are, times the largest scale
    expected = norms[0] * (norms[1] + scale.abs().max().item()) / 2
    found = lipschitz_constant(network_of(model, (2, 6, 6)))
    assert expected <= found <= 1.15 * expected


@pytest.mark.parametrize("activation", ["relu", "swish", "kaf", "kaf_elu_base", "maxmin", "lipschitz_spline"])
def test_no_gradient_is_longer_than_the_constant(activation):
    layer = create_activation(activation, 4)
    model = branches(layer).double()
    constant = lipschitz_constant(network_of(model, (2, 6, 6)))
    body = lambda x: model.pool(  # noqa: E731
        model.bn(model.one(model.act(model.conv(x))) + model.act(model.conv(x)))
    ).flatten(1)
    x = 3 * torch.randn(2, 6, 6, dtype=torch.float64)
    found = torch.linalg.matrix_norm(jacobian(body, x), 2).item()
    assert found <= constant <= 60 * found


def test_channels_that_change_places_have_the_largest_factor():
    """MaxMin before a normalisation that stretches the smaller of two channels by 100."""
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 2), create_activation("maxmin", 2), norm, nn.Linear(2, 2)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 1], [0.1, 0]]))
        norm.weight.copy_(torch.tensor([0.01, 100]))
    model = model.eval().double()
    x = torch.tensor([[[0.0, -3]]], dtype=torch.float64)  # the steep row is the smaller one here
    steep = jacobian(model[:4], x).abs().max().item()
    assert steep > 99 and lipschitz_constant(network_of(model, (1, 1, 2))) >= steep


@pytest.mark.parametrize("architecture", ["resnet8", "vgg"])
def test_networks_of_the_registry_have_constants(architecture):
    """Also where a sum is normalised, pixels are left away, and maxima are taken."""
    blocks = ("thesis", "original", "preact") if architecture == "resnet8" else (None,)
    for block in blocks:
        options = {"block": block} if block else {}
        model = create_model(architecture, "kaf", image_shape=[3, 8, 8], **options).eval()
        constant = lipschitz_constant(network_of(model, (3, 8, 8)))
        features = []
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, given, features=features: features.append(given[0]))
        x = torch.rand(4, 3, 8, 8, requires_grad=True)
        model(x)
        direction = functional.normalize(torch.randn_like(features[0]), dim=1)
        (gradient,) = torch.autograd.grad((features[0] * direction).sum(), x)
        assert 0 < gradient.flatten(1).norm(dim=1).max() <= constant < math.inf


def test_what_has_no_constant_is_refused():
    with pytest.raises(ValueError, match="last layer must be dense"):
        LipschitzMargin(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()), (1, 2, 2), 8)
    with pytest.raises(ValueError, match="KWinners"):
        proved(create_activation("kwta", 4))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), create_activation("kwta", 4), nn.Linear(4, 3))
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"certificate lipschitz: .*KWinners"):
        certify(model.eval(), images, torch.zeros(1, dtype=torch.long), "lipschitz", {})
    with pytest.raises(UserError, match=r"adversary lmt: .*KWinners"):
        LipschitzMarginTraining().prepare(Network(model), torch.zeros(1, 3, 8, 8))


# -- certificates


def farthest(model, images, labels, radii, steps=40):
    """The largest lead of a false class that gradient steps find within each image's own L2 radius."""
    radii = radii.float().view(-1, 1, 1, 1)
    delta = torch.zeros_like(images)
    worst = torch.full((len(images),), -math.inf)
    for step in range(steps):
        moved = (images + delta).requires_grad_()
        logits = model(moved)
        own = functional.one_hot(labels, logits.shape[1]).bool()
        lead = logits.masked_fill(own, -math.inf).amax(1) - logits[own]
        worst = torch.maximum(worst, lead.detach())
        (gradient,) = torch.autograd.grad(lead.sum(), moved)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
        delta = delta + radii * (0.3 if step < steps - 10 else 0.05) * gradient / length
        norm = delta.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
        delta = delta * (radii / norm).clamp(max=1)
    return worst


@pytest.mark.parametrize("kind", ["lipschitz_cnn", "lmt"])
def test_no_attack_breaks_a_certified_image_and_training_raises_the_radii(digits, kind):
    """Against the same network trained by the plain cross-entropy, or not trained."""
    _, _, images, labels = digits
    if kind == "lmt":
        other = trained(plain_network(), create_method({"name": "none"}), digits, 150, 0.1)
        model = trained(plain_network(), create_method({"name": "lmt", "c": 1.0}), digits, 150, 0.1)
    else:
        make = {"image_shape": [1, 8, 8], "width": 4, "depth": 1}
        other = create_model(kind, "kaf_base_1lip", **make).eval()
        model = create_model(kind, "kaf_base_1lip", **make)
        model = trained(model, create_method({"name": "offset"}), digits, 60, 0.3)
    pixels = (images * 255).round().to(torch.uint8)
    figures, certified = certify(model, pixels, labels, "lipschitz", {})
    before, _ = certify(other, pixels, labels, "lipschitz", {})
    assert figures["accuracy"] > 0.6
    assert figures["average_radius"] > 1.5 * before["average_radius"]
    if kind == "lipschitz_cnn":
        assert figures["facts"]["lipschitz_constant"] <= 1.001
    right = (certified["prediction"] == labels) & (certified["radius"] > 0)
    images, labels, radii = images[right], labels[right], certified["radius"][right]
    assert (farthest(model, images, labels, radii) < 0).all()
    # the attack is one: further away it breaks most of them
    assert (farthest(model, images, labels, 12 * radii) > 0).double().mean() > 0.5


def test_radii_are_leads_over_distances_of_rows_over_the_constant():
    """For a linear network, where they are exact: a longer step across the boundary changes the answer."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    images, labels = torch.rand(6, 3, 2, 2), torch.zeros(6, dtype=torch.long)
    certificate = LipschitzMargin(model, (3, 2, 2), 8)
    found = certificate(images, labels, range(6))
    weight = model[1].weight.detach()
    logits = model(images).detach()
    for n in range(6):
        own = logits[n].argmax()
        expected = {
            j: (logits[n, own] - logits[n, j]) / (weight[own] - weight[j]).norm()
            for j in range(4)
            if j != own
        }
        nearest = min(expected, key=expected.get)
        assert found.predictions[n] == own
        assert found.radii[n].item() == pytest.approx(expected[nearest].item(), rel=1e-4)
        direction = functional.normalize(weight[nearest] - weight[own], dim=0).view(1, 3, 2, 2)
        for factor, same in ((0.999, True), (1.001, False)):
            moved = model(images[n : n + 1] + factor * found.radii[n].float() * direction)
            assert (moved.argmax() == own) == same
    in_linf = LipschitzMargin(model, (3, 2, 2), 8, norm="linf")(images, labels, range(6))
    torch.testing.assert_close(in_linf.radii, found.radii / 12**0.5)
    assert certificate.facts == {"lipschitz_constant": pytest.approx(1)}


def test_a_tie_is_not_certified_and_no_radius_is_infinite():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 1.0, 0.0]))
    images, labels = torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    assert LipschitzMargin(model, (1, 2, 2), 8)(images, labels, range(2)).radii.tolist() == [0, 0]
    model[1].bias.data[1] = 0
    assert LipschitzMargin(model, (1, 2, 2), 8)(images, labels, range(2)).radii.tolist() == [2, 2]


def test_distances_of_equal_rows_have_a_gradient():
    weight = torch.tensor([[3.0, 4], [0, 0], [3, 4]], requires_grad=True)
    found = distances(weight)
    assert found.tolist() == [[0, 5, 0], [5, 0, 5], [0, 5, 0]]
    found.sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[1.2, 1.6], [-2.4, -3.2], [1.2, 1.6]]))


# -- training


def matrix_of(function, shape):
    """Of a linear function of inputs of this shape."""
    size = math.prod(shape)
    return function(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1).T


def oracle_loss(model, images, labels, c, start):
    """Tsuzuku's loss by explicit matrices, one image and one class after the other."""
    logits = model(images)  # the running averages see the batch first
    scale = (model[1].weight / (model[1].running_var + model[1].eps).sqrt()).abs()
    matrix = scale.repeat_interleave(64)[:, None] * matrix_of(
        lambda x: functional.conv2d(x, model[0].weight, padding=1), (3, 8, 8)
    )
    right = (matrix.detach().T @ start).detach()
    left = matrix @ (right / right.norm())
    constant = left.norm()
    rows, total, factors = model[4].weight, 0, []
    for z, label in zip(logits, labels.tolist(), strict=True):
        lost = [c * constant * (rows[j] - rows[label]).norm() if j != label else 0.0 for j in range(3)]
        shares = [min(max((z[label] - z[j]).item() / lost[j].item(), 0), 1) for j in range(3) if j != label]
        factors.append(min(shares))
        raised = torch.stack([z[j] + factors[-1] * lost[j] for j in range(3)])
        total = total - (raised[label] - raised.logsumexp(0))
    return total / len(labels), (left / constant).detach(), factors


@pytest.mark.parametrize("c", [1e-3, 0.02, 5.0])
def test_the_loss_and_its_gradients_are_the_paper_s(c):
    """At radii where the added terms are whole, cut off for some images, and cut off for all."""
    model, (images, labels) = normalised(), some()
    with torch.no_grad():
        model[4].bias += 0.2 * torch.tensor([1.0, 0, -1])
    oracle, method = copy.deepcopy(model), LipschitzMarginTraining(c=c, warm_up=0)
    method.prepare(Network(model), images)
    state = {name: tensor.double() for name, tensor in method.initial_state(images).items()}
    method.begin_epoch(0, state)
    method.begin_epoch(1, state)
    (vector,) = [name for name in state if name.startswith("power")]
    start = state[vector].flatten().clone()
    update = method.update(Network(Plain(model)), images, labels, state)
    loss, left, factors = oracle_loss(oracle, images, labels, c, start)
    assert {1e-3: 1.0, 5.0: 0.5}.get(c, 2) >= max(factors) >= 0
    agree(update, loss, model, oracle)
    torch.testing.assert_close(state[vector].flatten(), left)
    # and so on from there, towards the norm, from below
    constants = [float(method.constant(state).detach()) for _ in range(150)]
    bound = lipschitz_constant(network_of(model.eval(), (3, 8, 8)))
    assert constants[0] < constants[-1] <= bound < 1.1 * constants[-1]


def test_c_rises_in_the_first_epochs():
    method, state = LipschitzMarginTraining(c=0.1, warm_up=4), {"c": torch.zeros((), dtype=torch.float64)}
    found = []
    for epoch in (0, 1, 2, 4, 9):
        method.begin_epoch(epoch, state)
        found.append(state["c"].item())
    assert found == pytest.approx([1e-5, 0.0250075, 0.050005, 0.1, 0.1])


def test_every_constant_of_a_training_has_a_gradient():
    """Through residual blocks, normalisations, KAFs with and without a base."""
    for activation in ("kaf", "kaf_elu_base"):
        model = create_model("resnet8", activation, image_shape=[3, 8, 8])
        method = LipschitzMarginTraining()
        images = torch.rand(2, 3, 8, 8)
        method.prepare(Network(model), images)
        constant = method.constant(method.initial_state(images))
        constant.backward()
        without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert all("bias" in name or name.startswith("fc") for name in without), without
        assert constant.isfinite()

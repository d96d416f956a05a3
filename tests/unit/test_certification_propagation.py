"""Intervals, CROWN, linear and semidefinite programs: sound, each as tight as its place in the chain says."""

import copy

import pytest
import torch
from kafnets.activations import create_activation
from kafnets.attacks.pgd import pgd
from kafnets.certification import crown, interval, linear_program
from kafnets.certification.entry import create_certificate
from kafnets.certification.linf import largest_radii
from kafnets.certification.network import network_of
from kafnets.models.resnet import PaddedShortcut, SameConv2d
from kafnets.runtime.errors import UserError
from torch import nn

ACTIVATIONS = ["kaf", "kaf_silu_base", "relu", "swish", "elu"]
SHAPE = (1, 4, 4)
CLASSES = 3


def activation(name, channels):
    """A layer of it whose learned part is as large as its fixed one."""
    layer = create_activation(name, channels)
    with torch.no_grad():
        for parameter in (p for p in layer.parameters() if p.dim() == 2):
            parameter.normal_(0, 0.5)
    return layer


def mlp(name, units=6):
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(16, units), activation(name, units)),
        *(nn.Linear(units, units), activation(name, units), nn.Linear(units, CLASSES)),
    )


class Residual(nn.Module):
    """A block with an identity and one with a padded shortcut; asymmetric padding, normalisations, a mean."""

    def __init__(self, name):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.first = nn.Sequential(activation(name, 2), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
        self.norm = nn.BatchNorm2d(2)
        self.second = nn.Sequential(activation(name, 2), SameConv2d(2, 3, 3, 2))
        self.skip = PaddedShortcut(2, 0, 1)
        self.act, self.fc = activation(name, 3), nn.Linear(3, CLASSES)
        for norm in (self.first[2], self.norm):
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.running_var, 0.2, 0.6)

    def forward(self, x):
        h = self.stem(x)
        h = self.norm(h + self.first(h))
        h = self.act(self.skip(h) + self.second(h))
        return self.fc(h.mean((2, 3)))


NETWORKS = {"mlp": mlp, "residual": Residual}


def made(kind, name, seed=0):
    """A network whose logits have the mean 0 and the deviation 1, so that its answers differ."""
    torch.manual_seed(seed)
    model = NETWORKS[kind](name).eval().requires_grad_(False)
    last = model.fc if kind == "residual" else model[-1]
    logits = model(torch.rand(100, *SHAPE))
    deviation, mean = torch.std_mean(logits, 0)
    last.weight.div_(deviation[:, None])
    last.bias.sub_(mean).div_(deviation)
    return model


def rows_of(label):
    one_hot = torch.eye(CLASSES, dtype=torch.float64)
    return one_hot[label] - one_hot


def searched(network, lower, upper, label):
    """The least margins found on a box: 10,000 points, half of them corners, and a descent from the best."""
    points = torch.rand(10_000, *SHAPE, dtype=torch.float64)
    points[5000:] = points[5000:].round()
    points = lower + (upper - lower) * points
    with torch.no_grad():
        values = network(points) @ rows_of(label).T
    least = values.amin(0)
    for number, row in enumerate(rows_of(label)):
        best = points[values[:, number].topk(20, largest=False).indices]
        for _ in range(20):
            best = best.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((network(best) @ row).sum(), best)
            best = torch.clamp(best - (upper - lower) / 8 * gradient.sign(), lower, upper)
        least[number] = torch.minimum(least[number], (network(best) @ row).amin().detach())
    return least


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_chain(kind, name):
    """Found <= linear program <= CROWN <= intervals, as lower bounds from the largest to the least."""
    network = network_of(made(kind, name), SHAPE)
    for eps in (0.02, 0.2):
        image, label = torch.rand(1, *SHAPE), torch.tensor([1])
        lower, upper = interval.box(image, eps)
        found = searched(network, lower, upper, 1)
        by_intervals = interval.margins(network, lower, upper, label)[0]
        by_lines = crown.margins(network, lower, upper, label)[0]
        rough = crown.margins(network, lower, upper, label, "interval")[0]
        by_program = linear_program.lower_bounds(
            network, lower, upper, rows_of(1), pieces=8, intermediate=kind == "mlp" and eps == 0.2
        )
        by_program = torch.from_numpy(by_program)
        # tighter intermediate bounds may make a line worse for the network: two branches
        for weaker, stronger in [
            (by_intervals, rough),
            (rough, found),
            (by_intervals, by_lines),
            (by_lines, by_program),
            (by_program, found),
        ]:
            assert (weaker <= stronger + 1e-5).all(), (eps, weaker, stronger)
        others = [0, 2]
        assert (by_lines[others] > by_intervals[others] + 1e-4).any()  # they are not all the same
        if eps == 0.02:
            # of a small box lines know nearly all, intervals do not
            lost = (found - by_lines)[others] / (found - by_intervals)[others]
            assert lost.max() < 0.6, lost


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_steps_lie_in_their_intervals(kind):
    """In float32, too, at the image itself: that is what rounding is covered for."""
    model = made(kind, "kaf_silu_base")
    network = network_of(model, SHAPE)
    images = torch.rand(50, *SHAPE)
    for eps in (0.0, 0.1):
        lower, upper = interval.box(images, eps)
        bounds = interval.intervals(network, lower, upper)
        assert len(bounds) == len(network.steps)
        for _ in range(20):
            points = (lower + (upper - lower) * torch.rand_like(lower)).float()
            steps = [points.double()]
            network.walk(steps[0], lambda step, *x: steps.append(step.operation(*x)) or steps[-1])  # noqa: B023
            for value, (center, radius) in zip(steps, bounds, strict=True):
                assert ((value - center).abs() <= radius).all()
            center, radius = bounds[-1]
            assert ((model(points).double() - center).abs() <= radius).all()


def test_float32_leaves_intervals_that_are_not_rounded_outwards():
    """The test above can fail: sums of a thousand terms that cancel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.Linear(64, 8)).requires_grad_(False)
    network, images = network_of(model, (3, 32, 32)), torch.rand(20, 3, 32, 32)
    images[:] = images.round()  # of which each is the only one in its ball
    exact = network.walk((images.double(), torch.zeros_like(images).double()), interval.Exact())
    outside = (model(images).double() - exact[0]).abs() - exact[1]
    assert (outside > 0).double().mean() > 0.5
    center, radius = interval.intervals(network, images.double(), images.double())[-1]
    assert ((model(images).double() - center).abs() <= radius).all() and radius.max() < 0.1


def test_intervals_of_a_relu_network_by_hand():
    model = made("mlp", "relu").double()
    images, labels = torch.rand(5, *SHAPE), torch.tensor([0, 1, 2, 0, 1])
    network = network_of(model, SHAPE)
    lower, upper = interval.box(images, 0.05)
    low, high = lower.flatten(1), upper.flatten(1)
    for layer in (model[1], model[3]):
        positive, negative = layer.weight.clamp(min=0).T, layer.weight.clamp(max=0).T
        low, high = (
            (low @ positive + high @ negative + layer.bias).relu(),
            (high @ positive + low @ negative + layer.bias).relu(),
        )
    weight, bias = model[5].weight, model[5].bias
    expected = torch.empty(5, CLASSES, dtype=torch.float64)
    for n, label in enumerate(labels):
        for j in range(CLASSES):
            difference = weight[label] - weight[j]
            ends = torch.stack([difference * low[n], difference * high[n]])
            expected[n, j] = ends.amin(0).sum() + bias[label] - bias[j]
    found = interval.margins(network, lower, upper, labels)
    assert (found <= expected).all()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


class Pooled(nn.Module):
    """Overlapping windows with padding, an average, and a dense layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.average, self.fc = nn.AvgPool2d(2), nn.Linear(3, CLASSES)

    def forward(self, x):
        return self.fc(self.average(self.pool(self.conv(x)).relu()).flatten(1))


def dropped_by_intervals(model, images, labels, eps):
    """Of Pooled, where no unit can switch: the absolute matrices of its parts, one after another."""
    jacobian = torch.autograd.functional.jacobian
    model, drops = copy.deepcopy(model).double(), []
    for image, label in zip(images.double(), labels, strict=True):
        between = model.conv(image[None]).detach()
        parts = [
            jacobian(model.conv, image[None]),
            jacobian(lambda x: model.pool(x).relu(), between),
            jacobian(lambda x: model.fc(model.average(x).flatten(1)), model.pool(between).relu()),
        ]
        first, chosen, last = (
            part.reshape(before, -1) for part, before in zip(parts, (48, 12, CLASSES), strict=True)
        )
        drops.append(eps * ((rows_of(label) @ last).abs() @ chosen.abs() @ first.abs()).sum(1))
    return torch.stack(drops)


@pytest.mark.parametrize("make", [lambda: made("residual", "relu"), lambda: Pooled().eval()])
def test_where_no_unit_can_switch_crown_is_exact(make):
    r"""It is linear there: the least margin is the image's less :math:`\epsilon \|\nabla\|_1`."""
    torch.manual_seed(3)
    model, eps = make(), 5e-4
    network = network_of(model, SHAPE)
    images, labels = 0.1 + 0.8 * torch.rand(20, *SHAPE), torch.arange(20) % CLASSES
    lower, upper = interval.box(images, eps)
    linear = torch.ones(20, dtype=torch.bool)
    for lines in crown.Relaxed(network, lower, upper).lines.values():
        if isinstance(lines, crown.Lines):
            linear &= ((lines.lower_slope - lines.upper_slope).abs() < 1e-9).flatten(1).all(1)
        else:
            linear &= (lines.sure == 1).flatten(1).all(1)
    assert linear.sum() >= 4
    points = images.double().requires_grad_()
    margins = (network(points)[:, None] * torch.stack([rows_of(label) for label in labels])).sum(2)
    drops = []
    for j in range(CLASSES):
        (gradient,) = torch.autograd.grad(margins[:, j].sum(), points, retain_graph=True)
        drops.append(eps * gradient.flatten(1).abs().sum(1))
    drop, margins = torch.stack(drops, 1), margins.detach()
    lost = (margins - drop - crown.margins(network, lower, upper, labels))[linear]
    # what covers rounding is lost
    assert lost.min() > -1e-12 and (lost <= 0.1 * drop[linear] + 1e-4).all()
    by_intervals = interval.margins(network, lower, upper, labels)
    if isinstance(model, Pooled):  # nothing much cancels
        dropped = dropped_by_intervals(model, images, labels, eps)
        assert (dropped >= drop - 1e-12)[linear].all() and dropped[linear].mean() > 1.02 * drop[linear].mean()
        torch.testing.assert_close((margins - by_intervals)[linear], dropped[linear], rtol=1e-3, atol=5e-6)
    else:
        assert (margins - drop - by_intervals)[linear].mean() > 0.3 * drop[linear].mean()


def test_maximum_pooling_is_sound():
    torch.manual_seed(0)
    network = network_of(Pooled().eval(), SHAPE)
    lower, upper = interval.box(torch.rand(1, *SHAPE), 0.15)
    found = searched(network, lower, upper, 1)
    by_intervals = interval.margins(network, lower, upper, torch.tensor([1]))[0]
    by_lines = crown.margins(network, lower, upper, torch.tensor([1]))[0]
    assert (by_intervals <= by_lines + 1e-9).all() and (by_lines <= found + 1e-9).all()
    with pytest.raises(ValueError, match="pool: no linear program is known"):
        linear_program.lower_bounds(network, lower, upper, rows_of(1))


def test_maxmin_has_intervals_but_no_lines():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), create_activation("maxmin", 6), nn.Linear(6, CLASSES)
    )
    network = network_of(model, SHAPE)
    lower, upper = interval.box(torch.rand(1, *SHAPE), 0.1)
    found = interval.margins(network, lower, upper, torch.tensor([1]))[0]
    least = searched(network, lower, upper, 1)
    assert (found <= least + 1e-9).all() and (least - found).max() < 1
    with pytest.raises(ValueError, match=r"model: 2: .*MaxMin"):
        crown.margins(network, lower, upper, torch.tensor([1]))


def test_neither_batch_nor_memory_changes_the_bounds():
    network = network_of(made("residual", "swish"), SHAPE)
    images, labels = torch.rand(3, *SHAPE), torch.tensor([2, 0, 1])
    eps = torch.tensor([0.01, 0.05, 0.1])
    together = crown.margins(network, *interval.box(images, eps), labels)
    for n in range(3):
        lower, upper = interval.box(images[n : n + 1], eps[n])
        alone = crown.margins(network, lower, upper, labels[n : n + 1], memory=8 * 32 * 5)
        torch.testing.assert_close(alone[0], together[n], rtol=1e-9, atol=1e-9)
    assert (together.gather(1, labels[:, None]) == 0).all()


def test_the_semidefinite_program():
    """Sound, and better than intervals, on a network of ReLUs."""
    pytest.importorskip("cvxpy")
    from kafnets.certification import semidefinite

    network = network_of(made("mlp", "relu"), SHAPE)
    lower, upper = interval.box(torch.rand(1, *SHAPE), 0.1)
    found = searched(network, lower, upper, 1)
    rows = rows_of(1)[[0, 2]]
    bounds = torch.from_numpy(semidefinite.lower_bounds(network, lower, upper, rows))
    by_intervals = interval.margins(network, lower, upper, torch.tensor([1]))[0][[0, 2]]
    assert (bounds <= found[[0, 2]] + 1e-4).all() and (bounds > by_intervals + 1e-3).all()


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("name", ["relu", "kaf"])
def test_no_attack_breaks_a_certified_image(method, name):
    model = made("residual", name, seed=4)
    images = torch.rand(6, *SHAPE)
    labels = model(images).argmax(1)
    labels[-1] = (labels[-1] + 1) % CLASSES
    certificate = create_certificate(method, model, SHAPE, 4, {"eps": "51/255", "steps": 6})
    found = certificate(images, labels, list(range(6)))
    assert torch.equal(found.predictions, model(images).argmax(1))
    assert found.radii[-1] == 0 and (found.radii[:-1] > 0).sum() >= 4
    broken = 0
    for n, radius in enumerate(found.radii[:-1].tolist()):
        if radius:
            given = {"step": radius / 4, "iterations": 15, "restarts": 2, "loss": "margin"}
            attacked = images[n : n + 1], labels[n : n + 1]
            assert pgd(model, *attacked, eps=radius, **given).robust.all()
            broken += not pgd(model, *attacked, eps=1.0, **{**given, "step": 0.2}).robust.all()
    assert broken >= 2  # the attack finds something where there is something


def test_crown_certifies_larger_radii_than_intervals():
    model = made("residual", "kaf_silu_base", seed=4)
    images = torch.rand(5, *SHAPE)
    labels = model(images).argmax(1)
    radii = [
        create_certificate(method, model, SHAPE, 4, {"eps": "51/255", "steps": 6, **more})(
            images, labels, range(5)
        ).radii
        for method, more in [("ibp", {}), ("crown", {"intermediate": "interval"}), ("crown", {})]
    ]
    assert radii[1].mean() > 1.1 * radii[0].mean() > 0 and radii[2].mean() > 1.5 * radii[0].mean()


def test_halving_finds_the_largest_certified_radius():
    truth = torch.tensor([0.0, 0.0009, 0.3, 0.77, 1.0, 5.0], dtype=torch.float64)
    asked = []

    def certified(images, labels, radii):
        asked.append(len(images))
        return radii <= truth[labels]

    found = largest_radii(certified, torch.zeros(6, 1), torch.arange(6), 1.0, 10)
    assert (found <= truth).all() and (truth.clamp(max=1) - found <= 2.0**-10).all()
    assert found.tolist()[:2] == [0, 0] and found.tolist()[4:] == [1, 1]
    assert asked == [6, *[4] * 10]


def test_the_box_of_float32_attacks():
    images = torch.rand(4, *SHAPE)
    lower, upper = interval.box(images, torch.tensor([0.0, 0.1, 0.5, 1.0]))
    for n, eps in enumerate((0.0, 0.1, 0.5, 1.0)):
        for end in ((images[n] - eps).clamp(0, 1), (images[n] + eps).clamp(0, 1)):
            assert (lower[n] <= end).all() and (end <= upper[n]).all()
    assert lower.min() >= 0 and upper.max() <= 1 and (upper[0] - lower[0]).max() < 2e-7


def test_wrong_settings():
    with pytest.raises(ValueError, match="intermediate: must be one of crown, interval, got 'exact'"):
        crown.Relaxed(None, None, None, "exact")
    with pytest.raises(UserError, match="certificate ibp: model: no bounds are known of 1, a Pixel"):
        model = nn.Sequential(nn.Conv2d(1, 3, 4), nn.PixelShuffle(1), nn.Flatten())
        create_certificate("ibp", model, SHAPE, 4, {"eps": "1/255"})

"""Attacks on detectors: gradients and steps against a loop of one image; what only adaptive ones find."""

import copy

import numpy as np
import pytest
import torch
from attack_cases import a_set, small_net
from kafnets.attacks.balls import RandomStarts
from kafnets.attacks.losses import LOSSES
from kafnets.detection.attacks import (
    Point,
    combination,
    combined_pgd,
    orthogonal_pgd,
    selective_pgd,
    static_pgd,
    without_part_along,
)
from kafnets.detection.base import Detector
from kafnets.detection.carlini_wagner import WithExtraClass, cw_detector
from kafnets.detection.confidence import Confidence
from kafnets.detection.metzen import Metzen
from kafnets.registry import DETECTION_ATTACKS
from kafnets.runtime.errors import UserError
from torch import nn

EPS, STEP = 16 / 255, 4 / 255


def metzen(seed=0):
    """A detector on a small network's first convolution, with statistics of its own."""
    net = small_net(seed).eval()
    detector = Metzen(net, torch.rand(1, 3, 16, 16, dtype=torch.float64), layer="2", width=3)
    with torch.no_grad():
        for module in detector.subnetwork:
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv2d):
                module.weight.mul_(3)
    return detector.eval()


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return metzen()


@pytest.fixture(scope="module")
def some(detector):
    return a_set(detector.network, count=10)


def parts(detector, image):
    """Of one image (3, 16, 16): its logits and score, layer by layer, without a hook."""
    net = detector.network
    seen = net[:3](image[None])
    return net[3:](seen)[0], detector.subnetwork(seen).mean()


def by_differences(function, image, direction, h=1e-5):
    return (function(image + h * direction) - function(image - h * direction)) / (2 * h)


def test_gradients_are_those_of_differences(detector, some):
    """Of the cross-entropy, upwards, and of the score, downwards, each image's own."""
    images, labels = some
    point = Point(detector, images, labels, LOSSES["cross_entropy"])
    error, harmless = point.gradients()
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(3, 16, 16, generator=generator, dtype=torch.float64)
    for image, label, up, down in zip(images, labels, error, harmless, strict=True):
        loss = by_differences(lambda x, y=label: -parts(detector, x)[0].log_softmax(0)[y], image, direction)
        score = by_differences(lambda x: parts(detector, x)[1], image, direction)
        torch.testing.assert_close((up * direction).sum(), loss, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close((down * direction).sum(), -score, rtol=1e-5, atol=1e-7)
    fooled = torch.arange(len(images)) % 3 == 0
    followed = Point(detector, images, labels, LOSSES["cross_entropy"]).followed(fooled)
    torch.testing.assert_close(followed, torch.where(fooled[:, None, None, None], harmless, error))
    for chosen in (torch.zeros_like(fooled), torch.ones_like(fooled)):
        found = Point(detector, images, labels, LOSSES["cross_entropy"]).followed(chosen)
        torch.testing.assert_close(found, harmless if chosen[0] else error)


def test_projections_are_orthogonal_image_by_image():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 3, 5, 5, generator=generator, dtype=torch.float64)
    second[4], first[5] = 0, 2 * second[5]
    found = without_part_along(first, second)
    for one, g, h in zip(found, first.numpy(), second.numpy(), strict=True):
        g, h = g.ravel(), h.ravel()
        expected = g - (g @ h) / (h @ h) * h if h.any() else g
        np.testing.assert_allclose(one.numpy().ravel(), expected, atol=1e-12)
        assert abs(one.numpy().ravel() @ h) < 1e-10
    assert found[5].abs().max() < 1e-12 and found[:4].flatten(1).norm(dim=1).min() > 1
    # not of the batch as a whole: there each image still has a part along its own
    whole = first - (first * second).sum() / second.square().sum() * second
    assert (whole[0] * second[0]).sum().abs() > 0.1


def reference(detector, image, label, start, direction, steps):
    """The attack on one image, as the papers write it: a misclassified point's lowest score, and where."""
    best, where, x = np.inf, None, start.clone()
    for k in range(steps + 1):
        x = x.clone().requires_grad_()
        logits, score = parts(detector, x)
        if logits.argmax() != label and score < best:
            best, where = score.item(), x.detach().clone()
        if k == steps:
            return best, where, x.detach()
        others = torch.cat([logits[:label], logits[label + 1 :]])
        fooled = others.max() - logits[label] > 0.05
        (up,) = torch.autograd.grad(-logits.log_softmax(0)[label], x, retain_graph=True)
        (down,) = torch.autograd.grad(-score, x)
        x = x.detach() + STEP * direction(up, down, fooled)
        x = torch.maximum(torch.minimum(x, image + EPS), image - EPS).clamp(0, 1)
    return None


def selective(up, down, fooled):
    return (down if fooled else up).sign()


def orthogonal(up, down, fooled):
    g, h = (down, up) if fooled else (up, down)
    return (g - (g * h).sum() / (h * h).sum() * h).sign()


def weighted(s):
    return lambda up, down, fooled: (1 - s) * up.sign() + s * down.sign()


@pytest.mark.parametrize(
    ("attack", "rules", "extra"),
    [
        (selective_pgd, [selective], {}),
        (orthogonal_pgd, [orthogonal], {}),
        (combined_pgd, [weighted(0.3), weighted(0.7)], {"weights": [0.3, 0.7]}),
    ],
)
def test_an_attack_is_its_loop_of_one_image(detector, some, attack, rules, extra):
    """The batch size changes nothing; of all misclassified points the one of the lowest score is kept."""
    images, labels = some
    ball = {"eps": EPS, "step": STEP, "iterations": 6, "restarts": 2, "seed": 4, **extra}
    result = attack(detector, images, labels, batch_size=4, **ball)
    starts = RandomStarts(images, EPS, 4)
    starts = [starts[0], starts[1]]
    found = 0
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        runs = [reference(detector, image, label, start[row], rule, 6) for start in starts for rule in rules]
        _, where, _ = min(runs, key=lambda run: run[0])
        expected = runs[-1][2] if where is None else where
        torch.testing.assert_close(result.adversarial[row], expected, rtol=0, atol=1e-12)
        found += where is not None
        right = parts(detector, image)[0].argmax() == label
        assert result.clean[row] == right and result.robust[row] == (right and where is None)
    assert found >= 3
    assert (result.adversarial - images).abs().max() <= EPS + 1e-12
    assert result.queries == 10 + 10 * 7 * 2 * len(rules)
    whole = attack(detector, images, labels, **ball)
    torch.testing.assert_close(whole.adversarial, result.adversarial, rtol=0, atol=1e-12)


def test_a_network_is_left_as_it_was(detector, some):
    images, labels = some
    before = copy.deepcopy(detector.state_dict())
    detector.train()
    orthogonal_pgd(detector, images[:2], labels[:2], eps=EPS, step=STEP, iterations=1)
    assert detector.subnetwork.training and not detector.network.training
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert all(torch.equal(one, before[name]) for name, one in detector.state_dict().items())
    detector.eval()


class Half(Detector):
    """Watches the first half of the pixels, on which the network looks too."""

    def features_of(self, logits, seen):
        return logits

    def look(self, images):
        flat = images.flatten(1)
        return self.network(images), 2 * flat[:, : flat.shape[1] // 2].sum(1)


class Sum(nn.Module):
    """Two classes: whether the pixels' sum exceeds a bound."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def forward(self, images):
        total = images.flatten(1).sum(1) - self.bound
        return torch.stack([-total, total], 1) / 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_detector_that_catches_static_pgd_and_not_the_orthogonal_one(norm):
    """Both gradients share the first half of the pixels: the second half alone is enough to fool the network.

    The sum of 32 pixels of 0.5 is 16; beyond 16.5 the network is wrong. Half of them, moved by 16/255, are.
    """
    images, labels = torch.full((3, 2, 4, 4), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    eps = EPS if norm == "linf" else EPS * 32**0.5
    detector, threshold = Half(Sum(16.5)), 16.2  # the score is 16 as they are
    ball = {"eps": eps, "step": eps / 8, "iterations": 60, "norm": norm}
    static = static_pgd(detector.network, images, labels, **ball)
    assert not static.robust.any() and static.clean.all()
    assert (detector(static.adversarial) > threshold).all()
    adaptive = orthogonal_pgd(detector, images, labels, **ball)
    assert not adaptive.robust.any() and (detector(adaptive.adversarial) < threshold).all()
    assert (detector.network(adaptive.adversarial).argmax(1) == 1).all()
    # along the network's gradient alone the score rises with it
    step, weight = ball.pop("step"), [0.0]
    blind = combined_pgd(detector, images, labels, step=step, weights=weight, **ball)
    assert (detector(blind.adversarial) > detector(adaptive.adversarial)).all()


def test_the_combination_takes_a_weight_for_each_image():
    first, second = torch.randn(2, 3, 1, 2, 2)
    weights = torch.tensor([0.0, 0.25, 1.0])
    found = combination(first, second, weights, "linf")
    for row, weight in enumerate(weights):
        torch.testing.assert_close(found[row], (1 - weight) * first[row].sign() + weight * second[row].sign())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": []}, "weights: expected a list"),
        ({"weights": [1.5]}, "weights: expected a number"),
        ({"eps": -1.0}, "eps: "),
        ({"loss": "hinge"}, "loss: "),
        ({"restarts": 0}, "restarts: "),
    ],
)
def test_wrong_arguments_are_named(detector, some, change, message):
    arguments = {"eps": EPS, "step": STEP, "iterations": 1, **change}
    with pytest.raises(ValueError, match=message):
        combined_pgd(detector, *some, **arguments)


def test_what_is_attacked_is_a_detector_in_full_precision(detector, some):
    images, labels = some
    with pytest.raises(TypeError, match="detector: "):
        selective_pgd(detector.network, images, labels, eps=EPS, step=STEP, iterations=1)
    with pytest.raises(UserError, match="float16"):
        selective_pgd(detector, images.half(), labels, eps=EPS, step=STEP, iterations=1)


def test_every_attack_of_the_registry_can_be_called(detector):
    """With no images at all: each takes what the judge gives it."""
    detector = copy.deepcopy(detector).float()
    images, labels = torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.int64)
    given = {"eps": EPS, "step": STEP, "iterations": 1}
    for entry in DETECTION_ATTACKS.values():
        arguments = {name: value for name, value in given.items() if name in entry.schemas()}
        attacked = {"threshold": 0.0} if entry.adaptive else {}
        model = detector if entry.adaptive else detector.network
        result = entry.load()(
            model, images, labels, batch_size=3, seed=0, progress=None, **arguments, **attacked
        )
        assert len(result.adversarial) == 0


# -- Carlini and Wagner's


def test_the_extra_class_is_answered_where_the_score_exceeds_the_threshold(detector, some):
    images, _ = some
    with torch.no_grad():
        logits, scores = detector.look(images)
        detector.network[7].bias -= 100  # all logits are negative then
        try:
            answers = WithExtraClass(detector, scores.median().item())(images)
        finally:
            detector.network[7].bias += 100
    rejected = scores > scores.median()
    assert 0 < rejected.sum() < len(images)
    assert torch.equal(answers.argmax(1) == 5, rejected)
    # the others keep their order
    assert torch.equal(answers[:, :5].argsort(1), logits.argsort(1))
    largest = (logits - logits.amin(1, keepdim=True)).amax(1)
    torch.testing.assert_close(answers[:, 5], (scores - scores.median() + 1) * largest)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-7)])
def test_without_a_detector_it_is_the_attack_of_another_library(detector, some, dtype, tolerance):
    """Of a threshold that accepts everything: the very images of foolbox's Carlini and Wagner.

    Only what is wrong as it is differs: there foolbox returns the image as its arctanh and tanh leave it. In
    float64 foolbox keeps its weights in float32, which is what the tolerance is for.
    """
    foolbox = pytest.importorskip("foolbox")
    net, (images, labels) = copy.deepcopy(detector.network).to(dtype), some
    images = images.to(dtype)
    with torch.no_grad():
        right = net(images).argmax(1) == labels
    settings = {"iterations": 30, "search_steps": 5, "learning_rate": 0.1}
    ours = cw_detector(Confidence(net), images, labels, threshold=1e6, **settings)
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        steps=30, binary_search_steps=5, stepsize=0.1, confidence=0.0, abort_early=False
    )
    wrapped = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    theirs = attack(wrapped, images, foolbox.criteria.Misclassification(labels), epsilons=None)[1]
    with torch.no_grad():
        found = net(theirs).argmax(1) != labels  # theirs is black where it found nothing
    assert torch.equal(ours.distances.isfinite(), found)
    both = found & right
    assert both.sum() >= 3 and (~right).sum() >= 2 and (~found).sum() >= 2
    torch.testing.assert_close(ours.adversarial[both], theirs[both], rtol=0, atol=tolerance)
    expected = (theirs - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(ours.distances[both], expected[both], rtol=tolerance, atol=0)
    assert not ours.distances[~right].any() and expected[~right].max() < 2e-5


def test_the_search_starts_where_nothing_pulls():
    """The first step is along the network's gradient alone.

    Adam's first step has the learning rate's length whatever the gradient's, so a pull towards the image, a
    rounding away, would move every pixel that the network does not look at.
    """
    images = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[0, 0, 0, 0] = 0.5
    ours = cw_detector(
        Confidence(First(0.51)),
        images,
        torch.zeros(1, dtype=torch.int64),
        **{"threshold": 1e6, "iterations": 2, "search_steps": 1, "learning_rate": 0.1},
    )
    moved = (ours.adversarial - images).abs().flatten()
    assert ours.distances.isfinite() and moved[0] > 0.01 and moved[1:].max() < 1e-6


class First(nn.Module):
    """Two classes: whether the first pixel exceeds a bound."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def forward(self, images):
        above = images.flatten(1)[:, 0] - self.bound
        return torch.stack([-above, above], 1)


def test_what_it_finds_is_misclassified_and_accepted(detector, some):
    images, labels = some
    with torch.no_grad():
        _, scores = detector.look(images)
    threshold = scores.quantile(0.5).item()  # half of the images are rejected as they are
    settings = {"iterations": 40, "search_steps": 4, "learning_rate": 0.2}
    result = cw_detector(detector, images, labels, threshold=threshold, batch_size=4, **settings)
    found = result.distances.isfinite()
    assert found.sum() >= 4
    with torch.no_grad():
        logits, after = detector.look(result.adversarial)
    evading = (logits.argmax(1) != labels) & (after <= threshold)
    assert evading[found].all() and not evading[~found].any()
    lengths = (result.adversarial - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distances[found], lengths[found])
    assert torch.equal(result.adversarial[~found], images[~found]) and torch.equal(result.robust, ~found)
    # a radius makes a verdict of the distances
    radius = result.distances[found].median().item()
    within = cw_detector(detector, images, labels, threshold=threshold, eps=radius, **settings)
    assert torch.equal(within.robust, ~(result.distances <= radius))

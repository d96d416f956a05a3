"""What people bring to attacks: labels, images, networks and numbers of every kind, and what comes back."""

import copy
import inspect
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from attack_cases import EPS, STEP, a_set, small_net
from kafnets import attacks
from kafnets.attacks import auto_attack as standard
from kafnets.attacks import pgd
from kafnets.attacks.arguments import HALVES
from kafnets.attacks.balls import into_ball
from kafnets.registry import ATTACKS
from torch import nn
from torch.nn import functional

BALL = {"eps": EPS / 2}
STEPS = {**BALL, "step": STEP, "iterations": 3}
SETTINGS = {
    "clean": {},
    "fgsm": BALL,
    "pgd": STEPS,
    "thesis_pgd": STEPS,
    "noise": {**BALL, "samples": 3},
    "transfer": STEPS,
    "adaptive_pgd": {**STEPS, "loss": "margin"},
    "apgd_ce": {**BALL, "iterations": 3},
    "apgd_t": {**BALL, "iterations": 3},
    "fab_t": {**BALL, "iterations": 3},
    "square": {**BALL, "queries": 5},
    "cw": {"eps": 0.5, "iterations": 5, "search_steps": 2},
    "deepfool": {"eps": 0.5, "iterations": 10},
    "fmn": {**BALL, "iterations": 5},
}
# the four of AutoAttack share one body with it, which takes minutes
assert {*SETTINGS, "autoattack"} == set(ATTACKS)
EVERY = pytest.mark.parametrize("name", SETTINGS)


def run(name, net, images, labels, **changed):
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    sources = {"sources": [copy.deepcopy(net)]} if name == "transfer" else {}
    return getattr(attacks, name)(net, images, labels, **{**sources, **SETTINGS[name], **changed})


def case(dtype=torch.float32, count=8):
    net = small_net(dtype=torch.float32)
    images, labels = a_set(net, count=count)
    return net.to(dtype), images.to(dtype), labels


def same(result, expected):
    assert torch.equal(result.robust, expected.robust) and torch.equal(result.clean, expected.clean)
    torch.testing.assert_close(result.adversarial, expected.adversarial, atol=1e-6, rtol=0)
    assert result.queries == expected.queries and result.gradients == expected.gradients
    assert not result.adversarial.requires_grad


@EVERY
def test_labels_of_any_integer_type_are_the_same_labels(name):
    net, images, labels = case()
    expected = run(name, net, images, labels)
    assert expected.clean.any() and not expected.clean.all()
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16):
        same(run(name, net, images, labels.to(dtype)), expected)


def in_inference_mode(images):
    with torch.inference_mode():
        return images.clone()


FORMS = {
    "leaf with gradient": lambda images: images.clone().requires_grad_(),
    "with a graph": lambda images: images.clone().requires_grad_() * 1,
    "parameter": lambda images: nn.Parameter(images.clone()),
    "made in inference mode": in_inference_mode,
    "every other pixel": lambda images: images.repeat_interleave(2, 3)[..., ::2],
    "batch last": lambda images: images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@EVERY
def test_images_of_any_form_are_the_same_images(name):
    net, images, labels = case(count=5)
    expected = run(name, net, images, labels)
    for make in FORMS.values():
        given = make(images)
        same(run(name, net, given, labels), expected)
        assert torch.equal(given, images) and not (given.is_leaf and given.grad is not None)


@EVERY
def test_no_image_one_image_and_none_classified_rightly(name):
    net, images, labels = case(count=4)
    none = run(name, net, images[:0], labels[:0])
    assert none.adversarial.shape == images[:0].shape and none.robust.shape == none.clean.shape == (0,)
    assert none.queries == 0
    one = run(name, net, images[:1], labels[:1])
    assert one.adversarial.shape == (1, 3, 16, 16) and one.robust.shape == (1,)
    repeated = run(name, net, images[:1].expand(3, -1, -1, -1), labels[:1].expand(3))
    assert repeated.adversarial.shape == (3, 3, 16, 16)
    with torch.no_grad():
        wrong = net.eval()(images).argmin(1)
    calls = []
    result = run(name, net, images, wrong, progress=lambda *figures: calls.append(figures))
    assert not result.clean.any() and (name == "thesis_pgd" or not result.robust.any())
    assert all(done > 0 for done, _, _ in calls), "a bar divides by it"


@dataclass
class Output:
    logits: torch.Tensor


class Wrapped(nn.Module):
    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, images):
        return self.function(self.net, images)


FOREIGN = {
    "returned a tuple; wrap it": lambda net, images: (net(images), None),
    "returned a list; wrap it": lambda net, images: [net(images)],
    "returned a dict; wrap it": lambda net, images: {"logits": net(images)},
    "returned a Output; wrap it": lambda net, images: Output(net(images)),
    "returned a NoneType; wrap it": lambda net, images: None,
    r"returned the shape \(6,\) for 6 images": lambda net, images: net(images)[:, 0],
    r"returned the shape \(6, 5, 1\) for 6 images": lambda net, images: net(images)[..., None],
    r"returned the shape \(1, 5\) for 6 images": lambda net, images: net(images).mean(0, keepdim=True),
    "returned torch.int64": lambda net, images: net(images).argmax(1, keepdim=True),
    "has one output": lambda net, images: net(images)[:, :1],
    "changes its input in place": lambda net, images: net(images.sub_(0.01)),
}


@EVERY
def test_a_network_that_does_not_return_logits_is_refused_in_one_line(name):
    net, images, labels = case(count=6)
    for words, function in FOREIGN.items():
        sources = {"sources": [net]} if name == "transfer" else {}
        with pytest.raises(ValueError, match=rf"^model: {words}") as raised:
            run(name, Wrapped(net, function), images.clone(), 0 * labels, **sources)
        assert "\n" not in str(raised.value)


@EVERY
def test_logits_of_another_type_than_the_images(name):
    net, images, labels = case()
    expected = run(name, net, images, labels)
    result = run(name, Wrapped(net, lambda net, images: net(images).double()), images, labels)
    assert (result.robust != expected.robust).sum() <= 1  # losses in float64 round differently
    assert torch.equal(result.clean, expected.clean)


@EVERY
def test_images_of_another_type_than_the_weights_are_named(name):
    net, images, labels = case(count=4)
    for wrong in (images.double(), images.half(), images.bfloat16()):
        with pytest.raises(ValueError, match=r"^images: ") as raised:
            run(name, net, wrong, labels)
        message = str(raised.value)
        assert str(wrong.dtype) in message and "float32" in message and "\n" not in message
    with pytest.raises(ValueError, match=r"^images: .*torch.uint8.*255"):
        run(name, net, (255 * images).byte(), labels)
    with pytest.raises(ValueError, match=r"^labels: .*images\[None\]"):
        run(name, net, images[0], labels[0])


def test_a_failure_of_the_network_itself_is_not_put_down_to_the_images():
    net, images, labels = case(count=4)
    with pytest.raises(RuntimeError, match="channels"):
        pgd(net, images[:, :2], labels, **STEPS)


GRADIENT = sorted(set(SETTINGS) - {"clean", "noise", "square", "transfer"})


@pytest.mark.parametrize("name", GRADIENT)
def test_a_network_that_cuts_the_gradient_off_is_refused(name):
    net, images, labels = case(count=4)
    with pytest.raises(ValueError, match=r"^model: its outputs have no gradient"):
        run(name, Wrapped(net, lambda net, images: net(images.detach())), images, labels)


@EVERY
def test_numbers_of_numpy_and_of_torch_are_numbers(name):
    net, images, labels = case(count=5)
    expected = run(name, net, images, labels, batch_size=3, seed=2)
    for real, whole in ((np.float64, np.int32), (torch.tensor, torch.tensor), (np.array, np.array)):
        kinds = {float: lambda v, real=real: real(np.float64(v)), int: whole, str: str}
        changed = {key: kinds[type(value)](value) for key, value in SETTINGS[name].items()}
        same(run(name, net, images, labels, batch_size=whole(3), seed=whole(2), **changed), expected)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "clean"])
@pytest.mark.parametrize("eps", [np.float32("nan"), np.bool_(True), torch.tensor([0.1]), np.float64(-1), 1j])
def test_what_is_no_radius_is_refused(name, eps):
    net, images, labels = case(count=2)
    with pytest.raises(ValueError, match=r"^eps: "):
        run(name, net, images, labels, eps=eps)


def test_an_endless_radius_is_refused():
    net, images, labels = case(count=2)
    for name, norm in (("pgd", "l2"), ("fmn", "linf")):
        with pytest.raises(ValueError, match=r"^eps: expected a finite number"):
            run(name, net, images, labels, eps=float("inf"), norm=norm)


def test_sources_that_are_none_are_named():
    net, images, labels = case(count=4)
    for name in ("transfer", "adaptive_pgd"):
        for wrong in (net, "net.safetensors", 3, None):
            with pytest.raises(ValueError, match=r"^sources: expected"):
                run(name, net, images, labels, sources=wrong)
        two = Wrapped(net, lambda net, images: (net(images), None))
        with pytest.raises(ValueError, match=r"^sources: model: returned a tuple"):
            run(name, net, images, labels, sources=[two])
        run(name, net, images, labels, sources=iter([net]))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (12, 12), (24, 24), (4, 9), (12, 30)])
def test_square_in_the_l2_norm_says_which_sizes_it_cannot_do(size):
    pytest.importorskip("pyautoattack")
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], 5))
    images, labels = torch.rand(4, 3, *size), torch.zeros(4, dtype=torch.long)
    for attack in (standard.square, standard.autoattack):
        with pytest.raises(ValueError, match=rf"^images: Square .* {size[0]} x {size[1]} pixels"):
            attack(net, images, labels, eps=0.5, norm="l2")
    standard.square(net, images, labels, eps=0.1, queries=3)


@pytest.mark.parametrize("size", [(5, 5), (9, 4), (13, 13), (28, 28), (15, 2)])
def test_square_in_the_l2_norm_does_the_others(size):
    pytest.importorskip("pyautoattack")
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], 5))
    images = torch.rand(4, 3, *size)
    result = standard.square(net, images, net(images).argmax(1), eps=0.5, norm="l2", queries=5)
    assert result.clean.all()


BALLS = [
    *((name, "linf") for name in ("fgsm", "pgd", "thesis_pgd", "adaptive_pgd", "transfer", "noise", "fmn")),
    *((name, "l2") for name in ("pgd", "adaptive_pgd", "transfer", "noise", "fmn", "cw", "deepfool")),
    ("deepfool", "linf"),
]


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name, norm", BALLS)
def test_perturbed_images_lie_in_the_ball(name, norm, dtype):
    """Halves in the ball as it is; of float32 and float64 the bounds are rounded once."""
    net, images, labels = case(dtype, count=16)
    wanted = {"norm": norm, "eps": 0.5, "step": 0.2} if norm == "l2" else {"norm": norm}
    if (name, norm) == ("deepfool", "linf"):
        wanted["eps"] = 0.05
    known = inspect.signature(getattr(attacks, name)).parameters
    changed = {key: value for key, value in wanted.items() if key in known and (name, key) != ("fmn", "step")}
    eps = {**SETTINGS[name], **changed}["eps"]
    result = run(name, net, images, labels, **changed)
    offsets = (result.adversarial.double() - images.double()).flatten(1)
    reached = offsets.norm(dim=1, p=torch.inf if norm == "linf" else 2).max().item()
    unit = 0 if dtype in HALVES else torch.finfo(dtype).eps / 4  # half the distance of two numbers below 1
    assert reached <= eps + unit * (1 if norm == "linf" else 1 + offsets.shape[1] ** 0.5)
    assert reached > 0.9 * eps or result.distances is not None
    assert result.adversarial.dtype is dtype
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    with torch.no_grad():
        fooled = net.eval()(result.adversarial).argmax(1) != labels
    assert fooled[~result.robust].all(), "found what fools it, and returned something else"
    if result.distances is not None:
        found = ~result.robust
        own = offsets.norm(dim=1, p=torch.inf if norm == "linf" else 2)
        torch.testing.assert_close(result.distances[found].double(), own[found], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_halves_are_rounded_no_farther_than_needed(norm, dtype):
    """Every center that there is, and radii that are numbers of the type, and next to one."""
    bits = torch.arange(torch.ones((), dtype=dtype).view(torch.int16).item() + 1, dtype=torch.int16)
    centers = bits.view(dtype)[:, None]
    for eps in (0.0, 2.0**-5, 2.0**-5 - 1e-12, 8 / 255, 1e-4, 0.3, 1.0):
        for side in (-1, 1):
            points = centers.float() + side * 1.5 * eps
            found = into_ball(points, centers, eps, norm)
            offset = (found.double() - centers.double()).abs()
            assert found.dtype is dtype and (offset <= eps).all() and not found.signbit().any()
            farther = torch.nextafter(found, torch.full_like(found, float(side > 0)))
            inside = (farther.double() - centers.double()).abs() <= eps
            # in L2 the length of an offset is itself rounded
            assert (farther == found)[inside].all() or norm == "l2"
    assert torch.equal(into_ball(centers, centers, 0.1, norm), centers)


def test_small_steps_are_not_lost_in_half_precision():
    """Steps of less than half the distance of two numbers above 0.5 add up as they do in float32."""
    net, images, labels = case(count=12)
    images = (0.6 + 0.3 * images).bfloat16().float()
    for norm, eps, step in (("linf", 4 / 255, 0.3 / 255), ("l2", 0.5, 0.03)):
        settings = {"eps": eps, "step": step, "iterations": 20, "norm": norm, "early_stop": False}
        moved = []
        for dtype in (torch.float32, *HALVES):
            given = images.to(dtype)
            result = pgd(copy.deepcopy(net).to(dtype), given, labels, starts=given[None], **settings)
            moved.append((result.adversarial.float() - images).flatten(1).norm(dim=1).mean().item())
        exact, *rounded = moved
        assert all(length > 0.75 * exact for length in rounded), moved


def test_the_result_of_images_with_gradient_holds_no_graph():
    net, images, labels = case()
    given = images.clone().requires_grad_()
    result = pgd(net, given, labels, **STEPS)
    assert not any(tensor.requires_grad for tensor in (result.adversarial, result.robust, result.clean))
    functional.cross_entropy(net(given), labels).backward()  # the caller's own graph is whole
    assert given.grad is not None

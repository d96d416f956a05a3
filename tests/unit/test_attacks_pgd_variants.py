"""The losses, norms, targets and momentum of PGD, against an independent library and literal loops."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from attack_cases import EPS, STEP, a_set, check_witnesses, random_starts, small_net
from kafnets.attacks import pgd, slots, steps
from kafnets.attacks.balls import RandomStarts
from kafnets.attacks.losses import LOSSES
from kafnets.runtime.graphs import StepWithGraph
from torch import nn
from torch.nn import functional


def test_dlr_is_the_librarys():
    torchattacks = pytest.importorskip("torchattacks")
    logits = torch.randn(20, 7, dtype=torch.float64)
    labels = torch.randint(0, 7, (20,))
    theirs = torchattacks.APGD(small_net().eval()).dlr_loss(logits, labels)
    torch.testing.assert_close(LOSSES["dlr"](logits, labels, None), theirs.sum())
    targeted = torchattacks.APGDT(small_net().eval())
    goals = (labels + 1) % 7
    theirs = targeted.dlr_loss_targeted(logits, labels, goals)
    torch.testing.assert_close(LOSSES["dlr"](logits, labels, goals), theirs.sum())


def test_margin_and_targeted_losses_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])
    labels, goals = torch.tensor([0, 2]), torch.tensor([1, 0])
    assert LOSSES["margin"](logits, labels, None) == (2 - 3) + (5 + 1)
    assert LOSSES["margin"](logits, labels, goals) == (1 - 3) + (0 + 1)
    expected = -functional.cross_entropy(logits, goals, reduction="sum")
    assert LOSSES["cross_entropy"](logits, labels, goals) == expected


def test_same_images_as_torchattacks_in_the_l2_ball():
    torchattacks = pytest.importorskip("torchattacks")
    net = small_net(dtype=torch.float64).eval()
    images, labels = a_set(net)
    theirs = torchattacks.PGDL2(net, eps=0.8, alpha=0.2, steps=6, random_start=False)(images, labels)
    ours = pgd(
        net, images, labels, eps=0.8, step=0.2, iterations=6, norm="l2", early_stop=False, starts=images[None]
    )
    torch.testing.assert_close(ours.adversarial, theirs, atol=1e-6, rtol=0)
    assert (ours.adversarial - images).flatten(1).norm(dim=1).max() <= 0.8 + 1e-9


def test_same_images_as_torchattacks_with_momentum():
    torchattacks = pytest.importorskip("torchattacks")
    net = small_net(dtype=torch.float64).eval()
    images, labels = a_set(net)
    theirs = torchattacks.MIFGSM(net, eps=EPS, alpha=STEP, steps=6, decay=0.9)(images, labels)
    ours = pgd(
        net,
        images,
        labels,
        eps=EPS,
        step=STEP,
        iterations=6,
        momentum=0.9,
        early_stop=False,
        starts=images[None],
        batch_size=11,
    )
    torch.testing.assert_close(ours.adversarial, theirs, atol=1e-6, rtol=0)


def test_l2_starts_are_uniform_in_the_ball():
    images = torch.full((400, 1, 3, 3), 0.5, dtype=torch.float64)
    offsets = (RandomStarts(images, 0.4, seed=0, norm="l2")[0] - images).flatten(1)
    radii = offsets.norm(dim=1) / 0.4
    assert radii.max() <= 1
    # the share of a ball's volume within radius r is r^9
    assert (radii < 0.5 ** (1 / 9)).double().mean() == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(400))
    assert offsets.mean(0).abs().max() < 0.03


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_multi_targeted_equals_its_literal_form(loss, batch_size):
    net = small_net().eval()
    images, labels = a_set(net)
    starts = random_starts(images, 4)
    result = pgd(
        net,
        images,
        labels,
        eps=EPS,
        step=STEP / 2,
        iterations=4,
        restarts=2,
        targets=2,
        loss=loss,
        starts=starts,
        batch_size=batch_size,
    )
    with torch.no_grad():
        logits = net(images)
    rivals = logits.scatter(1, labels[:, None], -torch.inf).topk(2).indices
    robust = logits.argmax(1) == labels
    for run, start in enumerate(starts):
        x, goals = start, rivals[:, run % 2]
        for iteration in range(5):
            x = x.clone().requires_grad_()
            outputs = net(x)
            robust &= outputs.argmax(1) == labels
            (gradient,) = torch.autograd.grad(LOSSES[loss](outputs, labels, goals), x)
            moved = x.detach() + STEP / 2 * gradient.sign()
            x = (images + (moved - images).clamp(-EPS, EPS)).clamp(0, 1) if iteration < 4 else x.detach()
    assert 0 < robust.sum() < result.clean.sum()
    assert torch.equal(result.robust, robust)
    check_witnesses(net, images, labels, result)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_every_combination_finds_valid_witnesses(norm, loss):
    net = small_net()
    images, labels = a_set(net)
    eps = EPS if norm == "linf" else 1.0
    result = pgd(
        net,
        images,
        labels,
        eps=eps,
        step=eps / 4,
        iterations=5,
        restarts=2,
        loss=loss,
        norm=norm,
        momentum=0.5,
        targets=3,
    )
    assert result.robust.sum() < result.clean.sum()
    check_witnesses(net, images, labels, result, eps=EPS if norm == "linf" else 1.0)
    if norm == "l2":
        assert (result.adversarial - images).flatten(1).norm(dim=1).max() <= eps + 1e-9


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"norm": "l1"}, "norm"),
        ({"targets": 5}, "targets"),
        ({"targets": -1}, "targets"),
        ({"momentum": -1}, "momentum"),
    ],
)
def test_wrong_variants_are_named(arguments, name):
    net = small_net()
    images, labels = a_set(net)
    with pytest.raises(ValueError, match=name):
        pgd(net, images, labels, eps=EPS, step=STEP, iterations=1, **arguments)


@pytest.mark.parametrize("arguments", [{}, {"momentum": 0.9}, {"targets": 2}, {"early_stop": False}])
@pytest.mark.parametrize("batch_size", [7, 48])
def test_closed_slots_that_stay_beside_the_open_ones_change_nothing(monkeypatch, batch_size, arguments):
    """As with a CUDA graph, which no slot can leave: the steps are ordinary ones, on all rows."""
    net = small_net()
    images, labels = a_set(net)
    settings = {"eps": EPS, "step": STEP, "iterations": 5, "restarts": 3, **arguments}
    plain = pgd(net, images, labels, batch_size=batch_size, **settings)
    make, sizes, padded = slots.step_of, [], []

    class Graph(StepWithGraph):
        def __init__(self, step, device, size):
            super().__init__(step, device, size)
            self.graph = True
            sizes.append(size)

        def __call__(self, points, *others):
            assert len(points) == self.size
            padded.append(self.size)
            return self.step(points, *others)

    def always_a_graph(model, rule, device, size, passes):
        return Graph(make(model, rule, device, size, 0), device, size)

    monkeypatch.setattr(slots, "step_of", always_a_graph)
    replayed = pgd(net, images, labels, batch_size=batch_size, **settings)
    assert torch.equal(plain.robust, replayed.robust) and torch.equal(plain.clean, replayed.clean)
    torch.testing.assert_close(plain.adversarial, replayed.adversarial)
    assert (plain.queries, plain.gradients) == (replayed.queries, replayed.gradients)
    assert plain.accuracy_by_iteration == replayed.accuracy_by_iteration
    assert all(2 * smaller <= larger for larger, smaller in pairwise(sizes))
    if arguments.get("early_stop", True):
        assert sum(padded) > plain.gradients  # rows nobody asks about


VARIANTS = [
    {},
    {"momentum": 0.9},
    {"targets": 2},
    {"early_stop": False},
    {"norm": "l2", "eps": 0.8, "step": 0.2},
]


def same_results(one, other):
    assert torch.equal(one.robust, other.robust) and torch.equal(one.clean, other.clean)
    torch.testing.assert_close(one.adversarial, other.adversarial)
    assert (one.queries, one.gradients) == (other.queries, other.gradients)
    assert one.accuracy_by_iteration == other.accuracy_by_iteration


@pytest.mark.parametrize("led", [False, True])
@pytest.mark.parametrize("arguments", VARIANTS)
def test_passes_that_nobody_waits_for_change_nothing(monkeypatch, arguments, led):
    """As on a GPU: jobs run beyond the pass that decides them, restarts begin before the last is judged."""
    net = small_net()
    images, labels = a_set(net)
    settings = {"eps": EPS, "step": STEP, "iterations": 4, "restarts": 3, **arguments}
    settings["surrogate"] = small_net().eval() if led else None
    for batch_size, pace in ((11, (3, 2)), (48, (1, 1))):
        plain = pgd(net, images, labels, batch_size=batch_size, **settings)
        calls = []
        settings["progress"] = lambda *figures, calls=calls: calls.append(figures)
        with monkeypatch.context() as patch:
            patch.setattr(slots, "_pace", lambda device, led, pace=pace: pace)
            same_results(pgd(net, images, labels, batch_size=batch_size, **settings), plain)
        assert calls[-1] == (plain.queries - len(images), 0, plain.robust.double().mean().item())
    assert 0 < plain.robust.sum() < plain.clean.sum()


class Halfway:
    """Keeps the state after so many passes."""

    def __init__(self, passes=-1, state=None):
        self.passes, self.state = passes, state

    def recall(self):
        return self.state

    def note(self, state):
        self.passes -= 1
        if self.passes == 0:
            self.kept = copy.deepcopy(state())


@pytest.mark.parametrize("passes", [1, 9, 20])
def test_an_attack_goes_on_in_the_midst_of_passes_that_nobody_waited_for(monkeypatch, passes):
    net = small_net()
    images, labels = a_set(net)
    settings = {"eps": EPS, "step": STEP, "iterations": 4, "restarts": 3, "batch_size": 11}
    settings["surrogate"] = small_net().eval()
    plain = pgd(net, images, labels, **settings)
    monkeypatch.setattr(slots, "_pace", lambda device, led: (2, 2))
    memory = Halfway(passes)
    same_results(pgd(net, images, labels, **settings, memory=memory), plain)
    same_results(pgd(net, images, labels, **settings, memory=Halfway(state=memory.kept)), plain)


@pytest.mark.parametrize("says_right", [False, True])
def test_what_leads_the_attack_does_not_judge(monkeypatch, says_right):
    """It is asked about every point that the surrogate calls fooled, and about the last ones in any case."""
    net = small_net().eval()
    images, labels = a_set(net)
    settings = {"eps": EPS, "step": STEP, "iterations": 6, "restarts": 2}
    plain = pgd(net, images, labels, early_stop=not says_right, **settings)
    monkeypatch.setattr(steps, "is_correct", lambda logits, labels: torch.full_like(labels == 0, says_right))
    found = pgd(net, images, labels, surrogate=small_net().eval(), **settings)
    check_witnesses(net, images, labels, found)
    assert torch.equal(found.clean, plain.clean) and torch.equal(found.robust, plain.robust)
    assert 0 < found.robust.sum() < found.clean.sum() and not found.stalled.any()
    if not says_right:
        assert found.queries == plain.queries + plain.gradients  # every point was one to ask about


class Blind(nn.Module):
    """No gradient where the mean pixel is below a threshold."""

    def __init__(self, net, threshold):
        super().__init__()
        self.net, self.threshold = net, threshold

    def forward(self, x):
        logits = self.net(x)
        dark = (x.flatten(1).mean(1) < self.threshold)[:, None]
        return torch.where(dark, logits.detach(), logits)


def test_images_without_a_gradient_are_told():
    net = small_net().eval()
    images, labels = a_set(net)
    blind = images.flatten(1).mean(1).median().item()
    found = pgd(net, images, labels, eps=1e-4, step=1e-5, iterations=3, surrogate=Blind(net, blind))
    assert found.robust.sum() > 20
    expected = found.robust & (images.flatten(1).mean(1) < blind)
    assert (found.stalled == expected).float().mean() > 0.95 and 5 < found.stalled.sum() < 30

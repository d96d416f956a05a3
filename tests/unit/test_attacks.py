"""PGD and the thesis protocol against an independent library and against plain loops."""

import copy

import pytest
import torch
from attack_cases import EPS, STEP, a_set, check_witnesses, random_starts, small_net
from kafnets.attacks import clean, fgsm, pgd, thesis_pgd
from torch import nn
from torch.nn import functional


def plain_iterates(net, images, labels, start, iterations, eps=EPS, step=STEP):
    """The textbook loop: every iterate of every image, no shortcut."""
    points = [start]
    for _ in range(iterations):
        x = points[-1].clone().requires_grad_()
        loss = functional.cross_entropy(net(x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        x = x.detach() + step * gradient.sign()
        x = images + (x - images).clamp(-eps, eps)
        points.append(x.clamp(0, 1))
    return points


def plain_pgd(net, images, labels, starts, iterations, early_stop, eps=EPS, step=STEP):
    """Verdicts image by image from all iterates of all restarts."""
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        robust = net(images).argmax(1) == labels
    right_at = None
    for start in starts:
        points = plain_iterates(net, images, labels, start, iterations, eps, step)
        with torch.no_grad():
            right = torch.stack([net(point).argmax(1) == labels for point in points])
        if right_at is None:
            clean_right = robust.clone()
            still = right.long().cumprod(0).bool() if early_stop else right
            right_at = (still & clean_right).double().mean(1).tolist()
        robust &= right.all(0) if early_stop else right[-1]
    return robust, right_at


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("restarts", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 48, 1000])
def test_verdicts_equal_the_plain_loop(early_stop, restarts, batch_size):
    net = small_net()
    images, labels = a_set(net)
    starts = random_starts(images, restarts)
    result = pgd(
        net,
        images,
        labels,
        eps=EPS,
        step=STEP,
        iterations=6,
        restarts=restarts,
        early_stop=early_stop,
        batch_size=batch_size,
        starts=starts,
    )
    robust, right_at = plain_pgd(net, images, labels, starts, 6, early_stop)
    assert 0 < robust.sum() < result.clean.sum() < len(images)  # the case tells something
    assert torch.equal(result.robust, robust)
    assert result.accuracy_by_iteration == pytest.approx(right_at)
    check_witnesses(net, images, labels, result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_starts_do_not_depend_on_the_batch_size(dtype):
    net = small_net(dtype=dtype)
    images, labels = a_set(net)
    settings = dict(eps=EPS, step=STEP, iterations=5, restarts=3, seed=11)
    results = [pgd(net, images, labels, batch_size=size, **settings) for size in (5, 48)]
    assert torch.equal(results[0].robust, results[1].robust)
    torch.testing.assert_close(results[0].adversarial, results[1].adversarial, atol=1e-5, rtol=0)
    again = pgd(net, images, labels, batch_size=48, **settings)
    assert torch.equal(results[1].adversarial, again.adversarial)
    other = pgd(net, images, labels, batch_size=48, **{**settings, "seed": 12})
    assert not torch.equal(other.adversarial, again.adversarial)


def test_default_starts_fill_the_ball_and_are_valid_images():
    images = torch.rand(40, 3, 16, 16)
    net = small_net(dtype=torch.float32)
    result = pgd(
        net, images, torch.zeros(40, dtype=torch.long), eps=EPS, step=0.0, iterations=0, early_stop=False
    )
    offset = result.adversarial - images
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    assert offset.abs().max() <= EPS + 1e-6 and offset.abs().max() > 0.99 * EPS
    inner = (images > EPS) & (images < 1 - EPS)
    assert offset[inner].mean().abs() < 0.01 * EPS
    assert offset[inner].std() == pytest.approx(EPS / 3**0.5, rel=0.02)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU])
def test_same_adversarial_images_as_torchattacks(activation):
    torchattacks = pytest.importorskip("torchattacks")
    net = small_net(activation=activation, dtype=torch.float32).eval()
    images, labels = a_set(net)
    torch.manual_seed(5)
    noise = torch.empty_like(images).uniform_(-EPS, EPS)
    torch.manual_seed(5)  # the library draws the same start from the global generator
    theirs = torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=7, random_start=True)(images, labels)
    ours = pgd(
        net,
        images,
        labels,
        eps=EPS,
        step=STEP,
        iterations=7,
        early_stop=False,
        starts=(images + noise).clamp(0, 1)[None],
    )
    torch.testing.assert_close(ours.adversarial, theirs, atol=1e-6, rtol=0)
    with torch.no_grad():
        assert torch.equal(ours.robust, (net(theirs).argmax(1) == labels) & ours.clean)
    theirs = torchattacks.FGSM(net, eps=EPS)(images, labels)
    torch.testing.assert_close(fgsm(net, images, labels, eps=EPS).adversarial, theirs, atol=1e-6, rtol=0)


def test_same_adversarial_images_as_foolbox():
    foolbox = pytest.importorskip("foolbox")
    net = small_net(dtype=torch.float32).eval()
    images, labels = a_set(net)
    starts = random_starts(images, 1)

    class FixedStart(foolbox.attacks.LinfProjectedGradientDescentAttack):
        def get_random_start(self, x0, epsilon):
            return x0.__class__(starts[0])

    attack = FixedStart(abs_stepsize=STEP, steps=7, random_start=True)
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    theirs = attack.run(model, images, foolbox.criteria.Misclassification(labels), epsilon=EPS)
    ours = pgd(net, images, labels, eps=EPS, step=STEP, iterations=7, early_stop=False, starts=starts)
    torch.testing.assert_close(ours.adversarial, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("early_stop", [True, False])
def test_robust_implies_clean_and_shrinks_with_restarts(early_stop):
    net = small_net()
    images, labels = a_set(net, wrong=0.5)
    previous = torch.ones(len(images), dtype=torch.bool)
    for restarts in (1, 2, 5):
        result = pgd(
            net,
            images,
            labels,
            eps=EPS / 4,
            step=STEP / 4,
            iterations=2,
            restarts=restarts,
            early_stop=early_stop,
        )
        assert not (result.robust & ~result.clean).any()
        assert not (result.robust & ~previous).any()
        previous = result.robust


def test_eps_zero_is_the_clean_verdict():
    net = small_net()
    images, labels = a_set(net)
    result = pgd(net, images, labels, eps=0, step=STEP, iterations=3, restarts=2)
    assert torch.equal(result.robust, result.clean)
    assert torch.equal(result.adversarial, images)
    assert torch.equal(clean(net, images, labels).robust, result.clean)


def test_queries_are_counted():
    net = small_net()
    images, labels = a_set(net)
    passes = []
    handle = net.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    for early_stop in (True, False):
        passes.clear()
        result = pgd(net, images, labels, eps=EPS, step=STEP, iterations=4, restarts=2, early_stop=early_stop)
        assert result.queries == sum(passes)
        assert result.gradients < result.queries
    passes.clear()
    result = thesis_pgd(net, images, labels, eps=EPS, step=STEP, iterations=4, restarts=2)
    handle.remove()
    assert result.queries == sum(passes)
    assert result.gradients == len(images) * 4 * 2


class Failing(nn.Module):
    def __init__(self, net, calls):
        super().__init__()
        self.net, self.calls = net, calls

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise ArithmeticError("on purpose")
        return self.net(x)


@pytest.mark.parametrize("attack", [pgd, thesis_pgd, fgsm, clean])
@pytest.mark.parametrize("calls", [0, 2, 1000])
def test_modes_and_gradients_come_back(attack, calls):
    net = small_net()
    images, labels = a_set(net)
    model = Failing(net, calls).train()
    net[1].eval()  # a mixture, as in fine-tuning with frozen statistics
    net[4].weight.requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    settings = {pgd: dict(step=STEP, iterations=3), thesis_pgd: dict(step=STEP, iterations=3)}.get(attack, {})
    if attack is not clean:
        settings["eps"] = EPS
    try:
        attack(model, images, labels, **settings)
    except ArithmeticError:
        assert calls < 1000
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(
        (parameter.grad is None) == (parameter is not net[0].weight) for parameter in model.parameters()
    )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_runs_where_the_caller_needs_no_gradients(context):
    net = small_net()
    images, labels = a_set(net)
    expected = pgd(net, images, labels, eps=EPS, step=STEP, iterations=3).robust
    with context():
        images, labels = images.clone(), labels.clone()
        assert torch.equal(pgd(net, images, labels, eps=EPS, step=STEP, iterations=3).robust, expected)


def plain_thesis(net, images, labels, starts, iterations):
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        predicted = net(images).argmax(1)
    best, best_rate = None, None
    for start in starts:
        final = plain_iterates(net, images, predicted, start, iterations)[-1]
        with torch.no_grad():
            answers = net(final).argmax(1)
        rate = (answers != predicted).double().mean().item()
        if best_rate is None or rate > best_rate:
            best, best_rate = answers, rate
    return best == labels


@pytest.mark.parametrize("batch_size", [5, 48])
def test_thesis_protocol_equals_its_literal_form(batch_size):
    net = small_net()
    images, labels = a_set(net, wrong=0.4)
    starts = random_starts(images, 4)
    result = thesis_pgd(
        net,
        images,
        labels,
        eps=EPS,
        step=STEP,
        iterations=3,
        restarts=4,
        starts=starts,
        batch_size=batch_size,
    )
    assert torch.equal(result.robust, plain_thesis(net, images, labels, starts, 3))
    assert (result.robust & ~result.clean).any()  # what the protocol gets wrong
    assert torch.equal(result.clean, clean(net, images, labels).clean)
    honest = pgd(net, images, labels, eps=EPS, step=STEP, iterations=3, restarts=4, starts=starts)
    assert honest.robust.sum() < result.robust.sum()


def test_every_image_may_be_decided_at_once_and_the_set_may_be_empty():
    net = small_net()
    images, labels = a_set(net, wrong=0.0)
    settings = dict(eps=EPS, step=STEP, iterations=2, restarts=2)
    wrong = pgd(net, images, (labels + 1) % 5, **settings)
    assert not wrong.robust.any() and wrong.queries == len(images) and wrong.gradients == 0
    for attack in (pgd, thesis_pgd):
        empty = attack(net, images[:0], labels[:0], **settings)
        assert empty.robust.shape == (0,) and empty.adversarial.shape == (0, 3, 16, 16)


def test_outputs_that_are_not_finite_never_count_as_robust():
    class Poisoned(nn.Module):
        def forward(self, x):
            score = x.flatten(1).sum(1)
            return torch.stack([score.log() * float("nan"), score], 1)

    images = torch.rand(6, 3, 4, 4)
    result = pgd(Poisoned(), images, torch.zeros(6, dtype=torch.long), eps=EPS, step=STEP, iterations=2)
    assert not result.robust.any() and not result.clean.any()


def test_progress_ends_with_nothing_left():
    net = small_net()
    images, labels = a_set(net)
    calls = []
    result = pgd(
        net,
        images,
        labels,
        eps=EPS,
        step=STEP,
        iterations=3,
        restarts=2,
        batch_size=9,
        progress=lambda *figures: calls.append(figures),
    )
    assert calls[-1] == (result.queries - len(images), 0, result.robust.double().mean().item())
    assert all(left >= 0 for _, left, _ in calls)
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


WRONG = {
    "labels": [
        None,
        torch.zeros(3, dtype=torch.long),
        torch.zeros(4),
        torch.full((4,), -1),
        torch.full((4,), 5),
    ],
    "images": [
        torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
        torch.full((4, 3, 16, 16), 200.0),
        torch.zeros(4),
        torch.full((4, 3, 16, 16), float("nan")),
    ],
    "eps": [8, -0.1, float("nan"), "8/255", None],
    "step": [-1, float("nan")],
    "iterations": [-1, 2.0],
    "restarts": [0, True],
    "batch_size": [0],
    "loss": ["hinge"],
    "seed": [-1],
    "starts": [torch.zeros(4, 3, 16, 16), torch.zeros(1, 4, 3, 16, 16), torch.full((1, 4, 3, 16, 16), 1.0)],
}


@pytest.mark.parametrize("attack", [pgd, thesis_pgd])
@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_arguments_are_named(attack, name, value):
    net = small_net(dtype=torch.float32)
    arguments = dict(
        images=torch.full((4, 3, 16, 16), 0.5),
        labels=torch.zeros(4, dtype=torch.long),
        eps=EPS,
        step=STEP,
        iterations=1,
    )
    with pytest.raises(ValueError, match=name):
        attack(net, **{**arguments, name: value})

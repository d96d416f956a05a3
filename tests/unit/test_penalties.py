"""The activations' parameters in a training: their optimiser group, clipped gradients, and penalties."""

import copy

import pytest
import torch
from kafnets import create_activation, create_model
from kafnets.activations.chi import chi
from kafnets.config.checks import validate
from kafnets.pipeline import code
from kafnets.registry import ACTIVATIONS, PENALTIES
from kafnets.training import groups, penalties
from kafnets.training.training import Training, parameter_groups

from tests.unit.config_builders import EXPERIMENT, PUBLISHED, SCHEMA, changed, refused
from tests.unit.training_cases import CPU, NOISE, first_batch, same, settings, weights


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def trained(steps=3, activation="kaf", deferred=None, **changes):
    chosen = settings(**changes)
    training = Training({**chosen, "activation": activation}, NOISE, CPU, deferred)
    rows = first_batch(training)
    for _ in range(steps):
        training.step(rows, 0.05)
    return training


def in_one_group(model, l2, activation_rate=1.0):
    """The optimiser's groups without one for the activations: as if they were biases."""
    found = parameter_groups(model, l2)
    kernels = [group for group in found if group["weight_decay"]]
    apart = {id(p) for group in kernels for p in group["params"]}
    rest = [p for p in model.parameters() if id(p) not in apart]
    return [*kernels, {"params": rest, "weight_decay": 0.0, groups.FACTOR: 1.0}]


def test_a_group_of_their_own_changes_no_bit(monkeypatch):
    ours = weights(trained().model)
    assert same(ours, weights(trained(activation_rate=1.0, penalties={}).model))
    assert same(ours, weights(trained(penalties={"tv2": 1.0}).model))  # of other activations
    monkeypatch.setattr("kafnets.training.training.parameter_groups", in_one_group)
    assert same(ours, weights(trained().model))


@pytest.mark.parametrize("deferred", [False, True])
def test_the_rate_of_the_activations(deferred):
    """Without momentum one step is rate times gradient: ten times as far, and as far for all else."""
    start = weights(trained(0).model)
    steps = {
        factor: weights(trained(1, deferred=deferred, momentum=0.0, activation_rate=factor).model)
        for factor in (1.0, 10.0, 0.0)
    }
    for name, before in start.items():
        first, ten, none = (steps[factor][name] - before for factor in (1.0, 10.0, 0.0))
        if name.endswith("alpha"):
            assert first.any() and not none.any()
            torch.testing.assert_close(ten, 10 * first, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(first, ten) and torch.equal(first, none)


def test_a_resumed_training_keeps_the_rates():
    training = trained(2, activation_rate=10.0)
    again = trained(0, activation_rate=10.0)
    state = copy.deepcopy(training.state())
    training.step(first_batch(training), 0.03)
    again.restore(state)
    again.step(first_batch(again), 0.03)
    assert same(weights(training.model), weights(again.model))


def test_weight_decay_is_the_entry_s():
    for name, decay in (("kaf", 0.0), ("prelu", 0.0), ("apl", 0.001), ("pssilu", 0.0005)):
        model = create_model("resnet8", name)
        *_, of_activations, rest = parameter_groups(model, {"conv": 0.1, "dense": 0.1}, 3.0)
        assert of_activations["weight_decay"] == decay == ACTIVATIONS[name].decay
        assert of_activations[groups.FACTOR] == 3.0 and rest[groups.FACTOR] == 1.0
        # shared by the network: once
        assert len(of_activations["params"]) == (2 if name == "pssilu" else 7 * (1 + (name == "apl")))
    every = [p for group in parameter_groups(model, {"conv": 0.1, "dense": 0.1}) for p in group["params"]]
    assert len(every) == len(set(map(id, every))) == len(list(model.parameters()))


def test_a_decay_is_part_of_what_results_depend_on():
    entry = ACTIVATIONS["prelu"]
    other = copy.copy(entry)
    object.__setattr__(other, "decay", 0.1)
    assert code.of_step("train.py", [entry]) != code.of_step("train.py", [other])


def test_the_gradient_of_b_is_clipped():
    training = trained(0, activation="pssilu", momentum=0.0)
    a, b = training.model.stem.act.a, training.model.stem.act.b
    training.penalised = lambda loss: loss + 100 * b.sum() + 100 * a.sum()
    before = a.item(), b.item()
    training.step(first_batch(training), 0.01)
    decay = 0.0005 * before[1]
    assert before[1] - b.item() == pytest.approx(0.01 * (0.1 + decay), rel=1e-4)
    assert before[0] - a.item() > 0.5  # not clipped


# -- penalties


def value(name, *layers):
    return getattr(penalties, name)(list(layers))


@pytest.mark.parametrize("name", ["kaf", "kaf_free", "kaf_elu_base"])
@pytest.mark.parametrize("share", ["channel", "layer"])
def test_slope(name, share):
    layer = create_activation(name, 4, std=0.7, share=share)
    alpha, dictionary, gamma = layer.mixture()
    expected = 0.0
    for c in range(4):
        d = dictionary.expand(4, 20)[c]
        gram = torch.exp(-gamma.expand(4)[c] * (d[:, None] - d) ** 2)
        expected += (alpha[c] @ gram @ alpha[c]).item() / 4
    assert value("slope", layer).item() == pytest.approx(expected, rel=1e-5)
    assert value("slope", layer, layer).item() == pytest.approx(expected, rel=1e-5)  # tied: once
    other = create_activation(name, 4, std=0.7)
    both = expected + value("slope", other).item()
    assert value("slope", layer, other).item() == pytest.approx(both, rel=1e-5)
    (gradient,) = torch.autograd.grad(value("slope", layer), layer.alpha)
    assert gradient.abs().max() > 0


def test_chi():
    layer, other = create_activation("kaf", 4), create_activation("kaf_elu_base", 4, std=0.1)
    expected = sum((chi(one) - 1).mean().item() for one in (layer, other))
    fixed, shared = create_activation("relu", 4), create_activation("maxmin", 4)
    found = value("chi", layer, fixed, other, shared, layer)
    assert found.item() == pytest.approx(expected, rel=1e-6) and found.dtype == torch.float32
    for gradient in torch.autograd.grad(found, [layer.alpha, other.alpha, other.weight]):
        assert gradient.abs().max() > 0
    assert value("chi", fixed, shared).item() == 0


def test_the_others():
    spline = create_activation("linear_spline", 2, knots=5, boundary=2.0)
    with torch.no_grad():
        spline.coefficients.copy_(torch.tensor([[0.0, 1, 0, 1, 0], [0, 1, 2, 3, 4]]))
    assert value("tv2", spline).item() == pytest.approx(6 / 2)
    capped = create_activation("lipschitz_spline", 1, knots=5, boundary=2.0)
    with torch.no_grad():
        capped.coefficients.copy_(torch.tensor([[0.0, 3, 0, 3, 0]]))  # slopes 1, -1, 1, -1
    assert value("tv2", capped).item() == pytest.approx(6, rel=1e-4)
    cubic = create_activation("cubic_spline", 2)
    assert value("saf_start", cubic).item() < 1e-10
    with torch.no_grad():
        cubic.coefficients[0, 3] += 0.5
    assert value("saf_start", cubic).item() == pytest.approx(0.25 / 2, rel=1e-4)
    shifted, fixed = create_activation("pssilu", 2, b=0.2), create_activation("pssilu", 2, learn_b=False)
    assert value("pssilu_b", shifted, fixed).item() == pytest.approx(0.2)
    apl = create_activation("apl", 2)
    assert value("l2", apl).item() == pytest.approx(sum(p.square().sum().item() for p in apl.parameters()))
    assert all(value(name, torch.nn.ReLU()).item() == 0 for name in PENALTIES)


def test_a_training_minimises_them():
    def size(**changes):
        training = trained(5, **changes)
        return value("slope", *(m for m in training.model.modules() if hasattr(m, "squared_norm"))).item()

    assert size(penalties={"slope": 1.0}, momentum=0.0) < 0.9 * size(momentum=0.0)


def test_in_a_configuration():
    training = (*EXPERIMENT, "training")
    for key, value, said in (
        ("penalties", {"slop": 1}, "did you mean slope"),
        ("penalties", {"slope": -1}, "at least 0"),
        ("activation_rate", "ten", "a number"),
    ):
        assert said in refused(changed((*training, key), value))
    validate(changed((*training, "penalties"), dict.fromkeys(PENALTIES, 0.001)), SCHEMA, PUBLISHED)
    kaf = (*EXPERIMENT, "activation_arguments", "kaf", "share")
    assert "channel, layer, network" in refused(changed(kaf, "batch"))
    validate(changed(kaf, "network"), SCHEMA, PUBLISHED)


def test_the_code_of_a_penalty_counts():
    plain, penalised = (
        code.of_step("train.py", [ACTIVATIONS["kaf"], *more]) for more in ([], [PENALTIES["slope"]])
    )
    assert plain != penalised

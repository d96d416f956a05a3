"""What a GPU is given in a step, on one that is not here: nothing that a CUDA graph cannot hold."""

import pytest
import torch
from kafnets.attacks.base import frozen
from kafnets.attacks.losses import LOSSES
from kafnets.attacks.steps import Rule, step_of
from kafnets.evaluation.folding import folded
from kafnets.evaluation.half import InFloat16
from kafnets.models import create_model
from kafnets.training.training import Training
from torch._subclasses.fake_tensor import DataDependentOutputException
from training_cases import NOISE, settings

from tests import interpreter
from tests.fake_gpu import GPU, Watch, fake_gpu

pytest.importorskip("triton")
pytestmark = interpreter.outside


def watched(chosen):
    """What a training's steps are made of, of a whole batch and of the last, smaller one."""
    training = Training(chosen, NOISE, GPU, streamed=False)
    training.tried = True  # the trial waits for its answer, before the first step
    batches = list(training.batches.epoch(0))
    training.rates.set(training.optimizer, 0.1)
    with Watch() as watch:
        for rows in (batches[0], batches[-1]):
            figures = training._step(rows)
    assert (figures.device, figures.shape) == (GPU, (4,))
    return training, watch


@pytest.mark.parametrize(
    ("activation", "precision"), [("relu", "float16"), ("kaf", "float32"), ("kaf", "bfloat16")]
)
def test_a_step_of_a_training(activation, precision):
    with fake_gpu():
        chosen = {**settings(precision=precision), "activation": activation}
        training, watch = watched(chosen)
    assert training.network.passes is not training.model
    assert not watch.elsewhere
    passes = 2 * 2 * 7  # of two steps, in 7 places
    names = ("statistics", "apply", "backward_sums", "backward_input")
    assert watch.launches == dict.fromkeys(names, passes)


METHODS = {
    "none": {},
    "n_fgsm": {"adversary": {"eps": "8/255"}},
    "free": {"adversary": {"eps": "8/255", "replays": 2}},
    "pgd_at": {"adversary": {"eps": "8/255", "step": "2/255", "iterations": 2}},
    "trades": {
        "adversary": {"eps": "8/255", "step": "2/255", "iterations": 2},
        "awp": {"gamma": 0.01, "warm_up": 0},
    },
    "mart": {
        "adversary": {"eps": "8/255", "step": "2/255", "iterations": 2},
        "averaging": {"decay": 0.9},
    },
    "grad_align": {"adversary": {"eps": "8/255"}},
    "fbf": {
        "adversary": {"eps": "8/255", "step": "10/255"},
        "penalties": {"slope": 0.1, "l2": 0.1, "chi": 0.1},
    },
}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method(name):
    given = dict(METHODS[name])
    adversary = {"name": name, **given.pop("adversary", {})}
    with fake_gpu():
        chosen = settings(adversary=adversary, precision="bfloat16", **given)
        chosen["activation"] = "kaf" if "penalties" in given else "relu"
        training, watch = watched(chosen)
    assert not watch.elsewhere
    assert watch.launches or training.method.twice_differentiated


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("activation", ["relu", "kaf"])
def test_a_step_of_an_attack_on_the_float16_copy(activation, momentum):
    rule = Rule(8 / 255, 2 / 255, 50, 10, LOSSES["cross_entropy"], "linf", momentum, early_stop=True)
    with fake_gpu():
        network = create_model("resnet8", activation).eval().to(GPU)
        half = InFloat16(folded(network), 1024.0)
        points, centers = torch.rand(2, 16, 3, 32, 32, device=GPU)
        labels = torch.zeros(16, dtype=torch.int64, device=GPU)
        step = step_of(half, rule, GPU, slots=16, passes=1)
        with frozen(half), Watch() as watch:
            right, moved, velocity, stuck = step(points, centers, labels, centers, None)
    assert not watch.elsewhere
    assert (right.dtype, moved.dtype, stuck.dtype) == (torch.bool, torch.float32, torch.bool)
    assert {right.device, moved.device, velocity.device, stuck.device} == {GPU}
    # a KAF is a kernel of its own, and one normalisation behind a sum stays
    assert watch.launches["forward"] == watch.launches["backward"] == {"relu": 7, "kaf": 8}[activation]


def test_what_a_graph_cannot_hold_is_seen():
    with fake_gpu():
        x, host = torch.ones(3, device=GPU), torch.ones(3)
        with Watch() as watch:
            x.add_(1).sum()
        assert not watch.elsewhere
        with Watch(), pytest.raises(DataDependentOutputException):
            x.sum().item()
        with Watch(), pytest.raises(RuntimeError, match="two different devices"):
            x + host
        for copy in (lambda: host.to(GPU), lambda: torch.tensor([1.0], device=GPU), x.cpu):
            with Watch() as watch:
                copy()
            assert watch.elsewhere

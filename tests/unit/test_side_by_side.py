"""Jobs of one process that take turns: none sees what another does."""

import os
import signal
import threading
import time

import pytest
import torch
from kafnets.runtime import turns
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import alone
from kafnets.runtime.interruption import Interrupted
from kafnets.runtime.side_by_side import side_by_side
from kafnets.training.run import train
from training_cases import CPU, NOISE, same, settings, weights

VGG = {"architecture": "vgg", "architecture_arguments": {"dropout": [0.2, 0.25, 0.3, 0.4]}}
SHORT = {"epochs": 1, "tail": {"epochs": 0, "learning_rate": 0.005, "halve_every": 4}}
RUNS = {
    "relu": {**settings(**SHORT, precision="bfloat16"), "activation": "relu", "seed": 1},
    "kaf": {**settings(**SHORT), "activation": "kaf", "seed": 2},
    "dropout": {**settings(**SHORT), "activation": "swish", "seed": 3, **VGG},
}


def trained(run, folder, device=CPU):
    return lambda: train(run, NOISE, device, folder / f"{run['activation']}{run['seed']}")


@pytest.fixture(scope="module")
def by_itself(tmp_path_factory):
    """By name: a training that had the process for itself."""
    folder = tmp_path_factory.mktemp("by_itself")
    return {name: trained(run, folder)() for name, run in RUNS.items()}


def check_same(one, other):
    (model, history, facts), (again, rows, figures) = one, other
    assert same(weights(model), weights(again)) and weights(model).keys() == weights(again).keys()
    assert [{**row, "seconds": 0} for row in history] == [{**row, "seconds": 0} for row in rows]
    assert {**facts, "seconds": 0} == {**figures, "seconds": 0}


def test_trainings_beside_others_end_with_their_own_bits(by_itself, tmp_path, tally):
    """Three that differ in everything, and one whose loss is not finite, which ends alone."""
    failing = {**settings(**SHORT | {"learning_rate": [1e30, 1e30]}), "activation": "relu"}
    random = torch.get_rng_state()
    jobs = [trained(run, tmp_path) for run in (*RUNS.values(), failing)]
    *made, failed = side_by_side(jobs)
    for one, other in zip(by_itself.values(), made, strict=True):
        check_same(one, other)
    assert isinstance(failed, UserError) and "epoch 1, step 2 of 4: the output of layer" in str(failed)
    assert torch.equal(torch.get_rng_state(), random)
    tally.figure("trainings side by side in one process that ended with their own bits", len(made))


def test_a_signal_stops_them_all_and_they_go_on(by_itself, tmp_path):
    chosen = ("relu", "dropout")

    def signals():
        for _ in range(2):
            turns.give_way()
        os.kill(os.getpid(), signal.SIGTERM)

    jobs = [trained(RUNS[name], tmp_path) for name in chosen]
    *stopped, _ = side_by_side([*jobs, signals])
    assert [type(one) for one in stopped] == [Interrupted] * 2 and stopped[0].exit_code == 143
    assert len(list(tmp_path.iterdir())) == 2
    for name, other in zip(chosen, side_by_side(jobs), strict=True):
        check_same(by_itself[name], other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_beside_seven_others(tmp_path, monkeypatch):
    """With the algorithms that are deterministic: of the others two runs alone may differ too."""
    device = torch.device("cuda")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    runs = [
        {**settings(epochs=3, precision=precision), "activation": activation, "seed": seed}
        for seed, (activation, precision) in enumerate(
            (activation, precision)
            for precision in ("bfloat16", "float32")
            for activation in ("relu", "swish", "elu", "relu")
        )
    ]
    (tmp_path / "beside").mkdir()
    made = side_by_side([trained(run, tmp_path / "beside", device) for run in runs], device)
    for run, other in zip(runs, made, strict=True):
        (one,) = side_by_side([trained(run, tmp_path, device)], device)
        check_same(one, other)


def drawing(seed):
    """Draws from torch's own random numbers, and sets switches that belong to the process."""

    def draw():
        torch.manual_seed(seed)
        torch.backends.cudnn.benchmark = bool(seed % 2)
        found = []
        for _ in range(3):
            found += [torch.rand(()).item(), torch.backends.cudnn.benchmark]
            turns.give_way()
        return found

    return draw


def meet(here, count):
    """Returns when `count` jobs have called it: there may be fewer by then, for some may have ended."""
    here.append(None)
    turns.until(lambda: len(here) == count)


def test_random_numbers_and_switches_are_each_jobs_own():
    here = []

    def after(draw):
        return lambda: (meet(here, 4), draw())[1]

    switch = torch.backends.cudnn.benchmark
    expected = [side_by_side([drawing(seed)])[0] for seed in range(4)]
    assert side_by_side([after(drawing(seed)) for seed in range(4)]) == expected
    assert torch.backends.cudnn.benchmark is switch
    assert (
        side_by_side([lambda: torch.rand(()).item()] * 2) == side_by_side([lambda: torch.rand(()).item()]) * 2
    )


def test_turns_go_round():
    here, seen = [], []

    def job(name):
        def work():
            meet(here, 3)
            for _ in range(4):
                turns.give_way()
                seen.append(name)
            turns.until(lambda: len(seen) == 12)
            return turns.most()

        return work

    assert side_by_side(map(job, "abc")) == [3, 3, 3]
    assert len(set(map(tuple, (sorted(seen[n : n + 3]) for n in range(0, 12, 3))))) == 1, seen
    assert turns.beside() == 0 and turns.most() == 1 and turns.give_way() is None


def _of_the_process(number):
    os.kill(os.getpid(), number)


def _of_a_thread(number):
    """It does not wake the main thread; nor does one that comes just before that falls asleep."""
    signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.parametrize("send", [_of_the_process, _of_a_thread])
def test_a_job_that_watches_for_no_signal_ends_as_a_process_does(send):
    alarm = time.monotonic() + 60

    def endless():
        while time.monotonic() < alarm:
            turns.give_way()

    def signals():
        send(signal.SIGINT)
        endless()

    found = side_by_side([endless, signals])
    assert [type(one) for one in found] == [SystemExit] * 2 and [one.code for one in found] == [130, 130]


def test_two_jobs_on_one_result_wait_for_each_other(tmp_path, capsys):
    """Not for ever: who waits gives way to who has it."""
    here, order = [], []

    def work():
        meet(here, 2)
        with alone(tmp_path / "record.json") as waited:
            order.append("begun")
            for _ in range(3):
                turns.give_way()
            order.append("done")
        return waited

    assert sorted(side_by_side([work, work])) == [False, True] and order == ["begun", "done"] * 2
    assert "is at it; waiting until it ends" in capsys.readouterr().err

"""The control around a CUDA graph, where there is none: in its place the captured step is run once more."""

import contextlib

import pytest
import torch
from kafnets.runtime import graphs

CPU = torch.device("cpu")


class Doubling(graphs.StepWithGraph):
    instead = "it goes on step by step"
    right = True

    def _does_the_same(self, *inputs):
        return self.right and torch.equal(self._replay(*inputs)[0], self.step(*inputs)[0])


@pytest.fixture
def doubled(monkeypatch):
    calls = []

    def step(x, y):
        calls.append(len(x))
        return 2 * x, None if y is None else x + y

    one = Doubling(step, CPU, 3)
    one.usable = True

    class Graph:
        def replay(self):
            for own, value in zip(one.outputs, step(*one.inputs), strict=True):
                if own is not None:
                    own.copy_(value)

    @contextlib.contextmanager
    def capture(device, stream):
        yield Graph()

    monkeypatch.setattr(graphs, "capture", capture)
    one.seen = calls
    return one


@pytest.mark.parametrize("y", [None, torch.ones(3)])
def test_a_graph_reads_what_it_is_given_and_gives_away_what_it_returns(doubled, y):
    x = torch.arange(3.0)
    first = doubled(x, y)
    second = doubled(x + 1, y)
    assert doubled.graph is not None and doubled.usable
    assert torch.equal(first[0], 2 * x) and torch.equal(second[0], 2 * x + 2)  # the second left the first
    assert (second[1] is None) if y is None else torch.equal(second[1], x + 2)
    second[0].zero_()
    assert torch.equal(doubled(x + 1, y)[0], 2 * x + 2) and torch.equal(x, torch.arange(3.0))


def test_other_sizes_are_ordinary_steps(doubled):
    assert torch.equal(doubled(torch.ones(2), None)[0], torch.full((2,), 2.0))
    assert doubled.graph is None and doubled.seen == [2]


def test_on_a_cpu_no_graph_is_tried(doubled):
    assert not Doubling(doubled.step, CPU, 3).usable


def test_a_graph_that_differs_is_dropped(doubled, capsys):
    doubled.right = False
    for _ in range(2):
        assert torch.equal(doubled(torch.ones(3), None)[0], torch.full((3,), 2.0))
    assert not doubled.usable and doubled.graph is None
    said = "no CUDA graph (it differs from the step that it captured); it goes on step by step"
    assert capsys.readouterr().err.count(said) == 1


def test_a_failed_capture_leaves_ordinary_steps(doubled, capsys, monkeypatch):
    @contextlib.contextmanager
    def fail(device, stream):
        raise RuntimeError("operation not permitted")
        yield

    monkeypatch.setattr(graphs, "capture", fail)
    for _ in range(2):
        assert torch.equal(doubled(torch.ones(3), None)[0], torch.full((3,), 2.0))
    assert doubled.seen == [3, 3] and not doubled.usable
    assert capsys.readouterr().err.count("no CUDA graph (operation not permitted)") == 1

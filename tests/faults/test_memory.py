"""A device whose memory is full: an attack goes on with smaller batches, a training names one that fits."""

import signal

import pytest
import torch
from kafnets.data import load
from kafnets.evaluation.judge import Memory, evaluate
from kafnets.models import create_model
from kafnets.runtime.errors import UserError, is_out_of_memory
from kafnets.runtime.interruption import Interrupted
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.scripts import config, log_of, script, training_arguments

FAULT = "out of memory (a layer that refuses large batches)"
ATTACKS = {
    "clean": {"method": "clean"},
    "pgd": {"method": "pgd", "eps": "16/255", "step": "8/255", "iterations": 3, "restarts": 2},
    "square": {"method": "square", "eps": "16/255", "queries": 20},
    "deepfool": {"method": "deepfool", "norm": "l2", "iterations": 5},
}


class Full(nn.Module):
    """Passes on what it gets, as long as that is not more than `most` images."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return x


def network(most):
    torch.manual_seed(0)
    model = create_model("resnet8", activation="kaf", num_classes=10).eval()
    return nn.Sequential(Full(most), model)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_in_all_its_guises(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_hosts_own_words():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert is_out_of_memory(error.value)


def without_time(figures):
    return {name: value for name, value in figures.items() if name != "wall_seconds"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attacks_batch_is_halved_until_it_fits(data, tally, capsys, attack):
    """Every figure and verdict is that of the smaller batch from the start."""
    images = load(data, test_examples=30)
    pair = images.test_images, images.test_labels
    tally.tried(FAULT)
    figures, verdicts = evaluate(network(5), *pair, ATTACKS[attack], batch_size=20)
    lines = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert len(lines) == 2 and lines[1].endswith("with 5 images at a time") and figures["batch_size"] == 5
    expected, expected_verdicts = evaluate(network(30), *pair, ATTACKS[attack], batch_size=5)
    assert without_time(figures) == without_time(expected)
    assert verdicts.keys() == expected_verdicts.keys()
    assert all(torch.equal(verdicts[name], expected_verdicts[name]) for name in verdicts)
    tally.held(FAULT)


class StopAfter:
    """A signal that comes in the pass of this number; see `kafnets.runtime.interruption.SignalFlag`."""

    def __init__(self, passes):
        self.left = passes

    @property
    def received(self):
        self.left -= 1
        return signal.SIGTERM if self.left == 0 else None

    def check(self):
        if self.left == 0:
            raise Interrupted(signal.SIGTERM)


@pytest.mark.parametrize("method", ["pgd", "thesis_pgd"])
def test_an_attack_that_was_stopped_goes_on_with_the_batch_that_fitted(data, tmp_path, tally, capsys, method):
    images = load(data, test_examples=30)
    pair = images.test_images, images.test_labels
    settings = {**ATTACKS["pgd"], "method": method}
    tally.tried(FAULT)
    path = tmp_path / "resume-pgd-0123456789abcdef.ckpt"
    with pytest.raises(Interrupted):
        evaluate(network(5), *pair, settings, batch_size=20, memory=Memory(path, "it", StopAfter(2)))
    assert capsys.readouterr().err.count("out of memory") == 2
    figures, verdicts = evaluate(
        network(5), *pair, settings, batch_size=20, memory=Memory(path, "it", StopAfter(-1))
    )
    words = capsys.readouterr().err
    assert "out of memory" not in words and "going on after" in words and figures["batch_size"] == 5
    expected, expected_verdicts = evaluate(network(30), *pair, settings, batch_size=5)
    assert without_time(figures) == without_time(expected)
    assert all(torch.equal(verdicts[name], expected_verdicts[name]) for name in verdicts)
    tally.bits(FAULT)


def test_not_even_one_image_fits(data):
    images = load(data, test_examples=3)
    with pytest.raises(UserError, match="does not hold a single image"):
        evaluate(network(0), images.test_images, images.test_labels, ATTACKS["clean"], batch_size=4)


def run_in_full_memory(most, where, *arguments):
    """What a forked process runs: a script whose networks refuse more than `most` images in training mode."""

    def refuse(module, inputs):
        if module.training or where == "anywhere":
            Full(most).forward(*inputs)

    register_module_forward_pre_hook(refuse)  # of all modules: a network with a hook of its own is not saved
    script(*arguments)


@pytest.mark.parametrize(("most", "found"), [(12, 12), (5, 3), (1, None)])
def test_a_training_names_the_batch_size_that_fits(context, data, tmp_path, tally, most, found):
    """One line, no traceback; the number is of 25, 12, 6, 3, and with it the training runs."""
    tally.tried(FAULT)
    log = log_of(tmp_path)
    train = ("train.py", training_arguments(tmp_path, data, "relu"), log)
    process = context.Process(target=run_in_full_memory, args=(most, "training", *train))
    process.start()
    process.join(300)
    # the network that fills the memory looks at its batch, which cannot be rewritten: that is said too
    lines = [line for line in log.read_text().splitlines() if not line.startswith("layers are not fused")]
    assert process.exitcode == 2 and len(lines) == 1, lines
    assert lines[0].startswith("error: training stopped at epoch 1, step 1 of 4: out of memory on cpu")
    assert "with a batch_size of 25" in lines[0] and not list(tmp_path.iterdir())
    if found is None:
        assert "2 do not fit either" in lines[0]
    else:
        assert f"; {found} would fit (a step was tried)" in lines[0]
        settings = config()
        settings["experiments"]["tiny"]["training"].update(batch_size=found, epochs=1)
        train = ("train.py", training_arguments(tmp_path, data, "relu", settings), log)
        process = context.Process(target=run_in_full_memory, args=(most, "training", *train))
        process.start()
        process.join(300)
        assert process.exitcode == 0 and (tmp_path / "record.json").exists(), log.read_text()
    tally.held(FAULT)


def test_out_of_memory_elsewhere_is_one_line_too(context, data, tmp_path, tally):
    """Not in a step but in the probe at the end of an epoch, where no batch size helps."""
    tally.tried(FAULT)
    train = ("train.py", training_arguments(tmp_path, data, "relu"), log_of(tmp_path))
    process = context.Process(target=run_in_full_memory, args=(30, "anywhere", *train))
    process.start()
    process.join(300)
    lines = [line for line in log_of(tmp_path).read_text().splitlines() if line.startswith("error")]
    assert process.exitcode == 2 and len(lines) == 1 and lines[0].startswith("error: out of memory")
    assert "Traceback" not in log_of(tmp_path).read_text() and not (tmp_path / "record.json").exists()
    tally.held(FAULT)

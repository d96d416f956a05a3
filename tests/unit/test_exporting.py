"""Networks for programs without this library: what is written computes the same."""

import importlib.util

import kafnets
import pytest
import torch
from kafnets import create_model
from kafnets.models import exporting
from kafnets.runtime.errors import UserError
from torch import nn


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("resnet8", "kaf_elu", num_classes=3, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))


def assert_same(found, expected):
    assert (found - expected).abs().max() < 1e-4 * (expected.amax(1) - expected.amin(1)).max()


def test_a_program_of_torch_export(tmp_path, model):
    """For any number of images; a KAF is torch's own operations; the network's mode stays."""
    model.train()
    kafnets.export(model, tmp_path / "network.pt2", image_shape=(3, 12, 12))
    assert model.training
    program = torch.export.load(tmp_path / "network.pt2")
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called and not any("kafnets" in name for name in called)
    x = torch.rand(5, 3, 12, 12)
    assert_same(program.module()(x), model.eval()(x))


def test_onnx(tmp_path, model):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    kafnets.export(model, tmp_path / "network.onnx", image_shape=(3, 12, 12))
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    x = torch.rand(5, 3, 12, 12)
    (y,) = session.run(None, {"images": x.numpy()})
    assert_same(torch.from_numpy(y), model.eval()(x))


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is not None, reason="onnxscript is here")
def test_without_onnxscript_it_says_what_to_install(tmp_path, model):
    with pytest.raises(UserError, match=r"ONNX needs the packages .*onnxscript; pip install onnx onnxscript"):
        kafnets.export(model, tmp_path / "network.onnx")


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch, model):
    with pytest.raises(UserError, match=r"model: torch\.export cannot write it down"):
        kafnets.export(Branching(), tmp_path / "network.pt2", image_shape=(1, 2, 2))
    # a tolerance that no arithmetic has: what differs by more is not kept
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(
        UserError, match=r"network\.pt2: not written: exported, the network's logits differ by"
    ):
        kafnets.export(model, tmp_path / "network.pt2", image_shape=(3, 12, 12))
    assert not list(tmp_path.iterdir())

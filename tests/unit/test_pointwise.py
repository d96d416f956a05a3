"""Shift, addition and activation as one operator: the formula, Triton's interpreter, networks."""

import pytest
import torch
from kafnets.attacks.losses import LOSSES
from kafnets.attacks.steps import Rule, step_of
from kafnets.evaluation import pointwise
from kafnets.evaluation.folding import folded
from kafnets.evaluation.fusing import fuse
from kafnets.evaluation.half import InFloat16
from kafnets.evaluation.pointwise import KINDS, Pointwise
from kafnets.models import create_model
from test_folding import trained_looking
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests import interpreter

ORACLES = {"identity": nn.Identity(), "relu": nn.ReLU(), "elu": nn.ELU(0.7), "silu": nn.SiLU()}


@pytest.mark.parametrize("scaled", [None, False, True])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_layers(kind, copies, scaled):
    """With no residual, one, or one that is scaled; in float16 against float64."""
    torch.manual_seed(0)
    shift, scale = torch.randn(6), torch.randn(6)
    layer = Pointwise(kind, shift, scale if scaled else None, alpha=0.7, copies=copies)
    x, r, *weights = torch.randn(4, 3, 6, 17, 7).half()
    x, r = (
        one.contiguous(memory_format=torch.channels_last) for one in (x, r)
    )  # gradients come in any layout
    given = [x, r] if scaled is not None else [x]
    leaves = [one.clone().requires_grad_() for one in given]
    outputs = layer(*leaves)
    outputs = outputs if copies == 2 else (outputs,)
    found = torch.autograd.grad(sum((y * w).sum() for y, w in zip(outputs, weights, strict=False)), leaves)

    exact = [one.double().requires_grad_() for one in given]
    factor = scale.double()[:, None, None] if scaled else 1
    z = exact[0] + shift.double()[:, None, None] + (exact[1] * factor if scaled is not None else 0)
    y = ORACLES[kind](z)
    weight = sum(w.double() for w in weights[:copies])
    expected = torch.autograd.grad((y * weight).sum(), exact)
    for one in outputs:
        assert one.dtype is torch.float16 and one.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one.double(), y.detach(), rtol=2e-3, atol=2e-3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=4e-3, atol=4e-3)


@interpreter.inside
def test_what_is_not_a_number_stays_one_and_one_gradient_may_be_missing_in_the_interpreter():
    layer = Pointwise("relu", torch.zeros(2), copies=2)
    x = torch.tensor([float("nan"), -1.0]).view(1, 2, 1, 1).requires_grad_()
    first, second = layer(x)
    assert first.isnan().any() and first[0, 1] == 0 and first.data_ptr() == second.data_ptr()
    assert torch.autograd.grad(second.sum(), x)[0].flatten().tolist() == [1, 0]


def test_the_kernels_in_the_interpreter():
    interpreter.run(__file__, "values_and_gradients or what_is_not")


@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_the_kernels_compile_for_a_gpu_that_is_not_here(kernel):
    compiler = pytest.importorskip("triton.compiler")
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    function = getattr(pointwise._kernels(), kernel)
    constants = {"CHANNELS": 16, "KIND": 3, "RESIDUAL": True, "SCALED": True, "TWO": True, "BLOCK": 2048}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    types = {"count": "i32", "alpha": "fp32", "scale": "*fp32", "shift": "*fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp16") for name in function.arg_names}
    constants = {(function.arg_names.index(name),): value for name, value in constants.items()}
    compiled = compiler.compile(compiler.ASTSource(function, signature, constants, {}), target=target)
    assert "st.local" not in compiled.asm["ptx"]  # everything in registers


@pytest.mark.parametrize(
    "architecture, arguments, activation, fused, additions",
    [
        ("resnet8", {"block": "thesis"}, "relu", 7, 0),
        ("resnet8", {"block": "original", "shortcut": "projection"}, "elu", 7, 0),
        ("resnet8", {"block": "original"}, "swish", 7, 0),
        ("vgg", {}, "relu", 6, 0),
        ("resnet8", {"block": "thesis"}, "kaf", 1, 2),  # the block with a normalisation left
    ],
)
def test_a_fused_network_computes_the_same_with_fewer_layers(
    architecture, arguments, activation, fused, additions
):
    torch.manual_seed(0)
    model = trained_looking(create_model(architecture, activation=activation, **arguments)).eval()
    fast = fuse(folded(model))
    layers = [model_of(fast, node) for node in fast.graph.nodes]
    assert sum(isinstance(layer, Pointwise) for layer in layers) == fused
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    assert sum("add" in node.name for node in fast.graph.nodes) == additions
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    outputs, expected = fast(images), model(images)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    one, other = (torch.autograd.grad(logits.logsumexp(1).sum(), images)[0] for logits in (outputs, expected))
    assert torch.cosine_similarity(one.flatten(1), other.flatten(1)).min() > 0.9999


def model_of(fast, node):
    return fast.get_submodule(node.target) if node.op == "call_module" else None


class Odd(nn.Module):
    """What looks like a block and is none: an output that is read twice, a shared layer, a hook."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norm, self.act, self.hooked = nn.BatchNorm2d(3), nn.ReLU(), nn.ReLU()
        self.hooked.register_forward_hook(lambda module, given, out: out + 1)

    def forward(self, x):
        read_twice = self.one(x)
        y = self.act(read_twice) + read_twice
        total = self.two(y) + x
        y = self.act(self.norm(total)) + total
        y = self.hooked(self.three(y))
        return self.act(self.three(y) + y.mean((2, 3), keepdim=True)).mean((2, 3))


def test_what_is_read_elsewhere_is_left_alone():
    torch.manual_seed(0)
    model = trained_looking(Odd()).eval()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(fuse(folded(model))(images), model(images), rtol=1e-4, atol=1e-5)


FREE = {"view", "detach", "t", "transpose", "alias", "_unsafe_view", "expand", "slice", "unsqueeze", "select"}
FREE |= {"permute", "as_strided", "empty", "empty_like", "empty_strided"}


class Counting(TorchDispatchMode):
    """How many kernels a GPU would launch: operators that compute, and a convolution's bias in one more."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        self.count += name not in FREE
        self.count += name == "convolution" and args[2] is not None
        return function(*args, **(kwargs or {}))


def kernels_of_a_step(model):
    rule = Rule(8 / 255, 2 / 255, 50, 10, LOSSES["cross_entropy"], "linf", 0.0, True)
    step = step_of(model.eval().requires_grad_(False), rule, torch.device("cpu"), 2, 0)
    images, labels = torch.rand(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    with Counting() as counting:
        step(images, images, labels, None, None)
    return counting.count


def test_a_step_of_pgd_has_no_more_kernels_than_counted(monkeypatch):
    torch.manual_seed(0)
    fast = folded(create_model("resnet20"))
    assert kernels_of_a_step(fast) <= 187
    half = InFloat16(fast, 64.0)
    launched = []
    monkeypatch.setattr(pointwise, "_is_covered", lambda x, residual: True)
    monkeypatch.setattr(pointwise, "_launch", lambda kernel, like, *_, **__: launched.append(like))
    assert kernels_of_a_step(half) + len(launched) <= 144 and len(launched) == 2 * 19

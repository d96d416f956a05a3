"""What is done to a layer as a whole: pickled, copied, sent to another process, cast, moved, made later."""

import copy
import io
import pickle

import joblib
import pytest
import torch
from kafnets import KAF, create_activation, create_model
from kafnets.activations.kaf import functional
from torch import nn

FREE = {"trainable_dictionary": True, "trainable_bandwidth": True}
STARTS = {
    "lambda": lambda x: x.clamp(0, 1),
    "module": nn.ELU(),
    "function": torch.sin,
    "name": "elu",
    "normal": "normal",
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pickled(module):
    return pickle.loads(pickle.dumps(module))  # noqa: S301


def saved_by_torch(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def saved_by_joblib(module):
    file = io.BytesIO()
    joblib.dump(module, file)
    file.seek(0)
    return joblib.load(file)


COPIES = [copy.deepcopy, pickled, saved_by_torch, saved_by_joblib]


@pytest.mark.parametrize("make_copy", COPIES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("arithmetic", ["float32", "float16"])
def test_a_copy_is_whole(start, make_copy, arithmetic):
    layer = KAF(3, init=STARTS[start], arithmetic=arithmetic).eval().requires_grad_(False)
    x = torch.randn(4, 3)
    expected = layer(x)  # in float16 it keeps a table now
    twin = make_copy(layer)
    assert torch.equal(twin(x), expected) and repr(twin) == repr(layer)
    twin.alpha.add_(1)
    assert not torch.equal(twin(x), expected) and torch.equal(layer(x), expected)
    twin.reset_parameters()
    assert start == "normal" or torch.equal(twin(x), expected)


def test_a_network_of_them_goes_to_another_process():
    network = nn.Sequential(nn.Linear(5, 3), KAF(3, init=lambda x: x * x), KAF(3, **FREE))
    network.requires_grad_(False)  # what requires gradients is not sent back
    x = torch.randn(4, 5)
    with torch.multiprocessing.get_context("fork").Pool(1) as pool:
        assert torch.equal(pool.apply(network, (x,)), network(x))
    network.share_memory()
    assert network[1].alpha.is_shared() and network[2].bandwidth.is_shared()


def test_no_callable_is_kept():
    """Neither its memory nor a surprise when it changes: of `init` a name and the values are left."""
    layer = KAF(3, init=nn.ELU())
    assert not list(layer.children()) and layer.init == "ELU"
    assert "init=<lambda>" in repr(KAF(3, init=STARTS["lambda"]))
    layer = KAF(1, init=torch.sin, dtype=torch.float64)
    x = torch.linspace(-2.5, 2.5, 50, dtype=torch.float64)[:, None]
    assert (layer(x) - x.sin()).abs().max() < 0.02


# -- narrow dtypes -------------------------------------------------------------------------------------------

NARROW = {"half": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("arguments", [{"init": "elu"}, {"init": "relu", **FREE}, {"kernel": "softplus"}])
@pytest.mark.parametrize("cast", NARROW)
def test_a_narrow_network_is_right_to_the_rounding_of_its_output(cast, arguments):
    """Rounded coefficients of size 70 would be off by 0.3 in bfloat16."""
    dtype, layer = NARROW[cast], KAF(4, **arguments)
    tensors = [t.detach().double() for t in (layer.alpha, layer.dictionary, layer.bandwidth)]
    x = torch.randn(500, 4).to(dtype)
    expected = functional.kaf_plain(x.double(), *tensors, layer.kernel)
    x.requires_grad_()
    for narrow in (getattr(layer, cast)(), layer.to(dtype), layer.to("cpu", dtype), layer.type(dtype)):
        y = narrow(x)
        assert y.dtype == dtype and {t.dtype for t in narrow.state_dict().values()} == {torch.float32}
        error = (y.double() - expected).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * expected.abs() + 5e-5).all()
        y.sum().backward()
        assert x.grad.dtype == dtype and layer.alpha.grad.dtype == torch.float32
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimiser.step()
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("dtype", NARROW.values())
def test_a_narrow_network_around_it(dtype):
    network = create_model("resnet8", "kaf_elu").eval()
    images = torch.rand(2, 3, 32, 32)
    logits = network(images)
    network.to(dtype)
    narrow = network(images.to(dtype))
    assert narrow.dtype == network.fc.weight.dtype == dtype and network.stem.act.alpha.dtype == torch.float32
    assert (narrow - logits).abs().max() < 0.1 * logits.abs().max()
    twin = create_model("resnet8", "kaf_elu").eval().to(dtype)
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(images.to(dtype)), narrow)
    assert torch.equal(copy.deepcopy(network)(images.to(dtype)), narrow)


def test_made_narrow_it_is_held_in_float32():
    layer = KAF(3, init="elu", dtype=torch.bfloat16)
    assert torch.equal(layer.alpha, KAF(3, init="elu").alpha)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        assert create_activation("kaf_elu", 3).alpha.dtype == torch.float32
    finally:
        torch.set_default_dtype(default)


def test_wide_dtypes_and_moves_are_as_of_every_module():
    layer = KAF(3, **FREE)
    alpha = layer.alpha
    layer(torch.randn(2, 3)).sum().backward()
    assert layer.float().alpha is alpha and layer.bfloat16().alpha is alpha
    assert alpha.grad.dtype == torch.float32
    assert {p.dtype for p in layer.double().parameters()} == {torch.float64}
    assert layer(torch.randn(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert {p.dtype for p in layer.half().parameters()} == {torch.float32}
    moved = layer.to("meta", torch.bfloat16)
    assert moved.alpha.is_meta and moved.alpha.dtype == torch.float32


def test_made_on_meta_and_started_later():
    with torch.device("meta"):
        layer = KAF(3, init=torch.tanh)
    assert layer.alpha.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert torch.equal(layer.alpha, KAF(3, init=torch.tanh).alpha)
    assert torch.equal(layer.dictionary, KAF(3).dictionary)

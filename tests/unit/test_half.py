"""The float16 arithmetic of a KAF: rounded as in a mixed-precision training, with exact derivatives."""

import copy

import numpy
import pytest
import torch
from kafnets import KAF, create_model
from kafnets.evaluation.folding import folded

FREE = {"trainable_dictionary": True, "trainable_bandwidth": True}


def formula(layer, x):
    """The formula in NumPy's float16, element by element, every step rounded."""
    half = [
        p.detach().numpy().astype(numpy.float16) for p in (layer.alpha, layer.dictionary, layer.bandwidth)
    ]
    alpha, dictionary, bandwidth = half
    dictionary = numpy.broadcast_to(dictionary, alpha.shape)
    bandwidth = numpy.broadcast_to(bandwidth, alpha.shape[:1])
    values = x.detach().numpy().astype(numpy.float16)
    total = numpy.zeros_like(values)
    shape = (1, -1, *[1] * (x.dim() - 2))
    for i in range(layer.D):
        u = values - dictionary[:, i].reshape(shape)
        # e^u rounded once: float16's own exp differs between libraries by a unit in the last place
        k = numpy.exp((-bandwidth.reshape(shape) * (u * u)).astype(numpy.float32)).astype(numpy.float16)
        total = total + alpha[:, i].reshape(shape) * k
    assert total.dtype == numpy.float16
    return torch.from_numpy(total.astype(numpy.float32))


@pytest.mark.parametrize("arguments", [{"init": "elu"}, {"init": "relu", "D": 10}, {"std": 1.0, **FREE}])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (7, 3), (2, 3, 6), (0, 3, 4, 4)])
def test_every_step_is_rounded(arguments, shape):
    torch.manual_seed(0)
    layer = KAF(3, arithmetic="float16", **arguments)
    x = 2 * torch.randn(shape)
    torch.testing.assert_close(layer(x), formula(layer, x), rtol=0, atol=0)


def test_large_coefficients_make_it_noisy_and_small_ones_do_not():
    torch.manual_seed(0)
    x = 2 * torch.randn(50, 4)
    for init, least, most in (("elu", 0.005, 0.2), ("normal", 0.0, 0.001)):
        rounded = KAF(4, init=init, arithmetic="float16")
        exact = KAF(4, init=init)
        exact.load_state_dict(rounded.state_dict())
        noise = (rounded(x) - exact(x)).abs().max()
        assert least < noise < most


def test_the_derivatives_are_the_exact_ones():
    torch.manual_seed(0)
    rounded = KAF(2, init="elu", arithmetic="float16", **FREE)
    exact = KAF(2, init="elu", **FREE)
    x = torch.randn(5, 2, requires_grad=True)
    weights = torch.randn(5, 2)
    for layer in (rounded, exact):
        layer.gradients = torch.autograd.grad(
            (layer(x) * weights).sum(), [x, *layer.parameters()], create_graph=True
        )
        layer.second = torch.autograd.grad(layer.gradients[0].square().sum(), x)
    for name in ("gradients", "second"):
        torch.testing.assert_close(getattr(rounded, name), getattr(exact, name), rtol=0, atol=0)


def test_the_table_follows_the_parameters():
    layer = KAF(2, init="elu", arithmetic="float16")
    x = torch.randn(6, 2)
    before = layer(x)
    with torch.no_grad():
        layer.alpha.mul_(2)
    torch.testing.assert_close(layer(x), formula(layer, x), rtol=0, atol=0)
    assert not torch.equal(layer(x), before)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_the_table_follows_the_optimiser(fused, training):
    torch.manual_seed(0)
    layer = KAF(2, std=1.0, arithmetic="float16", **FREE).train(training)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.01, fused=fused)
    x = torch.randn(6, 2)
    for _ in range(3):
        optimiser.zero_grad()
        before = layer(x)
        before.square().sum().backward()
        optimiser.step()
        with torch.no_grad():
            after = layer(x)
        torch.testing.assert_close(after, formula(layer, x), rtol=0, atol=0)
        assert not torch.equal(after, before)


def test_the_table_does_not_outlive_a_change_of_mode():
    """A replayed CUDA graph changes parameters and torch does not count it, as through `data` here."""
    layer = KAF(2, init="elu", arithmetic="float16").eval()
    x = torch.randn(6, 2)
    layer(x)
    layer.alpha.data.mul_(2)
    torch.testing.assert_close(layer.train().eval()(x), formula(layer, x), rtol=0, atol=0)


def test_parameters_made_for_inference_have_tables_too():
    with torch.inference_mode():
        layer = KAF(2, init="elu", arithmetic="float16")
        x = torch.randn(6, 2)
        layer(x)
        layer.alpha.mul_(2)
        torch.testing.assert_close(layer(x), formula(layer, x), rtol=0, atol=0)


def test_what_is_not_finite_and_what_lies_far_out():
    layer = KAF(1, init="elu", arithmetic="float16")
    x = torch.tensor([[torch.nan], [torch.inf], [-torch.inf], [1e30], [-7.0]])
    y = layer(x)
    assert y[0].isnan() and not y[1:].any()


def test_memory_format_and_dtype_are_the_inputs():
    layer = KAF(3, arithmetic="float16")
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), layer(x.contiguous()), rtol=0, atol=0)
    assert layer(x.half()).dtype == torch.float16 and layer.double()(x.double()).dtype == torch.float64


def test_a_network_of_them_is_made_by_name_and_folds():
    torch.manual_seed(0)
    model = create_model("resnet8", "kaf_elu", activation_arguments={"arithmetic": "float16"}).eval()
    assert model.stem.act.arithmetic == "float16"
    x = torch.rand(2, 3, 32, 32)
    # folding rounds differently, and a float16 KAF turns that into steps
    torch.testing.assert_close(folded(model)(x), model(x), rtol=0.3, atol=0.3)


def test_an_unknown_arithmetic_is_named():
    with pytest.raises(ValueError, match="arithmetic must be one of float32, float16, got 'half'"):
        KAF(2, arithmetic="half")

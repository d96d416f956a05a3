"""Numbers that a KAF takes: within the bounds all is finite, outside the argument is named."""

import math
from fractions import Fraction

import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafnets import KAF, create_activation
from kafnets.activations.kaf import functional
from kafnets.activations.kaf.layer import BANDWIDTHS, BOUNDARIES, HALF_NUMBERS, MOST_POINTS, MOST_STD, RIDGES
from kafnets.registry import ACTIVATIONS, is_trainable
from kafnets.runtime.errors import UserError

FIXED = [name for name in ACTIVATIONS if not is_trainable(name) and ACTIVATIONS[name].elementwise]
BOUNDS = {"boundary": BOUNDARIES, "bandwidth": BANDWIDTHS, "std": (0, MOST_STD), "ridge": RIDGES}


def across(low, high):
    """Floats of every order of magnitude from `low` to `high`, the ends often."""
    scales = st.floats(math.log(low), math.log(high)).map(lambda power: min(max(math.exp(power), low), high))
    return st.sampled_from([low, high]) | scales


LAYERS = st.fixed_dictionaries(
    {
        "D": st.integers(2, 60),
        "boundary": across(*BOUNDARIES),
        "bandwidth": st.sampled_from(["thesis", "reference"]) | across(*BANDWIDTHS),
        "init": st.sampled_from(["normal", *FIXED]),
        "std": st.just(0) | across(1e-6, MOST_STD),
        "ridge": across(*RIDGES),
        "kernel": st.sampled_from(["gaussian", "relu", "softplus"]),
        "trainable_dictionary": st.booleans(),
        "trainable_bandwidth": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.sampled_from([1.0, 1e4, "boundary", "spacing"]), st.sampled_from(["auto", "portable"]))
@example(
    {"D": MOST_POINTS, "boundary": 1e6, "init": "relu", "ridge": RIDGES[0], "bandwidth": 1e-18}, 1.0, "auto"
)
@example(
    {"D": 2, "boundary": 1e-6, "std": MOST_STD, "trainable_dictionary": True, "bandwidth": 1e18}, 1.0, "auto"
)
def test_within_the_bounds_values_and_derivatives_are_finite(arguments, scale, backend):
    arguments = dict(arguments)
    if arguments.get("kernel", "gaussian") != "gaussian":
        arguments["trainable_bandwidth"] = False
    torch.manual_seed(0)
    layer = KAF(2, **arguments, backend=backend)
    spacing = 2 * layer.boundary / (layer.D - 1)
    scale = {"boundary": layer.boundary, "spacing": spacing}.get(scale, scale)
    x = (scale * torch.tensor([[-2.0], [-1.0], [-0.3], [0.0], [0.5], [1.0], [3.0]])).repeat(1, 2)
    x.requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad(y.sum(), [x, *layer.parameters()], create_graph=True)
    second = torch.autograd.grad(gradients[0].sum(), x, allow_unused=True)
    for tensor in (y, *gradients, *(t for t in second if t is not None)):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", BOUNDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_outside_the_bounds_the_argument_is_named(name, data):
    low, high = BOUNDS[name]
    outside = st.floats(max_value=math.nextafter(low, -math.inf)) | st.floats(math.nextafter(high, math.inf))
    value = data.draw(
        outside | st.sampled_from([math.nan, True, None, "3", "x", [1.0], 10**400, 1j, -1, -0.5])
    )
    with pytest.raises(UserError, match=f"^{name} must be .*a number from .* to .*got") as caught:
        KAF(2, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-3, 0, 1, MOST_POINTS + 1, 10**30, 2.0, True, None, "20", math.nan])
def test_the_number_of_points_is_bounded(value):
    with pytest.raises(UserError, match=f"^D must be an integer from 2 to {MOST_POINTS}, got"):
        KAF(2, D=value)


def test_the_float16_arithmetic_has_bounds_of_its_own():
    with pytest.raises(UserError, match=r"^bandwidth must be a number from 6.*float16.*got 1(50|49)"):
        KAF(2, boundary=0.01, arithmetic="float16")
    with pytest.raises(UserError, match=r"^boundary must be a number from .*float16.*got 70000"):
        KAF(2, boundary=7e4, bandwidth=1, arithmetic="float16")
    for boundary, bandwidth in (
        (HALF_NUMBERS[0], 1),
        (HALF_NUMBERS[1], 1),
        (1, HALF_NUMBERS[0]),
        (1, HALF_NUMBERS[1]),
    ):
        layer = KAF(2, boundary=boundary, bandwidth=bandwidth, arithmetic="float16")
        x = boundary * torch.tensor([[-2.0], [0.0], [0.3], [1.0]]).repeat(1, 2)
        assert layer(x).isfinite().all()


@pytest.mark.parametrize(
    "arguments",
    [
        {
            "channels": numpy.int64(3),
            "D": numpy.int32(7),
            "boundary": numpy.float32(2.5),
            "std": numpy.float64(0.1),
        },
        {
            "channels": 3,
            "D": 7,
            "boundary": Fraction(5, 2),
            "bandwidth": numpy.int8(1),
            "ridge": numpy.float16(0.5),
        },
        {"channels": numpy.uint8(3), "D": numpy.uint8(200), "trainable_dictionary": numpy.bool_(True)},
    ],
)
def test_numbers_of_any_kind_are_numbers(arguments):
    layer = KAF(**arguments)
    assert layer(torch.randn(2, 3, 4)).isfinite().all()
    for name in ("channels", "D", "boundary", "std", "ridge"):
        assert type(getattr(layer, name)) in (int, float)
    assert "numpy" not in repr(layer) and "np." not in repr(layer)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("kernel", ["gaussian"], "one of gaussian"),
        ("bandwidth", "silverman", "'thesis' or 'reference' or a number from 1e-18 to 1e"),
        ("trainable_dictionary", "no", "True or False"),
        ("trainable_bandwidth", None, "True or False"),
        ("dtype", torch.int32, "a floating-point dtype"),
        ("dtype", "float32", "a floating-point dtype"),
        ("init", None, "'normal', a callable or one of relu"),
        ("init", lambda x: x.exp() * math.inf, "a function that gives a finite number for each point"),
        ("init", lambda x: x.sum(), "a function that gives a finite number for each point"),
        ("init", lambda x: 3.0, "a function that gives a finite number for each point"),
    ],
)
def test_what_is_no_number_is_named_too(name, value, wanted):
    with pytest.raises(UserError, match=f"^{name} must be {wanted}"):
        KAF(2, **{name: value})


def test_a_regression_without_a_solution_names_the_ridge():
    layer = KAF(2, init="relu")
    layer.boundary = layer.ridge = 0.0
    with pytest.raises(UserError, match=r"^ridge must be larger"):
        layer.reset_parameters()


def test_points_that_come_to_coincide_and_negative_bandwidths():
    """What training may do to a free dictionary: the formula goes on, on every backend."""
    layer = KAF(2, D=4, trainable_dictionary=True, trainable_bandwidth=True)
    x = torch.randn(50, 2)
    for points, gamma in (
        ([1.0, 1.0, 1.0, 1.0], 1.0),
        ([1e6, 1e6, 0.0, 0.0], 1.0),
        ([0.5, 0.5, -1.0, 2.0], -0.3),
    ):
        with torch.no_grad():
            layer.dictionary.copy_(torch.tensor(points))
            layer.bandwidth.fill_(gamma)
        tensors = (layer.alpha, layer.dictionary, layer.bandwidth)
        expected = functional.kaf_plain(x.double(), *(t.double() for t in tensors))
        expected = torch.autograd.grad(expected.square().sum(), tensors)
        for backend in ("auto", "portable"):
            found = functional.kaf(x, *tensors, backend=backend)
            found = torch.autograd.grad(found.square().sum(), tensors)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_one_point_is_a_function_but_no_layer():
    x, alpha = torch.randn(5, 2), torch.ones(2, 1)
    y = functional.kaf(x, alpha, torch.zeros(1), torch.tensor(0.5))
    torch.testing.assert_close(y, torch.exp(-0.5 * x * x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 4, 3), ()])
def test_a_wrong_dimension_of_channels_is_told(shape):
    with pytest.raises(ValueError, match=r"x must be \(N, 3, \*\)"):
        KAF(3)(torch.zeros(shape))


def test_parameters_of_the_wrong_shape_or_device_are_told():
    x, layer = torch.zeros(2, 3), KAF(3)
    with pytest.raises(ValueError, match=r"alpha must be \(C, D\)"):
        functional.kaf(x, layer.alpha[0], layer.dictionary, layer.bandwidth)
    with pytest.raises(
        ValueError, match="x must be on the device of alpha, dictionary and bandwidth, got meta"
    ):
        layer(x.to("meta"))
    with pytest.raises(ValueError, match="x must be on the device"):
        KAF(3, device="meta", trainable_dictionary=True, trainable_bandwidth=True)(x)


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 3, 4, 4)])
@pytest.mark.parametrize("arguments", [{}, {"arithmetic": "float16"}, {"trainable_dictionary": True}])
def test_nothing_in_nothing_out(shape, arguments):
    layer = KAF(3, **arguments)
    x = torch.zeros(shape, requires_grad=True)
    layer(x).sum().backward()
    assert layer(x).shape == shape and not layer.alpha.grad.any()
    for count in (1, 0):
        transformed = torch.func.vmap(torch.func.grad(lambda x: layer(x).sum()))(
            x.detach().expand(count, *shape)
        )
        assert transformed.shape == (count, *shape)


def test_the_registry_ends_in_the_same_errors():
    with pytest.raises(UserError, match=r"^boundary must be a number from 1e-06 to 1e"):
        create_activation("kaf_elu", 3, boundary=1e30)
    with pytest.raises(UserError, match=r"^arguments of kaf: .*depth"):
        create_activation("kaf", 3, depth=4)

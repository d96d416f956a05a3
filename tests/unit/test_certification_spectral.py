"""Norms of convolutions against the singular values of the whole operator, written out as a matrix."""

import numpy
import pytest
import torch
from kafnets.certification.margins import lipschitz_constant
from kafnets.certification.network import network_of
from kafnets.certification.spectral import convolution_norm, layer_norm, matrix_norm
from torch import nn
from torch.nn import functional as F


def operator(linear, *size):
    """The matrix of a linear map of (1, C, H, W) tensors, in float64."""
    basis = torch.eye(int(numpy.prod(size)), dtype=torch.float64).view(-1, *size)
    return linear(basis).flatten(1).T


def norm_of(linear, *size):
    return numpy.linalg.norm(operator(linear, *size).numpy(), 2)


def padded(weight, stride=1, padding=(0, 0, 0, 0), dilation=1, groups=1):
    """The convolution with (left, right, top, bottom) zeros around its input."""
    weight = weight.double()
    return lambda x: F.conv2d(F.pad(x, padding), weight, None, stride, 0, dilation, groups)


CASES = {
    "1 x 1": (dict(kernel=1), 1, (0, 0, 0, 0)),
    "stride 1": (dict(kernel=3), 1, (1, 1, 1, 1)),
    "without padding": (dict(kernel=3), 1, (0, 0, 0, 0)),
    "more padding than the kernel": (dict(kernel=3), 1, (4, 3, 5, 0)),
    "even kernel, padded as SAME": (dict(kernel=4), 1, (1, 2, 1, 2)),
    "stride 2": (dict(kernel=3), 2, (1, 1, 1, 1)),
    "stride 2, padded at the ends only": (dict(kernel=3), 2, (0, 1, 0, 1)),
    "stride 2 of an odd input": (dict(kernel=3, size=7), 2, (1, 1, 1, 1)),
    "stride 2, 1 x 1": (dict(kernel=1), 2, (0, 0, 0, 0)),
    "two strides, two sizes": (dict(kernel=3, size=(5, 8)), (1, 3), (1, 1, 1, 1)),
    "few outputs": (dict(kernel=3, outputs=1), 1, (1, 1, 1, 1)),
    "many outputs, stride 2": (dict(kernel=2, outputs=9), 2, (0, 0, 0, 0)),
    "dilated": (dict(kernel=2, dilation=2), 1, (1, 1, 1, 1)),
    "groups": (dict(kernel=3, outputs=4, inputs=4, groups=2), 1, (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_convolution_is_bounded_and_not_by_much(name):
    shape, stride, padding = CASES[name]
    inputs, outputs, groups = (
        shape.get(key, one) for key, one in (("inputs", 2), ("outputs", 3), ("groups", 1))
    )
    dilation, size, kernel = shape.get("dilation", 1), shape.get("size", 6), shape["kernel"]
    size = size if isinstance(size, tuple) else (size, size)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        weight = torch.randn(outputs, inputs // groups, kernel, kernel, generator=generator)
        bound = convolution_norm(weight, stride, padding, size, dilation, groups)
        true = norm_of(padded(weight, stride, padding, dilation, groups), inputs, *size)
        assert true <= bound
        assert bound <= true * 1.35  # six pixels are mostly border
        if kernel == 1:
            assert bound == pytest.approx(true, rel=1e-9)


def test_it_is_the_norm_of_the_convolution_on_a_torus():
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    circular = norm_of(lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight), 2, 8, 8)
    assert convolution_norm(weight, 1, 1, 6) == pytest.approx(circular, rel=1e-9)
    strided = norm_of(lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, stride=2), 2, 8, 8)
    assert convolution_norm(weight, 2, 1, 6) == pytest.approx(strided, rel=1e-9)


def test_at_the_size_of_an_image_it_is_within_six_per_cent():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(3)).double()
    start = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)).double()
    for stride in (1, 2):
        linear, vector = padded(weight, stride, (1, 1, 1, 1)), start
        for _ in range(100):  # the power iteration, which comes from below
            vector = vector / vector.norm()
            image, back = torch.autograd.functional.vjp(linear, vector, linear(vector))
            vector, estimate = back, image.norm().item()
        bound = convolution_norm(weight, stride, 1, 32)
        assert estimate <= bound <= 1.06 * estimate


def test_layers():
    torch.manual_seed(6)
    dense = nn.Linear(7, 4)
    true = numpy.linalg.norm(dense.weight.detach().double().numpy(), 2)
    assert true <= matrix_norm(dense.weight) == layer_norm(dense) <= true * (1 + 1e-10)
    convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
    linear = padded(convolution.weight.detach(), 2, (1, 1, 1, 1), groups=2)
    assert norm_of(linear, 2, 6, 6) <= layer_norm(convolution, 6)
    assert layer_norm(nn.Conv2d(1, 1, 3, padding="same"), (5, 4)) > 0


@pytest.mark.parametrize(
    ("size", "stride", "apart", "most"),
    [(2, 2, 1, 1), (3, 2, 1, 4), (3, 1, 1, 9), (2, 1, 2, 4), (3, 2, 2, 9), (3, 3, 2, 1), (4, 6, 4, 4)],
)
def test_a_maximum_pooling_is_as_steep_as_its_windows_overlap(size, stride, apart, most):
    """One number more, in as many maxima as it is in windows: no constant below the bound holds."""
    pool = nn.MaxPool2d(size, stride, dilation=apart)
    linear = [nn.Flatten(), nn.Linear(pool(torch.zeros(1, 1, 30, 30)).numel(), 2)]
    nn.init.eye_(linear[1].weight)
    network = network_of(nn.Sequential(pool, *linear).eval(), (1, 30, 30))
    ones = torch.eye(30 * 30).view(-1, 1, 30, 30)
    steepest = pool(ones).flatten(1).norm(dim=1).max().item()
    assert steepest == pytest.approx(most**0.5)
    assert lipschitz_constant(network) == pytest.approx(steepest, rel=1e-6)


def test_a_zero_weight():
    assert convolution_norm(torch.zeros(2, 2, 3, 3), 1, 1, 4) == 0 == matrix_norm(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convolution_norm(torch.ones(2, 2)), "weight must be"),
        (lambda: convolution_norm(torch.ones(3, 1, 3, 3), input_size=4, groups=2), "weight must be"),
        (lambda: convolution_norm(torch.ones(2, 2, 3, 3)), "input_size must be"),
        (lambda: layer_norm(nn.ReLU()), "layer must be"),
        (lambda: layer_norm(nn.Conv2d(1, 1, 3, padding_mode="circular", padding=1), 4), "layer must pad"),
    ],
)
def test_what_has_no_norm_here(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""The KAF's second derivatives by the loop of their own, and in parts of the batch."""

import pytest
import torch
from kafnets.activations.kaf import functional, portable, second


def case(kernel, dtype, per_channel=False):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=dtype):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    wide = functional.compute_dtype(torch.empty(0, dtype=dtype))
    x, weight, alpha = draw(6, 3, 7), draw(6, 3, 7), draw(3, 20, dtype=wide)
    dictionary = torch.linspace(-3, 3, 20, dtype=wide)
    bandwidth = torch.tensor(1.7, dtype=wide)
    if per_channel:
        dictionary = (dictionary + draw(3, 1, dtype=wide) / 10).detach()
        bandwidth = torch.tensor([0.8, 1.7, 2.5], dtype=wide)
    return kernel, weight, x, alpha, dictionary, bandwidth


def penalised(function, kernel, weight, x, alpha, dictionary, bandwidth):
    """The gradients of a penalty on the input gradient."""
    values = function(x, alpha, dictionary, bandwidth, kernel)
    (slope,) = torch.autograd.grad((values * weight).sum(), x, create_graph=True)
    return torch.autograd.grad(slope.double().square().sum(), (x, weight, alpha))


@pytest.mark.parametrize("parts", [1, 3, 6])
@pytest.mark.parametrize("kernel", ["gaussian", "relu", "softplus"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.bfloat16, 1e-6)])
def test_of_the_gradient_by_the_input(monkeypatch, kernel, parts, dtype, tolerance):
    monkeypatch.setattr(second, "AT_ONCE", {"cpu": 6 * 3 * 7 // parts})
    calls = []
    plain = portable.second
    monkeypatch.setattr(portable, "second", lambda *given: calls.append(1) or plain(*given))
    given = case(kernel, dtype, per_channel=kernel == "gaussian")
    found, expected = (penalised(one, *given) for one in (functional.kaf, functional.kaf_plain))
    assert len(calls) == parts
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_of_everything_in_parts(monkeypatch):
    """Gradients of all arguments, penalised: the derivatives of the formula, added up over the parts."""
    monkeypatch.setattr(second, "AT_ONCE", {"cpu": 40})
    kernel, weight, x, alpha, dictionary, bandwidth = case("gaussian", torch.float64, per_channel=True)
    arguments = (x, alpha, dictionary.requires_grad_(), bandwidth.requires_grad_())

    def function(*arguments):
        values = functional.kaf(*arguments, kernel)
        return torch.autograd.grad((values * weight).sum(), arguments, create_graph=True)

    def expected(*arguments):
        values = functional.kaf_plain(*arguments, kernel)
        return torch.autograd.grad((values * weight).sum(), arguments, create_graph=True)

    both = [
        torch.autograd.grad(sum((one**2).sum() for one in of(*arguments)), (weight, *arguments))
        for of in (function, expected)
    ]
    torch.testing.assert_close(*both, rtol=1e-10, atol=1e-10)


def test_an_infinite_input_has_no_slope():
    kernel, weight, x, *rest = case("gaussian", torch.float64)
    far = x.detach().clone()
    far[0, 0, 0] = torch.inf
    found = penalised(functional.kaf, kernel, weight, far.requires_grad_(), *rest)
    assert all(one.isfinite().all() for one in found) and found[0][0, 0, 0] == 0

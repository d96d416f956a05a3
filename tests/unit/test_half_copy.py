"""Attacks led by a float16 copy: what proves it, what gives it up, and that the network judges."""

import pytest
import torch
from kafnets.attacks import pgd
from kafnets.attacks.base import fitting_batch
from kafnets.evaluation import judge
from kafnets.evaluation.half import InFloat16, half_copy
from kafnets.evaluation.inspection import fast_copy
from kafnets.evaluation.judge import evaluate
from kafnets.evaluation.pointwise import Pointwise
from kafnets.models import create_model
from test_folding import trained_looking
from test_inspection import Net, made
from torch import nn

PGD = {"method": "pgd", "eps": 16 / 255, "step": 4 / 255, "iterations": 5, "restarts": 2}


def bytes_of(count=40, size=12):
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def labels_of(net, images):
    with torch.no_grad():
        return net(images.float() / 255).argmax(1)


def gradient(net, x, loss):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(net(x)), x)[0].flatten(1)


@pytest.mark.parametrize("activation", ["relu", "kaf_elu"])
@pytest.mark.parametrize("architecture", ["vgg", "resnet8"])
def test_gradients_point_where_the_networks_do_whatever_their_size(architecture, activation):
    """Losses of 1e-30 to 1e30 times the usual: per image, float16 holds the direction of all of them."""
    torch.manual_seed(0)
    net = trained_looking(create_model(architecture, activation=activation)).eval()
    x = torch.rand(8, 3, 32, 32)
    copy, _ = fast_copy(net, x)
    half, why = half_copy(copy, x)
    assert why == "" and next(half.model.parameters()).dtype is torch.float16
    factors = torch.logspace(-30, 30, 8)

    def loss(logits):
        return (logits.logsumexp(1) * factors).sum()

    found, expected = gradient(half, x, loss), gradient(net.double(), x.double(), loss)
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert torch.cosine_similarity(found.double(), expected).min() > 0.9
    sizes = found.abs().amax(1)
    assert (sizes > 1e-2).all() and (sizes < 6e4).all()
    assert (half(x).double() - net(x.double())).abs().max() < 0.02 * net(x.double()).abs().max()


def test_operators_that_do_not_work_on_a_gpu_are_done_without(monkeypatch):
    def broken(self, x, residual=None):
        raise ValueError("no kernel image")

    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    copy, _ = fast_copy(trained_looking(create_model("resnet8")).eval(), x)
    assert any(isinstance(layer, Pointwise) for layer in half_copy(copy, x)[0].modules())
    monkeypatch.setattr(Pointwise, "forward", broken)
    half, why = half_copy(copy, x)
    assert why == "" and not any(isinstance(layer, Pointwise) for layer in half.modules())


class Overflowing(Net):
    """1e6 on the way: too much for float16."""

    def forward(self, x):
        return super().forward(x * 1e6) / 1e6


class InItsOwnType(Net):
    def forward(self, x):
        return super().forward(x.float())


class Steep(Net):
    """The same values in both types, but in float16 the gradient is another one."""

    def forward(self, x):
        if x.sum() > 0 and x.dtype is torch.float16:  # which no tracing sees through
            pattern = torch.where(torch.arange(12) % 2 == 0, 1.0, -1.0).half()
            x = x.detach() + (x - x.detach()) * pattern
        return super().forward(x)


@pytest.mark.parametrize(
    "network, said",
    [
        (Overflowing, "logits differ"),
        (InItsOwnType, "does not compute in float16"),
        (Steep, "gradients differ"),
    ],
)
def test_networks_that_break_in_float16_are_attacked_in_float32(network, said, capsys):
    torch.manual_seed(0)
    net, images = network().eval(), bytes_of()
    labels = labels_of(net, images)
    half, why = half_copy(net, images.float() / 255)
    assert half is None and said in why
    figures, verdicts = evaluate(net, images, labels, PGD, precision="float16")
    expected, others = evaluate(net, images, labels, PGD, precision="float32")
    assert figures["gradient_precision"] == expected["gradient_precision"] == "float32"
    assert torch.equal(verdicts["robust"], others["robust"])
    assert capsys.readouterr().err.count(f"the attack's steps are in float32: {why}") == 1


@pytest.mark.parametrize("method", ["pgd", "thesis_pgd"])
def test_verdicts_agree_with_those_of_float32(method):
    net, images = made("plain"), bytes_of(120)
    labels = labels_of(net, images)
    labels[::9] = (labels[::9] + 1) % 10
    settings = {**PGD, "method": method, "eps": 6 / 255, "step": 2 / 255}
    found, verdicts = evaluate(net, images, labels, settings, precision="float16")
    expected, others = evaluate(net, images, labels, settings)
    assert found["gradient_precision"] == "float16" and expected["gradient_precision"] == "float32"
    assert torch.equal(verdicts["clean"], others["clean"])
    assert 0.1 < expected["accuracy"] < 0.9
    assert (verdicts["robust"] != others["robust"]).sum() <= 2


def test_on_a_cpu_float16_is_for_who_asks_for_it_and_other_attacks_know_nothing_of_it():
    net, images = made("plain"), bytes_of(8)
    for settings, precision, expected in (
        (PGD, None, "float32"),
        ({"method": "fgsm", "eps": 0.1}, "float16", "float32"),
        (PGD, "float16", "float16"),
    ):
        figures, _ = evaluate(net, images, labels_of(net, images), settings, precision=precision)
        assert figures["gradient_precision"] == expected
    labels = labels_of(net, images)
    assert evaluate(net.double(), images, labels, PGD)[0]["gradient_precision"] == "float64"
    with pytest.raises(judge.UserError, match="precision"):
        evaluate(net, images, labels, PGD, precision="float8")


class Dead(nn.Module):
    """A network's gradients, but none in float16 where the mean pixel is above a threshold."""

    def __init__(self, half, threshold):
        super().__init__()
        self.led, self.threshold = half, threshold

    def forward(self, x):
        logits = self.led(x)
        bright = (x.flatten(1).mean(1) > self.threshold)[:, None]
        return torch.where(bright, logits.detach(), logits)


@pytest.mark.parametrize("count, given_up", [(1, False), (30, True)])
def test_images_that_float16_gave_no_gradient_are_attacked_again(count, given_up, monkeypatch, capsys):
    net, images = made("plain"), bytes_of(120)
    labels = labels_of(net, images)
    means = (images.float() / 255).flatten(1).mean(1).sort().values
    threshold = means[-count - 1 :][:2].mean().item()
    settings = {**PGD, "eps": 6 / 255, "step": 2 / 255}
    monkeypatch.setattr(judge, "half_copy", lambda model, some: (Dead(InFloat16(model, 64.0), threshold), ""))
    figures, verdicts = evaluate(net, images, labels, settings, precision="float16")
    arguments = {key: value for key, value in settings.items() if key != "method"}
    expected = pgd(net, images.float() / 255, labels, **arguments).robust
    assert not (verdicts["robust"].bool() & ~expected).any() and 0 < expected.sum() < 120
    assert figures["gradient_precision"] == ("float32" if given_up else "float16")
    assert ("made anew with steps in float32" in capsys.readouterr().err) == given_up


def test_a_copy_that_leads_astray_where_the_attack_ends_is_given_up(monkeypatch, capsys):
    """Right on the images, wrong on the points that withstood it."""
    net, images = made("plain"), bytes_of(60)
    labels = labels_of(net, images)
    settings = {**PGD, "eps": 6 / 255, "step": 2 / 255}
    astray = InFloat16(net, 64.0)
    monkeypatch.setattr(judge, "half_copy", lambda model, some: (Turned(astray, images.float() / 255), ""))
    figures, verdicts = evaluate(net, images, labels, settings, precision="float16")
    _, others = evaluate(net, images, labels, settings)
    assert figures["gradient_precision"] == "float32" and torch.equal(verdicts["robust"], others["robust"])
    assert "made anew with steps in float32: the copy's gradients differ" in capsys.readouterr().err


@pytest.mark.parametrize("count, given_up", [(3, False), (30, True)])
def test_a_copy_that_leads_few_images_astray_leaves_them_to_the_network(count, given_up):
    """Fewer than the proof before the attack forgives; each would look robust."""
    net, images = made("plain"), bytes_of(120)
    pixels = images.float() / 255
    labels = labels_of(net, images)
    threshold = pixels.flatten(1).mean(1).sort().values[count - 1 :][:2].mean().item()

    class Wrong(nn.Module):
        """In float16 the gradient of dark images is that of the opposite."""

        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, x):
            logits = self.inner(x)
            dark = (x.detach().flatten(1).float().mean(1) < threshold)[:, None]
            if x.sum() > 0 and x.dtype is torch.float16:  # which no tracing sees through
                return torch.where(dark, 2 * logits.detach() - logits, logits)
            return logits

    settings = {**PGD, "eps": 6 / 255, "step": 2 / 255}
    figures, verdicts = evaluate(Wrong().eval(), images, labels, settings, precision="float16")
    _, others = evaluate(net, images, labels, settings, precision="float32")
    assert figures["gradient_precision"] == ("float32" if given_up else "float16")
    assert not (verdicts["robust"].bool() & ~others["robust"].bool()).any()


class Turned(nn.Module):
    """Downhill wherever an image is not one of those that it was proved on."""

    def __init__(self, half, known):
        super().__init__()
        self.led, self.known = half, known

    def forward(self, x):
        logits = self.led(x)
        known = (x[:, None] == self.known).flatten(2).all(2).any(1)[:, None]
        return torch.where(known, logits, 2 * logits.detach() - logits)


@pytest.mark.parametrize(
    "multiprocessors, gib, expected",
    [(132, 140, 1024), (108, 40, 832), (40, 15, 320), (84, 6, 192), (2, 1, 64)],
)
def test_the_batch_follows_the_gpu(multiprocessors, gib, expected):
    assert fitting_batch(multiprocessors, gib * 2**30) == expected

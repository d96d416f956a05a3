"""What is looked at before a network is judged: its copy, its random numbers, its dependence on the batch."""

import pytest
import torch
from kafnets.attacks import Expectation, pgd
from kafnets.evaluation.folding import folded
from kafnets.evaluation.inspection import check_judgeable, depends_on_the_batch, fast_copy, is_random
from kafnets.evaluation.judge import evaluate
from kafnets.runtime.errors import UserError
from torch import nn
from torch.nn import functional

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
PGD = {"method": "pgd", "eps": 16 / 255, "step": 4 / 255, "iterations": 5, "restarts": 1}
parametrizations = nn.utils.parametrizations


class WeightStandardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class ActivatedConvolution(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).relu()


class ActivatedNormalisation(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class Net(nn.Module):
    def __init__(self, conv=nn.Conv2d, norm=nn.BatchNorm2d, wrap=lambda layer: layer):
        super().__init__()
        self.conv1, self.norm1 = wrap(conv(3, 6, 3, padding=1)), norm(6)
        self.conv2, self.norm2 = wrap(conv(6, 6, 3, stride=2)), norm(6)
        self.fc = nn.Linear(6, 10)

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        return self.fc(self.norm2(self.conv2(x)).relu().mean((2, 3)))


class OneNormalisation(Net):
    def forward(self, x):
        return self.fc(self.norm1(self.conv2(self.norm1(self.conv1(x)).relu())).relu().mean((2, 3)))


class ReadsAWeight(Net):
    def forward(self, x):
        return super().forward(x) * self.conv1.weight.norm()


class TiedConvolutions(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.other = self.conv2

    def forward(self, x):
        x = self.norm1(self.other(self.conv1(x))).relu()
        return self.fc(self.norm2(self.conv2(x)).relu().mean((2, 3)))


def hooked(which, hook, kind="register_forward_hook"):
    net = Net()
    getattr(net.get_submodule(which), kind)(hook)
    return net


NETWORKS = {
    "plain": Net,
    "weight-standardised convolutions": lambda: Net(WeightStandardised),
    "an activation inside a convolution": lambda: Net(ActivatedConvolution),
    "an activation inside a normalisation": lambda: Net(norm=ActivatedNormalisation),
    "spectral_norm": lambda: Net(wrap=parametrizations.spectral_norm),
    "weight_norm": lambda: Net(wrap=parametrizations.weight_norm),
    "old spectral_norm": lambda: Net(wrap=nn.utils.spectral_norm),
    "old weight_norm": lambda: Net(wrap=nn.utils.weight_norm),
    "pixels normalised by a hook": lambda: hooked(
        "", lambda module, given: ((given[0] - 0.5) * 4,), "register_forward_pre_hook"
    ),
    "logits changed by a hook": lambda: hooked("", lambda module, given, out: out.roll(1, 1)),
    "a hook on a convolution": lambda: hooked("conv1", lambda module, given, out: out.clamp(-0.1, 0.1)),
    "a hook on a normalisation": lambda: hooked("norm2", lambda module, given, out: out.clamp(-0.1, 0.1)),
    "a pre-hook on a normalisation": lambda: hooked(
        "norm1", lambda module, given: (given[0].abs(),), "register_forward_pre_hook"
    ),
    "one normalisation for two": OneNormalisation,
    "a weight read beside the call": ReadsAWeight,
    "one convolution under two names": TiedConvolutions,
    "momentum=None": lambda: Net(norm=lambda channels: nn.BatchNorm2d(channels, momentum=None)),
    "DataParallel": lambda: nn.DataParallel(Net()),
}


def made(name):
    """A network whose normalisations are at no neutral value."""
    torch.manual_seed(0)
    net = NETWORKS[name]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.2, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net(images())  # old spectral_norm's vectors move in training mode
        # logits near each other, so that small perturbations decide
        outputs, fc = [], getattr(net, "module", net).fc
        handle = fc.register_forward_hook(lambda module, given, out: outputs.append(out))
        net.eval()(images())
        handle.remove()
        fc.bias -= outputs[0].mean(0)
    return net


def images(count=24, size=12):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_copy_computes_the_same(name):
    """The structure alone keeps every one of these right: nothing has to be dropped for its outputs."""
    net, pixels = made(name), images()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    attacked, why = fast_copy(net, pixels)
    torch.testing.assert_close(attacked(pixels), net(pixels), rtol=1e-4, atol=1e-5)
    assert not why or attacked is net
    assert why == "" or name in ("old weight_norm", "old spectral_norm")
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_no_image_is_robust_that_pgd_on_the_network_breaks(name):
    net = made(name)
    pixels = (images() * 255).to(torch.uint8)
    labels = net(pixels.float() / 255).argmax(1)
    _, verdicts = evaluate(net, pixels, labels, PGD)
    arguments = {key: value for key, value in PGD.items() if key != "method"}
    expected = pgd(net, pixels.float() / 255, labels, **arguments).robust
    assert (verdicts["robust"].bool() == expected).all()
    assert not expected.all()


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda copy: copy.register_forward_hook(lambda module, given, out: out * 1.01), "logits"),
        # the same logits, another gradient
        (
            lambda copy: copy.register_forward_pre_hook(
                lambda module, given: (given[0].detach() + (given[0] - given[0].detach()) * PATTERN,)
            ),
            "gradients",
        ),
    ],
)
def test_a_copy_that_differs_is_dropped(spoil, said, monkeypatch):
    def spoiled(model):
        copy = folded(model)
        spoil(copy)
        return copy

    monkeypatch.setattr("kafnets.evaluation.inspection.folded", spoiled)
    net = made("plain")
    attacked, why = fast_copy(net, images())
    assert attacked is net and said in why and "24" in why
    pixels = (images() * 255).to(torch.uint8)
    figures, _ = evaluate(net, pixels, net(pixels.float() / 255).argmax(1), PGD)
    assert figures["attacked"].startswith("the network itself: ") and said in figures["attacked"]


PATTERN = torch.where(torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(2)) < 0.5, -1.0, 1.0)


class Noisy(nn.Module):
    """A linear classifier behind noise that is drawn in evaluation mode too."""

    def __init__(self, noise=0.3):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.noise = nn.Linear(3 * 12 * 12, 10), noise

    def forward(self, x):
        return self.fc(x.flatten(1) + self.noise * torch.randn_like(x.flatten(1)))


class KeptDropout(Net):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.2, training=True)


@pytest.mark.parametrize("make, random", [(Noisy, True), (KeptDropout, True), (Net, False)])
def test_random_networks_are_known(make, random):
    assert is_random(make(), images()) == random
    assert check_judgeable(make(), images()) == random


def test_a_random_network_is_judged_alike_twice_and_the_record_says_what_it_is():
    net = Noisy()
    pixels = (images(40) * 255).to(torch.uint8)
    labels = net.fc((pixels.float() / 255).flatten(1)).argmax(1)
    settings = {**PGD, "eps": 4 / 255, "step": 1 / 255}
    figures, verdicts = evaluate(net, pixels, labels, settings)
    _, others = evaluate(net, pixels, labels, settings)
    assert torch.equal(verdicts["robust"], others["robust"]) and figures["random"]
    assert figures["attacked"] == "the network itself: it is random"
    assert any("eot_samples" in warning for warning in figures["warnings"])
    averaged, _ = evaluate(net, pixels, labels, {**settings, "eot_samples": 16})
    assert averaged["random"] and not averaged["warnings"]
    assert averaged["clean_accuracy"] > figures["clean_accuracy"]
    arguments = {"eps": 4 / 255, "step": 1 / 255, "iterations": 5}
    first, second = (pgd(net, pixels.float() / 255, labels, **arguments) for _ in range(2))
    assert torch.equal(first.adversarial, second.adversarial) and torch.equal(first.robust, second.robust)


def test_an_expectation_is_the_mean_and_its_gradient_too():
    net, pixels = Noisy(), images(4).requires_grad_()
    torch.manual_seed(3)
    mean = Expectation(net, 5)(pixels)
    torch.manual_seed(3)
    expected = sum(net(pixels) for _ in range(5)) / 5
    torch.testing.assert_close(mean, expected)
    gradients = [torch.autograd.grad(logits.logsumexp(1).sum(), pixels)[0] for logits in (mean, expected)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="eot_samples"):
        Expectation(net, 0)


def test_batch_statistics_have_no_verdict_per_image():
    net = Net(norm=lambda channels: nn.BatchNorm2d(channels, track_running_stats=False))
    assert depends_on_the_batch(net, images())
    assert not depends_on_the_batch(made("plain"), images())
    pixels = (images() * 255).to(torch.uint8)
    with pytest.warns(UserWarning, match="running statistics"):
        pgd(net, images(), torch.zeros(24, dtype=torch.long), eps=0.1, step=0.1, iterations=1)
    with pytest.raises(UserError, match="running statistics"):
        evaluate(net, pixels, torch.zeros(24, dtype=torch.long), PGD)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_another_precision_are_judged_in_it(dtype):
    net, pixels = made("plain"), (images() * 255).to(torch.uint8)
    labels = net(pixels.float() / 255).argmax(1)
    expected, _ = evaluate(net, pixels, labels, PGD)
    figures, _ = evaluate(net.to(dtype), pixels, labels, PGD)
    assert abs(figures["correct"] - expected["correct"]) <= 3

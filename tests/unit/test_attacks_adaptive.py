"""Adaptive attacks: surrogates against their formulas, and an obfuscated network that only they break."""

import copy

import numpy as np
import pytest
import torch
from attack_cases import EPS, STEP, a_set, check_witnesses, small_net
from kafnets import KAF, create_model
from kafnets.activations.kaf.functional import kaf_plain
from kafnets.attacks import adaptive_pgd, pgd, transfer
from kafnets.attacks.adaptive import with_surrogates
from kafnets.evaluation.folding import folded
from torch import nn

BACKWARDS = ("wider", "silu", "differences")


def slope(model, x):
    """The derivative of an elementwise model, and its value."""
    x = x.clone().requires_grad_()
    y = model(x)
    return torch.autograd.grad(y.sum(), x)[0], y.detach()


@pytest.fixture(params=["shared dictionary", "trained dictionary"])
def kaf(request):
    torch.manual_seed(0)
    free = request.param == "trained dictionary"
    layer = KAF(3, std=0.5, trainable_dictionary=free, trainable_bandwidth=free, dtype=torch.float64)
    if free:
        with torch.no_grad():
            layer.dictionary += 0.1 * torch.randn(3, 20)
            layer.bandwidth *= torch.tensor([0.7, 1.0, 1.4])
    return layer


@pytest.fixture
def x():
    return torch.linspace(-4, 4, 60, dtype=torch.float64).view(20, 3)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_values_are_the_same_to_the_bit_and_the_model_is_left_alone(kaf, x, backward):
    model = nn.Sequential(kaf, nn.ReLU(), kaf)
    before = copy.deepcopy(model.state_dict())
    attacked = with_surrogates(model, backward)
    assert torch.equal(slope(attacked, x)[1], model(x)) and torch.equal(attacked(x), model(x))
    assert model[0] is kaf and all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert attacked[0] is attacked[2] and attacked[0].activation is not kaf  # one layer stays one
    assert not torch.equal(slope(attacked, x)[0], slope(model, x)[0])
    assert with_surrogates(model, "exact") is model


def test_silu_is_its_formula(kaf, x):
    sigmoid = 1 / (1 + torch.exp(-x))
    for layer in (kaf, nn.ReLU()):
        found, _ = slope(with_surrogates(nn.Sequential(layer), "silu"), x)
        torch.testing.assert_close(found, sigmoid * (1 + x * (1 - sigmoid)))


@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_differences_are_their_formula(kaf, x, delta):
    h = delta * 6 / 19
    found, _ = slope(with_surrogates(nn.Sequential(kaf), "differences", delta=delta), x)
    parameters = (kaf.alpha, kaf.dictionary, kaf.bandwidth)
    expected = (kaf_plain(x + h, *parameters) - kaf_plain(x - h, *parameters)) / (2 * h)
    torch.testing.assert_close(found, expected.detach())
    found, _ = slope(with_surrogates(nn.Sequential(nn.ReLU()), "differences", delta=delta), x)
    torch.testing.assert_close(found, ((x + h).clamp(0) - (x - h).clamp(0)) / (2 * h))
    tiny, _ = slope(with_surrogates(nn.Sequential(kaf), "differences", delta=1e-3), x)
    torch.testing.assert_close(tiny, slope(kaf, x)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [1.5, 3.0])
def test_wider_is_the_derivative_of_a_least_squares_fit(kaf, x, width):
    found, _ = slope(with_surrogates(nn.Sequential(kaf), "wider", width=width), x)
    alpha = kaf.alpha.detach().numpy()
    dictionary = np.broadcast_to(kaf.dictionary.detach().numpy(), (3, 20))
    gamma = np.broadcast_to(kaf.bandwidth.detach().numpy(), 3)
    for c in range(3):
        d, wide = dictionary[c], gamma[c] / width**2
        grid = np.linspace(d.min(), d.max(), 8 * 19 + 1)
        target = np.exp(-gamma[c] * (grid[:, None] - d) ** 2) @ alpha[c]
        design = np.exp(-wide * (grid[:, None] - d) ** 2)
        # ridge regression as least squares with rows that pull the coefficients to zero
        rows = np.concatenate([design / np.sqrt(len(grid)), np.sqrt(1e-4) * np.eye(20)])
        beta = np.linalg.lstsq(rows, np.concatenate([target / np.sqrt(len(grid)), np.zeros(20)]), rcond=None)[
            0
        ]
        u = x[:, c].numpy()[:, None] - d
        expected = (-2 * wide * u * np.exp(-wide * u**2)) @ beta
        np.testing.assert_allclose(found[:, c].numpy(), expected, rtol=1e-6, atol=1e-8)
    relu = nn.Sequential(nn.ReLU())
    assert torch.equal(slope(with_surrogates(relu, "wider"), x)[0], slope(relu, x)[0])


@pytest.mark.parametrize("backward", BACKWARDS)
def test_every_activation_of_a_folded_network_is_replaced(backward):
    torch.manual_seed(0)
    model = folded(create_model("resnet8", activation="kaf_elu"))
    attacked = with_surrogates(model, backward)
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    assert torch.equal(attacked(images), model(images))
    gradients = [torch.autograd.grad(net(images)[:, 0].sum(), images)[0] for net in (attacked, model)]
    assert not torch.allclose(*gradients)


def obfuscated(count=16):
    """f(w x) > 0 decides; f climbs, but in ripples so steep that half of its derivatives have the wrong sign.

    Returns:
        the network, images of class 0, and a radius within which each can be moved to class 1.
    """
    torch.manual_seed(0)
    layer = KAF(1, D=40, bandwidth=1 / (0.6 * (6 / 39) ** 2), dtype=torch.float64)
    with torch.no_grad():
        ripples = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(20)
        layer.alpha.copy_(0.7 * layer.dictionary + 0.6 * ripples)
    weight = torch.randn(1, 48, dtype=torch.float64).sign() / 48
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), layer, nn.Linear(1, 3))
    net = net.double()
    with torch.no_grad():
        net[1].weight.copy_(10 * weight)
        net[1].bias.copy_(-10 * weight.sum(1) / 2)
        net[3].weight.copy_(torch.tensor([[1.0], [-1.0], [0.0]]))
        net[3].bias.zero_()
    z = torch.linspace(1.0, 1.2, count, dtype=torch.float64)
    images = (0.5 + weight.sign() * z[:, None] / 10).view(count, 3, 4, 4)
    return net, images, 0.2


def test_what_pgd_cannot_break_the_adaptive_attack_does():
    net, images, eps = obfuscated()
    labels = torch.zeros(len(images), dtype=torch.long)
    settings = dict(eps=eps, step=eps / 40, iterations=50)
    exact = pgd(net, images, labels, restarts=5, **settings)
    assert exact.clean.all() and exact.robust.all()  # it looks robust
    for backward in ("wider", "differences", "silu"):
        broken = adaptive_pgd(net, images, labels, backward=backward, width=4.0, delta=2.0, **settings)
        assert not broken.robust.any(), backward
        check_witnesses(net, images, labels, broken, eps=eps)
    assert adaptive_pgd(net, images, labels, backward="exact", restarts=5, **settings).robust.all()


def test_it_starts_from_what_fools_other_models_and_keeps_to_survivors():
    net, other = small_net(), small_net(seed=5)
    images, labels = a_set(net)
    settings = dict(eps=EPS, step=STEP, iterations=4)
    sent = transfer(net, images, labels, sources=[other, net], **settings)
    calls = []
    settings["batch_size"] = 7
    result = adaptive_pgd(
        net, images, labels, sources=[other, net], progress=lambda *figures: calls.append(figures), **settings
    )
    assert not (result.robust & ~sent.robust).any()
    assert sent.robust.sum() < sent.clean.sum()
    check_witnesses(net, images, labels, result)
    assert calls[-1] == (result.queries, 0, result.robust.double().mean().item())
    settings = dict(eps=EPS, step=STEP / 4, iterations=3)
    alone = adaptive_pgd(net, images, labels, **settings)
    more = adaptive_pgd(net, images, labels, restarts=4, **settings)
    assert not (more.robust & ~alone.robust).any()
    # three runs more, but only of what stood the first
    assert 0 < more.queries - alone.queries <= 3 * alone.robust.sum() * 6
    again = adaptive_pgd(net, images, labels, restarts=4, **settings)
    assert torch.equal(again.adversarial, more.adversarial)


def test_the_losses_take_turns():
    net = small_net()
    images, labels = a_set(net)
    settings = dict(eps=EPS, step=STEP / 4, iterations=3)
    third = adaptive_pgd(net, images, labels, restarts=3, **settings).robust
    assert not (third & ~pgd(net, images, labels, loss="cross_entropy", **settings).robust).any()
    one = adaptive_pgd(net, images, labels, loss="cross_entropy", restarts=3, **settings).robust
    assert torch.equal(one, pgd(net, images, labels, restarts=3, **settings).robust)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backward": "wide"}, "backward: 'wide' is not known; choose one of exact"),
        ({"loss": "hinge"}, "loss: 'hinge' is not known; choose one of ensemble"),
        ({"backward": "wider", "width": 0.5}, "width"),
        ({"backward": "differences", "delta": 0}, "delta"),
        ({"restarts": 0}, "restarts"),
        ({"eps": 8}, "eps"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    net = small_net()
    images, labels = a_set(net, count=4)
    with pytest.raises(ValueError, match=said):
        adaptive_pgd(net, images, labels, **{"eps": EPS, "step": STEP, "iterations": 1, **arguments})


def test_networks_whose_activations_cannot_be_replaced():
    with pytest.raises(ValueError, match="backward: the model has no activation modules"):
        with_surrogates(nn.Linear(2, 2), "silu")
    with pytest.raises(ValueError, match="the kernel relu has no bandwidth"):
        with_surrogates(nn.Sequential(KAF(2, kernel="relu")), "wider")

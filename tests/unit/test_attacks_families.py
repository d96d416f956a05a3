"""The other families of attacks: exact cases, an independent library, and our bookkeeping."""

import pytest
import torch
from attack_cases import EPS, STEP, a_set, check_witnesses, small_net
from kafnets.attacks import auto_attack as standard
from kafnets.attacks import black_box as blind
from kafnets.attacks import minimum_norm as minimal
from kafnets.attacks import pgd
from torch import nn


def linear_case(count=12):
    """An affine classifier and images near grey, for which the nearest boundary is known."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    images = 0.5 + 0.15 * torch.randn(200, 3, 4, 4).clamp(-2, 2)
    with torch.no_grad():
        net[1].weight.mul_(2)
        net[1].bias.copy_(-net[1].weight.sum(1) * 0.5)
        logits = net(images)
    first, second = logits.topk(2).values.T
    sure = (first - second).topk(count).indices
    return net, images[sure], logits.argmax(1)[sure]


def exact_distances(net, images, labels, norm):
    """min over j of (z_y - z_j) / |w_y - w_j| in the dual norm."""
    weight = net[1].weight.detach()
    with torch.no_grad():
        logits = net(images)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = (weight[labels][:, None] - weight[None]).norm(dim=2, p=1 if norm == "linf" else 2)
    return (gaps / slopes).scatter(1, labels[:, None], torch.inf).amin(1)


NEAREST = [
    (minimal.deepfool, "l2", {"iterations": 20}, 1.03),
    (minimal.deepfool, "linf", {"iterations": 20}, 1.03),
    (minimal.cw, "l2", {"iterations": 200, "search_steps": 6}, 1.1),
    (minimal.fmn, "linf", {"iterations": 300}, 1.15),
    (minimal.fmn, "l2", {"iterations": 300}, 1.1),
]


@pytest.mark.parametrize("attack, norm, settings, looseness", NEAREST)
def test_nearest_images_of_an_affine_classifier(attack, norm, settings, looseness):
    pytest.importorskip("foolbox")
    net, images, labels = linear_case()
    exact = exact_distances(net, images, labels, norm)
    radius = exact.median().item() * 1.2
    if attack is not minimal.cw:
        settings = {**settings, "norm": norm}
    wrong = labels.clone()
    wrong[0] = (labels[0] + 1) % 5
    result = attack(net, images, wrong, eps=radius, batch_size=5, **settings)
    assert result.distances[0] == 0 and not result.robust[0] and not result.clean[0]
    found, exact = result.distances[1:], exact[1:]
    assert (found >= exact * 0.999).all(), "nearer than possible"
    assert (found <= exact * looseness + 1e-4).all(), "far from the nearest"
    assert torch.equal(result.robust[1:], found > radius)
    assert torch.equal(result.adversarial[result.robust], images[result.robust])
    with torch.no_grad():
        assert (net(result.adversarial).argmax(1) != wrong)[~result.robust].all()
    assert result.queries > len(images) and result.gradients > 0


@pytest.mark.parametrize("attack", [standard.apgd_ce, standard.apgd_t, standard.fab_t, standard.square])
def test_every_part_decides_an_affine_classifier(attack):
    """Inside the exact radius nothing can be found; well outside it a gradient attack finds everything."""
    pytest.importorskip("pyautoattack")
    net, images, labels = linear_case()
    exact = exact_distances(net, images, labels, "linf")
    settings = {"queries": 300} if attack is standard.square else {"iterations": 20}
    near = attack(net, images, labels, eps=exact.min().item() * 0.98, **settings)
    assert near.robust.all() and torch.equal(near.adversarial, images)
    radius = exact.max().item() * (3 if attack is standard.square else 1.5)
    far = attack(net, images, labels, eps=radius, batch_size=5, **settings)
    assert not far.robust.any()
    check_witnesses(net, images, labels, far, eps=radius)


PAIRS = {
    "apgd_ce": lambda library, net: library.APGD(net, eps=EPS / 3, steps=20, loss="ce"),
    "apgd_t": lambda library, net: library.APGDT(net, eps=EPS / 3, steps=20, n_classes=5),
    "fab_t": lambda library, net: library.FAB(net, eps=EPS / 3, steps=20, multi_targeted=True, n_classes=5),
    "square": lambda library, net: library.Square(net, eps=EPS / 3, n_queries=200, resc_schedule=False),
}


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_torchattacks(name):
    torchattacks = pytest.importorskip("torchattacks")
    pytest.importorskip("pyautoattack")
    net = small_net(dtype=torch.float32).eval()
    images, labels = a_set(net)
    settings = {"queries": 200} if name == "square" else {"iterations": 20}
    ours = getattr(standard, name)(net, images, labels, eps=EPS / 3, **settings)
    theirs = PAIRS[name](torchattacks, net)(images, labels)
    with torch.no_grad():
        robust = (net(theirs).argmax(1) == labels) & ours.clean
    assert 0 < ours.robust.sum() < ours.clean.sum()
    # their random numbers differ, so images at the edge may
    assert (ours.robust != robust).sum() <= 0.1 * len(images)
    check_witnesses(net, images, labels, ours)


def test_autoattack_is_the_parts_on_survivors_and_the_strongest():
    pytest.importorskip("pyautoattack")
    net = small_net(dtype=torch.float32)
    images, labels = a_set(net, count=8)
    state = torch.random.get_rng_state()
    whole = standard.autoattack(net, images, labels, eps=EPS / 3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    part = standard.apgd_ce(net, images, labels, eps=EPS / 3, seed=1)
    again = standard.apgd_ce(net, images, labels, eps=EPS / 3, seed=1)
    assert torch.equal(part.adversarial, again.adversarial)
    assert not (whole.robust & ~part.robust).any()
    weak = pgd(net, images, labels, eps=EPS / 3, step=STEP / 3, iterations=3)
    assert whole.robust.sum() <= weak.robust.sum()
    assert whole.queries > part.queries > whole.clean.sum()
    check_witnesses(net, images, labels, whole)


def test_noise_is_weaker_than_pgd_and_counts_its_queries():
    net = small_net()
    images, labels = a_set(net)
    random = blind.noise(net, images, labels, eps=EPS, samples=5)
    attacked = pgd(net, images, labels, eps=EPS, step=STEP, iterations=5)
    assert attacked.robust.sum() < random.robust.sum() <= random.clean.sum()
    assert random.gradients == 0
    fewer = blind.noise(net, images, labels, eps=EPS, samples=2)
    assert not (random.robust & ~fewer.robust).any()


def test_transfer_from_itself_is_white_box_and_from_others_is_weaker():
    net, other = small_net(), small_net(seed=5)
    images, labels = a_set(net)
    settings = dict(eps=EPS, step=STEP, iterations=4)
    itself = blind.transfer(net, images, labels, sources=[net], **settings)
    white = pgd(net, images, labels, **settings, momentum=1.0, early_stop=False, starts=images[None])
    assert torch.equal(itself.robust, white.robust)
    others = blind.transfer(net, images, labels, sources=[other], **settings)
    assert others.robust.sum() > itself.robust.sum()
    both = blind.transfer(net, images, labels, sources=[other, net], **settings)
    assert torch.equal(both.robust, others.robust & itself.robust)
    check_witnesses(net, images, labels, both)
    with pytest.raises(ValueError, match="sources"):
        blind.transfer(net, images, labels, sources=[], **settings)


@pytest.mark.parametrize("attack", [standard.apgd_ce, minimal.deepfool, blind.noise])
def test_modes_come_back(attack):
    pytest.importorskip("pyautoattack")
    pytest.importorskip("foolbox")
    net = small_net(dtype=torch.float32).train()
    net[1].eval()
    images, labels = a_set(net, count=6)
    modes = [module.training for module in net.modules()]
    attack(net, images, labels, eps=EPS, **({} if attack is blind.noise else {"iterations": 2}))
    assert [module.training for module in net.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())

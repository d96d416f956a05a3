"""Each attack beside an independent implementation on the same network.

Elsewhere: fgsm and pgd on the cross-entropy in test_attacks.py; momentum in test_attacks_pgd_variants.py;
apgd_ce, apgd_t, fab_t and square in test_attacks_families.py.
"""

import pytest
import torch
from attack_cases import EPS, STEP, a_set, check_witnesses, random_starts, small_net
from kafnets.attacks import apgd_ce, apgd_t, cw, deepfool, fab_t, fmn, pgd, square, transfer
from torch.nn import functional

foolbox = pytest.importorskip("foolbox")
torchattacks = pytest.importorskip("torchattacks")
pytest.importorskip("pyautoattack")


def losses(net):
    """The losses as torch and torchattacks have them, functions of logits and labels."""
    return {
        "cross_entropy": lambda logits, labels: functional.cross_entropy(logits, labels, reduction="sum"),
        "margin": lambda logits, labels: (
            (logits - 1e9 * functional.one_hot(labels, 5)).amax(1) - logits[range(len(labels)), labels]
        ).sum(),
        "dlr": lambda logits, labels: torchattacks.APGD(net).dlr_loss(logits, labels).sum(),
    }


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_pgd_of_every_loss_and_norm_moves_as_foolboxs(loss, norm):
    net = small_net().eval()
    images, labels = a_set(net)
    eps, step = (EPS, STEP) if norm == "linf" else (0.8, 0.2)
    starts = random_starts(images, 1, eps=eps if norm == "linf" else eps / 30)
    attacks = foolbox.attacks
    kind = attacks.LinfPGD if norm == "linf" else attacks.L2PGD

    class Fixed(kind):
        def get_random_start(self, x0, epsilon):
            return x0.__class__(starts[0])

        def get_loss_fn(self, model, labels):
            return lambda x: x.__class__(losses(net)[loss](net(x.raw), labels.raw))

    attack = Fixed(abs_stepsize=step, steps=6, random_start=True)
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    theirs = attack.run(model, images, foolbox.criteria.Misclassification(labels), epsilon=eps)
    settings = {"step": step, "iterations": 6, "loss": loss, "norm": norm, "early_stop": False}
    ours = pgd(net, images, labels, eps=eps, starts=starts, **settings)
    torch.testing.assert_close(ours.adversarial, theirs, atol=1e-6, rtol=0)


def test_transfer_is_torchattacks_momentum_attack_on_the_source():
    net, source = small_net().eval(), small_net().eval()
    with torch.no_grad():
        for weight in source.parameters():
            weight += 0.5 * weight.std() * torch.randn_like(weight) if weight.dim() > 1 else 0
    images, labels = a_set(net)
    ours = transfer(net, images, labels, sources=[source], eps=EPS, step=STEP, iterations=6)
    theirs = torchattacks.MIFGSM(source, eps=EPS, alpha=STEP, steps=6, decay=1.0)(images, labels)
    with torch.no_grad():
        robust = (net(theirs).argmax(1) == labels) & ours.clean
    assert 0 < robust.sum() < ours.clean.sum()
    assert torch.equal(ours.robust, robust)


def lengths_of(net, images, others, labels, norm):
    """How far the images are that fool the network, infinite for others."""
    with torch.no_grad():
        fooled = net(others).argmax(1) != labels
    found = (others - images).flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2)
    return torch.where(fooled, found, torch.inf)


def alike(ours, theirs, clean, slack):
    """Median ratio of the distances of the images that both fooled, near one."""
    both = clean & ours.isfinite() & theirs.isfinite()
    assert both.sum() >= 0.9 * clean.sum()
    assert (ours / theirs)[both].median().item() == pytest.approx(1, abs=slack)


def test_deepfool_goes_as_far_as_torchattacks():
    net = small_net(dtype=torch.float32).eval()
    images, labels = a_set(net)
    theirs = torchattacks.DeepFool(net, steps=50, overshoot=0.02)(images, labels)
    ours = deepfool(net, images, labels)
    # theirs stop on the boundary itself, where rounding decides
    alike(ours.distances, (theirs - images).flatten(1).norm(dim=1), ours.clean, 0.03)


def test_cw_is_no_farther_than_torchattacks():
    """Theirs has one weight of the penalty for all images: a few of them stand for the search."""
    net = small_net(dtype=torch.float32).eval()
    images, labels = a_set(net, count=24)
    ours = cw(net, images, labels, iterations=150, search_steps=6)
    found = [torchattacks.CW(net, c=c, steps=150, lr=0.01)(images, labels) for c in (10.0, 30.0, 100.0)]
    nearest = torch.stack([lengths_of(net, images, one, labels, "l2") for one in found]).amin(0)
    alike(ours.distances, nearest, ours.clean, 0.05)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fmn_goes_as_far_as_foolboxs(norm):
    """In L2 ours is nearer than theirs after as many steps, and nearer than Carlini and Wagner's."""
    net = small_net(dtype=torch.float32).eval()
    images, labels = a_set(net, count=24)
    attack = (foolbox.attacks.LInfFMNAttack if norm == "linf" else foolbox.attacks.L2FMNAttack)(steps=200)
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    theirs = attack(model, images, foolbox.criteria.Misclassification(labels), epsilons=None)[1]
    theirs = lengths_of(net, images, theirs, labels, norm)
    ours = fmn(net, images, labels, norm=norm, iterations=200)
    if norm == "linf":
        alike(ours.distances, theirs, ours.clean, 0.05)
    else:
        assert (ours.distances / theirs)[ours.clean].median() <= 1
        other = cw(net, images, labels, iterations=150, search_steps=6)
        assert (ours.distances <= 1.02 * other.distances)[ours.clean].all()
        found = lengths_of(net, images, ours.adversarial, labels, norm)
        torch.testing.assert_close(found[ours.clean], ours.distances[ours.clean])


@pytest.mark.parametrize("attack", [apgd_ce, apgd_t, fab_t, square])
def test_the_order_in_memory_does_not_matter(attack):
    """The pipeline stores images and networks channels-last; the package reads the plain order only."""
    net = small_net(dtype=torch.float32).eval()
    images, labels = a_set(net, count=12)
    settings = {"queries": 30} if attack is square else {"iterations": 5}
    plain = attack(net, images, labels, eps=EPS / 3, **settings)
    other = images.contiguous(memory_format=torch.channels_last)
    last = attack(net.to(memory_format=torch.channels_last), other, labels, eps=EPS / 3, **settings)
    # convolutions of the other order round differently, so an image at the edge may
    assert (plain.robust != last.robust).sum() <= 1
    check_witnesses(net, images, labels, last)

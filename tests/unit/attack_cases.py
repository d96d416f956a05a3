"""Small networks and image sets that attacks are tried on."""

import copy

import torch
from torch import nn

EPS, STEP = 16 / 255, 4 / 255


def small_net(seed=0, dtype=torch.float64, activation=nn.SiLU):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
    ).to(dtype)
    with torch.no_grad():
        net[1].running_mean.normal_(0, 0.1)
        net[1].running_var.uniform_(0.5, 1.5)
        net[7].weight.mul_(4)
    return net


def a_set(net, count=48, seed=1, wrong=0.2):
    """Images, and labels that are mostly the model's own predictions: most images are right when clean."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(net.parameters()).dtype
    images = torch.rand(count, 3, 16, 16, generator=generator, dtype=dtype)
    # some pixels at the ends of the range, where clipping matters
    images = ((images - 0.5) * 1.4 + 0.5).clamp(0, 1)
    with torch.no_grad():
        first, second = copy.deepcopy(net).eval()(images).topk(2).indices.T
    stray = torch.rand(count, generator=generator) < wrong
    return images, torch.where(stray, second, first)


def random_starts(images, restarts, eps=EPS, seed=3):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(restarts, *images.shape, generator=generator, dtype=images.dtype) * 2 - 1
    return (images + eps * noise).clamp(0, 1)


def check_witnesses(net, images, labels, result, eps=EPS):
    """Every image called fooled comes with a valid image that fools the model."""
    with torch.no_grad():
        right = copy.deepcopy(net).eval()(result.adversarial).argmax(1) == labels
    assert not right[~result.robust & result.clean].any()
    assert (result.adversarial - images).abs().max() <= eps + 1e-6
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1

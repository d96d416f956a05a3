"""The detector network of Metzen et al.: a small classifier on a feature map of the network."""

import torch
from torch import nn

from ..runtime.errors import UserError
from .base import Detector, layer_of, middle_of


class Metzen(Detector):
    """A binary subnetwork on an intermediate feature map of the frozen network.

    Three 3x3 convolutions with normalisation and ReLU, the first two followed by 2x2 max-pooling while the
    map is larger than 2 x 2, a 1x1 convolution to one channel, and the mean over all places: the log-odds of
    the image being adversarial.

    Args:
        network (nn.Module): the classifier.
        images (Tensor): (n, C, H, W), at least one, by which the map's size is known.
        layer (str, optional): the layer whose output it takes. Default: that of :func:`.base.middle_of`
        width (int): channels of the first convolution; the others have twice as many.

    Raises:
        UserError: for a layer that is not there, or whose output is no feature map.

    Source: Metzen, Genewein, Fischer & Bischoff 2017, arXiv:1702.04267, "AD(2)" of their ResNet (the order of
    layers is theirs in outline; the widths are 96 and 192).
    """

    def __init__(self, network, images, layer=None, width=96):
        super().__init__(network)
        self.layer = middle_of(network) if layer is None else layer
        self.layers = {self.layer: layer_of(network, self.layer)}
        with torch.no_grad():
            _, some = self.features(images[:1])
        if some.dim() != 4:
            raise UserError(
                f"layer: the output of {self.layer} is no feature map (N, C, H, W), it is "
                f"{tuple(some.shape)}; write the name of a convolution or of a stage"
            )
        layers, channels, size = [], some.shape[1], min(some.shape[2:])
        for outputs, pooled in ((width, True), (2 * width, True), (2 * width, False)):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            channels = outputs
            if pooled and size > 2:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        self.subnetwork = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))
        self.subnetwork.to(some.device, some.dtype)

    def features_of(self, logits, seen):
        return seen[self.layer][-1][1]

    def score_of(self, features):
        return self.subnetwork(features).mean((1, 2, 3))

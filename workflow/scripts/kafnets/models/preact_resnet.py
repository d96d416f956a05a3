"""The network of the literature on adversarial training."""

from torch import nn

from ..activations import layer_factory
from .resnet import PreActBlock, PreActivation, normalization

_WIDTHS = (64, 128, 256, 512)
SKIP_INPUTS = ("activated", "input")

_DOUBT = (
    "the weights are of another implementation and fit either form of the shortcuts, so this network may be "
    "wrong: give create_model skip_input='activated' (1x1 convolutions of the activated input) or 'input' "
    "(of the input itself), whichever has the accuracy to be expected"
)


class PreActResNet18(nn.Module):
    r"""A pre-activation residual network of 8 blocks with 64 to 512 channels, for CIFAR-sized images.

    A 3x3 convolution, four stages of two :class:`.resnet.PreActBlock` (the last three halve the size, with a
    1x1 convolution as the shortcut), a normalisation and an activation, global average pooling, dense logits.
    All weights start as torch starts them.

    Args:
        activation (str): name of the activation; each site gets an instance of its own.
        num_classes (int): the number of logits.
        activation_arguments (dict): passed on to every activation.
        skip_input (str, optional): what the 1x1 convolutions are applied to: ``"activated"``, the normalised
            and activated input (He et al.; K. Liu's PyTorch code), or ``"input"``, the input itself (the code
            of N-FGSM and GradAlign). Weights trained with one fit the other and give wrong logits.
            Default: ``"activated"``
        mean, std (sequence of 3 floats, optional): the input's normalisation, as of :class:`.resnet.ResNet`.
        image_shape (sequence of 3 ints): channels, rows and columns of the images; only the first is used.

    Shape:
        - Input: :math:`(N, C, H, W)` in [0, 1]
        - Output: :math:`(N, \text{num\_classes})`

    Raises:
        ValueError: for another skip_input, or a mean or std that is not three numbers.

    Source: K. He, X. Zhang, S. Ren and J. Sun, ECCV 2016, arXiv:1603.05027.
    """

    # What the literature's code calls these layers, for :func:`kafnets.load_state_dict`.
    OTHER_NAMES = (
        (r"^conv1\.", "stem."),
        (r"^bn\.", "last.bn."),
        (r"^linear\.", "fc."),
        (r"\.shortcut\.", ".skip."),
    )

    def __init__(
        self,
        activation,
        num_classes=10,
        activation_arguments=None,
        skip_input=None,
        mean=None,
        std=None,
        image_shape=(3, 32, 32),
    ):
        super().__init__()
        if skip_input not in (None, *SKIP_INPUTS):
            raise ValueError(f"skip_input: must be one of {', '.join(SKIP_INPUTS)}, got {skip_input!r}")
        self.doubt = None if skip_input else _DOUBT
        activate = layer_factory(activation, activation_arguments)
        self.normalize = normalization(mean, std)
        self.stem = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
        before = 64
        for number, width in enumerate(_WIDTHS, 1):
            stage = _stage(before, width, 1 if number == 1 else 2, activate, skip_input or SKIP_INPUTS[0])
            setattr(self, f"layer{number}", stage)
            before = width
        self.last = PreActivation(before, activate)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x):
        h = self.stem(self.normalize(x))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return self.fc(self.last(h).mean((2, 3)))


def _stage(inputs, outputs, stride, activate, skip_input):
    skip = None
    if stride != 1 or inputs != outputs:
        skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
    first = PreActBlock(inputs, outputs, stride, activate, skip, skip_input)
    return nn.Sequential(first, PreActBlock(outputs, outputs, 1, activate))

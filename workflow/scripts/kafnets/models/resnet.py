"""Residual networks for CIFAR-sized images, in the thesis's form and in those of the papers."""

from functools import partial
from math import isfinite
from numbers import Real

import torch
from torch import nn
from torch.nn import functional

from ..activations import layer_factory

THESIS_BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}
BLOCKS = ("thesis", "original", "preact")
SHORTCUTS = ("pad_end", "pad_both", "projection")

# The standard deviation of a unit normal cut off at two: Keras divides by it, so that the truncated
# draws have the variance asked for.
TRUNCATED_STD = 0.87962566103423978


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": with stride 2 and even sizes, bottom and right only."""

    scales_with_weight = True  # and shifts with its bias, as evaluation/folding.py may do with it

    def forward(self, x):
        return super().forward(functional.pad(x, self.margins(x)))

    def margins(self, x):
        """The zeros around `x`, as of torch.nn.functional.pad; the rest is a plain convolution."""
        rows, columns = (
            _same_padding(size, kernel, stride)
            for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        )
        return (*columns, *rows)


def _same_padding(size, kernel, stride):
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _conv3x3(inputs, outputs, stride):
    if stride == 1:
        return nn.Conv2d(inputs, outputs, 3, padding=1)
    return SameConv2d(inputs, outputs, 3, stride)


class ThesisBlock(nn.Module):
    """act(bn2(conv2(act(bn1(conv1(x)))) + skip(x))): the second normalisation follows the addition.

    The skip is the identity, or an unnormalised 3x3 convolution where the size halves. All convolutions have
    biases.
    """

    def __init__(self, inputs, outputs, stride, activate):
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs, **THESIS_BATCH_NORM)
        self.act1 = activate(outputs)
        self.conv2 = _conv3x3(outputs, outputs, 1)
        self.skip = nn.Identity() if stride == 1 else _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs, **THESIS_BATCH_NORM)
        self.act2 = activate(outputs)

    def forward(self, x):
        h = self.conv2(self.act1(self.bn1(self.conv1(x))))
        return self.act2(self.bn2(h + self.skip(x)))


class PaddedShortcut(nn.Module):
    """Every second pixel, and zeros for the new channels: `before` the old ones, and `after` them."""

    def __init__(self, stride, before, after):
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self):
        return f"stride={self.stride}, before={self.before}, after={self.after}"


def _shortcut(kind, inputs, outputs, stride, normalised=True):
    if stride == 1:
        return nn.Identity()
    if kind == "projection":
        convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        return nn.Sequential(convolution, *([nn.BatchNorm2d(outputs)] if normalised else []))
    before = (outputs - inputs) // 2 if kind == "pad_both" else 0
    return PaddedShortcut(stride, before, outputs - inputs - before)


class OriginalBlock(nn.Module):
    """act(bn2(conv2(act(bn1(conv1(x))))) + skip(x)), the block of the paper's CIFAR-10 networks.

    The skip is the identity; where the size halves, what `shortcut` of :class:`ResNet` says. Convolutions
    have no biases.
    """

    def __init__(self, inputs, outputs, stride, activate, shortcut="pad_end"):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = activate(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.skip = _shortcut(shortcut, inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = activate(outputs)

    def forward(self, x):
        h = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(h + self.skip(x))


class PreActBlock(nn.Module):
    """conv2(act2(bn2(conv1(h)))) + skip, h = act1(bn1(x)): nothing follows the addition.

    The skip is x itself; where the size halves or the channels change, `skip` of h (as in the papers'
    projections) or of x. Convolutions have no biases.

    Args:
        inputs, outputs, stride: channels before and after, and the first convolution's stride.
        activate (callable): channels to an activation layer.
        skip (nn.Module, optional): where the sum's terms would not fit otherwise.
        skip_input (str): what it is applied to: "activated" (h) or "input" (x).
    """

    def __init__(self, inputs, outputs, stride, activate, skip=None, skip_input="activated"):
        super().__init__()
        self.skip_input = skip_input
        self.bn1 = nn.BatchNorm2d(inputs)
        self.act1 = activate(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = activate(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.skip = skip

    def forward(self, x):
        h = self.act1(self.bn1(x))
        if self.skip is not None:
            x = self.skip(h if self.skip_input == "activated" else x)
        return self.conv2(self.act2(self.bn2(self.conv1(h)))) + x


class PreActivation(nn.Module):
    """The normalisation and the activation that end a network of pre-activation blocks."""

    def __init__(self, channels, activate):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.act = activate(channels)

    def forward(self, x):
        return self.act(self.bn(x))


class Stem(nn.Module):
    """The first convolution, its normalisation and its activation."""

    def __init__(self, inputs, outputs, activate, bias=False, batch_norm=None):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(outputs, **(batch_norm or {}))
        self.act = activate(outputs)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Normalize(nn.Module):
    """(x - mean) / std for each channel."""

    def __init__(self, mean, std):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(
                name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False
            )

    def forward(self, x):
        return (x - self.mean) / self.std

    def extra_repr(self):
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


_DOUBT = (
    "the weights are of another implementation and fit either padding of the shortcuts, so this network may "
    "be wrong: give create_model shortcut='pad_end' or 'pad_both', whichever has the accuracy to be expected"
)


class ResNet(nn.Module):
    r"""A residual network of depth :math:`6n + 2` with 16, 32 and 64 channels.

    Stem, three stages of n blocks (the second and third halve the size), global average pooling, dense
    logits.

    Args:
        activation (str): name of the activation; each site gets an instance of its own.
        num_classes (int): the number of logits.
        activation_arguments (dict): passed on to every activation.
        depth (int): :math:`6n + 2`: 8, 20, 32, 44, 56, 110.
        block (str): ``"thesis"`` (normalisation after the addition, 3x3 convolution without normalisation
            as the shortcut, TensorFlow's asymmetric "SAME" padding, biases; convolutions start
            Glorot-uniform, the dense layer He-normal), ``"original"`` (He et al.; He-normal) or ``"preact"``
            (see :class:`PreActBlock`; the stem is a convolution alone, and a normalisation and an
            activation precede the pooling; He-normal).
        shortcut (str, optional): of ``"original"`` and ``"preact"`` blocks where the size halves.
            ``"pad_end"``: every second pixel, zeros after the old channels (option A of the paper, as in the
            original Torch code); ``"pad_both"``: half of the zeros before, half after them (option A in the
            popular PyTorch code of CIFAR ResNets, whose state_dict has ``linear.weight``);
            ``"projection"``: a 1x1 convolution (option B; ``downsample.0.weight``), in ``"original"`` blocks
            with its normalisation. Weights trained with one padding fit the other and give wrong logits.
            Default: ``"pad_end"``
        mean, std (sequence of 3 floats, optional): the input's normalisation, a layer of the network: pixels
            stay in [0, 1]. Networks of others need the one that they were trained with. Default: none
        image_shape (sequence of 3 ints): channels, rows and columns of the images; only the first is used.

    Shape:
        - Input: :math:`(N, C, H, W)` in [0, 1]
        - Output: :math:`(N, \text{num\_classes})`

    Raises:
        ValueError: for a depth that is not 6n + 2, an unknown block or shortcut, a shortcut with the thesis's
            block (it has its own), or a mean or std that is not three numbers.

    Sources: K. He, X. Zhang, S. Ren and J. Sun, CVPR 2016, section 4.2, and ECCV 2016, arXiv:1603.05027;
    F. Peconi, MSc thesis, Sapienza 2020.
    """

    # What other CIFAR ResNets call these layers, for :func:`kafnets.load_state_dict`.
    OTHER_NAMES = (
        (r"^conv1\.", "stem.conv."),
        (r"^bn1\.", "stem.bn."),
        (r"^linear\.", "fc."),
        (r"\.(downsample|shortcut)\.", ".skip."),
    )

    def __init__(
        self,
        activation,
        num_classes=10,
        activation_arguments=None,
        depth=20,
        block="thesis",
        shortcut=None,
        mean=None,
        std=None,
        image_shape=(3, 32, 32),
    ):
        super().__init__()
        self.doubt = None if shortcut or block == "thesis" else _DOUBT
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth: must be 6n + 2 with n >= 1 (8, 20, 32, ...), got {depth!r}")
        if block not in BLOCKS:
            raise ValueError(f"block: must be one of {', '.join(BLOCKS)}, got {block!r}")
        if shortcut not in (None, *SHORTCUTS):
            raise ValueError(f"shortcut: must be one of {', '.join(SHORTCUTS)}, got {shortcut!r}")
        thesis = block == "thesis"
        if thesis and shortcut is not None:
            raise ValueError(
                f"shortcut: {shortcut!r} is for block='original' or 'preact', the thesis's block has its own"
            )

        activate = layer_factory(activation, activation_arguments)
        make_block = _maker(block, shortcut or "pad_end")
        self.normalize = normalization(mean, std)
        if block == "preact":
            self.stem = nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False)
        else:
            norms = {"bias": True, "batch_norm": THESIS_BATCH_NORM} if thesis else {}
            self.stem = Stem(image_shape[0], 16, activate, **norms)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(make_block, 16, 16, blocks, activate)
        self.layer2 = _stage(make_block, 16, 32, blocks, activate)
        self.layer3 = _stage(make_block, 32, 64, blocks, activate)
        self.last = PreActivation(64, activate) if block == "preact" else None
        self.fc = nn.Linear(64, num_classes)
        _initialise(self, nn.init.xavier_uniform_ if thesis else _he_normal_)

    def forward(self, x):
        h = self.layer3(self.layer2(self.layer1(self.stem(self.normalize(x)))))
        return self.fc((h if self.last is None else self.last(h)).mean((2, 3)))


def _maker(block, shortcut):
    """What makes one of a network's blocks, given its channels, stride and activation."""
    if block == "thesis":
        return ThesisBlock
    if block == "original":
        return partial(OriginalBlock, shortcut=shortcut)

    def make(inputs, outputs, stride, activate):
        skip = None if stride == 1 else _shortcut(shortcut, inputs, outputs, stride, normalised=False)
        # without parameters it shall be a skip indeed, which no activation is on
        skip_input = "activated" if shortcut == "projection" else "input"
        return PreActBlock(inputs, outputs, stride, activate, skip, skip_input)

    return make


def normalization(mean, std):
    if mean is None and std is None:
        return nn.Identity()
    for name, values in (("mean", mean), ("std", std)):
        wrong = not isinstance(values, list | tuple) or len(values) != 3
        if wrong or not all(isinstance(value, Real) and isfinite(value) for value in values):
            raise ValueError(f"{name}: three numbers are needed, one a channel, got {values!r}")
    if not all(value > 0 for value in std):
        raise ValueError(f"std: three positive numbers are needed, got {std!r}")
    return Normalize(mean, std)


def _stage(make_block, inputs, outputs, blocks, activate):
    first = make_block(inputs, outputs, 1 if inputs == outputs else 2, activate)
    return nn.Sequential(first, *(make_block(outputs, outputs, 1, activate) for _ in range(blocks - 1)))


def _initialise(model, initialise_convolution_):
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            (initialise_convolution_ if isinstance(module, nn.Conv2d) else _he_normal_)(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _he_normal_(weight):
    std = (2 / nn.init._calculate_correct_fan(weight, "fan_in")) ** 0.5 / TRUNCATED_STD
    nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)

"""Networks whose function is 1-Lipschitz in the L2 norm, whatever their weights are."""

import copy

import torch
from torch import nn
from torch.nn import functional

from ..activations import layer_factory


def almost_orthogonal(weight):
    r"""A kernel divided such that its convolution, or matrix, has a spectral norm of at most 1.

    .. math:: P = W D^{-1/2}, \quad D_{ii} = \sum_j |W^\top W|_{ij}

    since :math:`D - W^\top W` is diagonally dominant, so that :math:`\|P x\| \le \|x\|`. Of a convolution
    :math:`W^\top W` are the correlations of the kernel's input channels at all shifts, which holds for a
    plane without ends; zeros around an image and strides leave outputs away. Where there are fewer outputs
    than inputs, :math:`W^\top` is divided instead; so an orthogonal kernel stays what it is.

    Args:
        weight (Tensor): :math:`(O, I)` or :math:`(O, I, K, L)`.

    Returns:
        Tensor: of the same shape, differentiable.

    Source: B. Prach and C. H. Lampert, ECCV 2022, arXiv:2208.03160.
    """
    wide = weight.shape[1] > weight.shape[0]
    rows = weight if wide else weight.transpose(0, 1)
    if weight.dim() == 2:
        products = rows @ rows.T
    else:
        margins = [size - 1 for size in weight.shape[2:]]
        products = functional.conv2d(rows, rows, padding=margins)
    lengths = products.abs().flatten(1).sum(1).clamp(min=1e-12).sqrt()
    shape = [1] * weight.dim()
    shape[0 if wide else 1] = -1
    return weight / lengths.view(shape)


class AlmostOrthogonalConv2d(nn.Conv2d):
    """A convolution with zeros around its input, whose kernel is made 1-Lipschitz in every pass.

    Its weight starts orthogonal in the middle of the kernel, and zero around it. Arguments as of
    :class:`torch.nn.Conv2d`. See :func:`almost_orthogonal`.
    """

    def __init__(self, inputs, outputs, size):
        super().__init__(inputs, outputs, size, padding=size // 2)
        middle = torch.empty(outputs, inputs)
        nn.init.orthogonal_(middle)
        with torch.no_grad():
            self.weight.zero_()[:, :, size // 2, size // 2] = middle
            self.bias.zero_()

    def forward(self, x):
        return self._conv_forward(x, almost_orthogonal(self.weight), self.bias)

    def plain(self):
        """The same convolution as a torch.nn.Conv2d, with the kernel that is made here."""
        made = nn.utils.skip_init(
            nn.Conv2d, *self.weight.shape[1::-1], self.kernel_size, padding=self.padding
        )
        return _filled(made, almost_orthogonal(self.weight), self.bias)


class AlmostOrthogonalLinear(nn.Linear):
    """A dense layer whose matrix is made 1-Lipschitz in every pass; it starts orthogonal.

    See :func:`almost_orthogonal`.
    """

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x):
        return functional.linear(x, almost_orthogonal(self.weight), self.bias)

    def plain(self):
        """The same layer as a torch.nn.Linear, with the matrix that is made here."""
        return _filled(_linear_like(self), almost_orthogonal(self.weight), self.bias)


class UnitLinear(nn.Linear):
    r"""A dense layer whose rows are divided by their lengths: each logit is 1-Lipschitz for itself.

    The difference of two logits has the constant :math:`\|w_i - w_j\|`.

    Source: S. Singla, S. Singla and S. Feizi, ICLR 2022, arXiv:2108.04062.
    """

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.bias)

    def rows(self):
        """The matrix with rows of length 1."""
        return functional.normalize(self.weight, dim=1)

    def forward(self, x):
        return functional.linear(x, self.rows(), self.bias)

    def plain(self):
        """The same layer as a torch.nn.Linear."""
        return _filled(_linear_like(self), self.rows(), self.bias)


def _linear_like(layer):
    return nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features)


@torch.no_grad()
def _filled(layer, weight, bias):
    """A new layer with these parameters, in their dtype and on their device."""
    layer = layer.to(weight.device, weight.dtype)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


class LipschitzMLP(nn.Sequential):
    r"""Dense layers that are 1-Lipschitz, each with an activation, and logits with rows of length 1.

    With a 1-Lipschitz activation (``maxmin``, ``lipschitz_spline``, ``kaf_1lip``, ``kaf_base_1lip``, or a
    fixed one that is nowhere steeper than 1) an answer holds within
    :math:`\min_j (f_y - f_j) / \|w_y - w_j\|` of the image, in the L2 norm; the certificate ``lipschitz``
    computes it with bounds of all layers as they are.

    Args:
        activation (str): name of the activation; each site gets an instance of its own.
        num_classes (int): the number of logits.
        activation_arguments (dict): passed on to every activation.
        width (int): units of a layer.
        depth (int): layers before the logits.
        image_shape (sequence of 3 ints): channels, rows and columns of the images.

    Shape:
        - Input: :math:`(N, *\text{image\_shape})` in [0, 1]
        - Output: :math:`(N, \text{num\_classes})`

    Raises:
        ValueError: for a width or depth that is not positive.

    Source: the layers: arXiv:2208.03160; the logits: arXiv:2108.04062.
    """

    def __init__(
        self,
        activation,
        num_classes=10,
        activation_arguments=None,
        width=128,
        depth=3,
        image_shape=(3, 32, 32),
    ):
        _check_positive(width=width, depth=depth)
        activate = layer_factory(activation, activation_arguments)
        layers, before = [nn.Flatten()], image_shape[0] * image_shape[1] * image_shape[2]
        for _ in range(depth):
            layers += [AlmostOrthogonalLinear(before, width), activate(width)]
            before = width
        super().__init__(*layers, UnitLinear(before, num_classes))


class LipschitzCNN(nn.Sequential):
    r"""Convolutions that are 1-Lipschitz, each with an activation, a dense layer, and logits of unit rows.

    A stage halves rows and columns, by taking the four pixels of each square as channels, which changes no
    distance, and has `depth` 3x3 convolutions: with `width` channels in the first stage, twice and four times
    as many in the next ones. Three stages for images of 32 x 32, two for 8 x 8: the last ones have at least
    2 x 2 pixels. The dense layer has 8 `width` units. What is proved: see :class:`LipschitzMLP`.

    Args:
        activation, num_classes, activation_arguments, image_shape: as of :class:`LipschitzMLP`; rows and
            columns are multiples of 4.
        width (int): channels of the first stage.
        depth (int): convolutions in a stage.

    Shape:
        - Input: :math:`(N, *\text{image\_shape})` in [0, 1]
        - Output: :math:`(N, \text{num\_classes})`

    Raises:
        ValueError: for a width or depth that is not positive, or images of another size.

    Source: the layers: arXiv:2208.03160; the logits: arXiv:2108.04062.
    """

    def __init__(
        self,
        activation,
        num_classes=10,
        activation_arguments=None,
        width=16,
        depth=2,
        image_shape=(3, 32, 32),
    ):
        _check_positive(width=width, depth=depth)
        before, rows, columns = image_shape
        if rows % 4 or columns % 4:
            raise ValueError(f"image_shape: rows and columns must be multiples of 4, got {rows} x {columns}")
        activate = layer_factory(activation, activation_arguments)
        layers = []
        for number in range(3):
            if number and (rows % 2 or columns % 2 or min(rows, columns) < 4):
                break
            layers.append(nn.PixelUnshuffle(2))
            before, rows, columns = 4 * before, rows // 2, columns // 2
            for _ in range(depth):
                channels = width * 2**number
                layers += [AlmostOrthogonalConv2d(before, channels, 3), activate(channels)]
                before = channels
        dense = AlmostOrthogonalLinear(before * rows * columns, 8 * width)
        layers += [nn.Flatten(), dense, activate(8 * width), UnitLinear(8 * width, num_classes)]
        super().__init__(*layers)


class UnconstrainedCNN(LipschitzCNN):
    r"""The network of :class:`LipschitzCNN` with ordinary layers, which start as that one's do.

    Nothing keeps their constant at 1: for trainings that make it part of the loss (``lmt``). It has no
    normalisations; their scales, one over a deviation, would be in the constant.

    Args, Shape, Raises:
        as of :class:`LipschitzCNN`
    """

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        for number, layer in enumerate(self):
            if not hasattr(layer, "activation_name") and hasattr(layer, "plain"):
                self[number] = layer.plain()


def _check_positive(**given):
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: a positive integer is needed, got {value!r}")


def plain(model):
    """A copy of a network in which layers that make their weights in every pass have them made.

    A layer says so by a method `plain`, which returns the layer to put in its place: this module's, and the
    1-Lipschitz KAFs.

    Args:
        model (nn.Module): it is not changed.

    Returns:
        nn.Module: the same function, up to rounding.
    """
    if hasattr(model, "plain"):
        return model.plain()
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if hasattr(layer, "plain"):
            parent, _, last = name.rpartition(".")
            made = layer.plain()
            if hasattr(layer, "activation_name"):
                made.activation_name = layer.activation_name
            setattr(model.get_submodule(parent), last, made.train(layer.training))
    return model

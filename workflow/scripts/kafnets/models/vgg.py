"""The small VGG of the reference experiment."""

from torch import nn

from ..activations import layer_factory

# Keras's constants, which the reference used: epsilon 1e-3 and running averages that keep 99 %.
BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class VGG(nn.Sequential):
    r"""Three blocks of two [3x3 convolution, batch normalisation, activation], 2x2 max-pooling and dropout.

    32, 64 and 128 filters, then dense 128, activation, dropout, dense logits. Every layer has a bias; weights
    start He-uniform, biases at zero. 551,466 parameters with a fixed activation and ten classes.

    Args:
        activation (str): name of the activation; each of the seven sites gets an instance of its own.
        num_classes (int): the number of logits.
        activation_arguments (dict): passed on to every activation.
        dropout (sequence of 4 floats): the rates after the three blocks and after the dense layer.
        image_shape (sequence of 3 ints): channels, rows and columns of the images.

    Shape:
        - Input: :math:`(N, *\text{image\_shape})` in [0, 1]
        - Output: :math:`(N, \text{num\_classes})`

    Raises:
        ValueError: when `dropout` is not four rates in [0, 1).

    Source: F. Peconi, MSc thesis, Sapienza 2020, after K. Simonyan and A. Zisserman, ICLR 2015.
    """

    def __init__(
        self,
        activation,
        num_classes=10,
        activation_arguments=None,
        dropout=(0.20, 0.25, 0.30, 0.40),
        image_shape=(3, 32, 32),
    ):
        if len(dropout) != 4 or not all(0 <= rate < 1 for rate in dropout):
            raise ValueError(f"dropout: four rates in [0, 1) are needed, got {dropout!r}")

        activate = layer_factory(activation, activation_arguments)
        layers = []
        width, rows, columns = image_shape
        for filters, rate in zip((32, 64, 128), dropout[:3], strict=True):
            for _ in range(2):
                layers += [
                    nn.Conv2d(width, filters, 3, padding=1),
                    nn.BatchNorm2d(filters, **BATCH_NORM),
                    activate(filters),
                ]
                width = filters
            layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
        layers += [
            nn.Flatten(),
            nn.Linear(width * (rows // 8) * (columns // 8), 128),  # halved three times
            activate(128),
            nn.Dropout(dropout[3]),
            nn.Linear(128, num_classes),
        ]
        super().__init__(*layers)
        for module in self:
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

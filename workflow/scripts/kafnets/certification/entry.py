"""What a certificate is, and what it says of each image.

A new one is a class derived from :class:`Certificate` and a line in kafnets/entries/certificates.py: what
config.yaml may give it, and the norm of its radii. :mod:`.certify` calls it image by image.
"""

from dataclasses import dataclass, field

import torch

from ..entry import RADIUS
from ..registry import CERTIFICATES, lookup
from ..runtime.errors import UserError
from ..runtime.units import fraction

ABSTAINED = -1  # in place of a class


@dataclass
class Certified:
    """What a certificate says of N images.

    Args:
        predictions (Tensor): (N,) int64, the class that it is about; `ABSTAINED` where it names none.
        radii (Tensor): (N,) float64, in units of the pixel range: within that distance of the image, in the
            norm of the registry's entry, the answer is the prediction, also in the worst case. 0 where
            nothing is proved; a misclassified image may be given 0 without trying.
        extra (dict): further figures of each image by their names, (N,) float64 or int64.
    """

    predictions: torch.Tensor
    radii: torch.Tensor
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        count = len(self.predictions)
        for name, values in {"predictions": self.predictions, "radii": self.radii, **self.extra}.items():
            if values.shape != (count,):
                raise ValueError(f"{name}: expected the shape ({count},), found {tuple(values.shape)}")
        if self.predictions.dtype is not torch.int64 or self.radii.dtype is not torch.float64:
            found = f"{self.predictions.dtype} and {self.radii.dtype}"
            raise ValueError(f"predictions and radii: expected int64 and float64, found {found}")
        if not ((self.radii >= 0) & self.radii.isfinite()).all():
            raise ValueError("radii: expected finite numbers of at least 0; write 0 where nothing is proved")
        if (self.radii[self.predictions == ABSTAINED] != 0).any():
            raise ValueError("radii: expected 0 where the certificate abstains")


class Certificate:
    """Base class of the certificates: made once for a network, then asked about images.

    Its constructor takes, beside these, the settings of its entry; radii ("n/255") come as floats. What is
    computed for the network alone (norms, a trace of its layers) belongs there.

    Args:
        network (nn.Module): images in [0, 1] to logits, in evaluation mode, without parameter gradients, on
            the device that shall compute. It is not to be changed.
        image_shape (tuple): of an image: channels, rows, columns.
        batch_size (int): images per forward pass, at most; no effect on what is proved. It becomes smaller
            where the device's memory does not hold so many.
    """

    # at a time, so that what is done is not lost by an interruption; None: `batch_size`
    images_per_call = None

    def __init__(self, network, image_shape, batch_size):
        self.network, self.image_shape, self.batch_size = network, tuple(image_shape), batch_size

    @property
    def facts(self):
        """Figures of the network as a whole, for the record: JSON values by their names."""
        return {}

    def __call__(self, images, labels, numbers):
        """What is proved of some images: of each the same, whichever others come with it.

        Args:
            images (Tensor): float (N, C, H, W) in [0, 1].
            labels (Tensor): (N,) int64, the true classes.
            numbers (list of int): where the images stand in the test set that is certified: what seeds random
                numbers.

        Returns:
            Certified: on the CPU.
        """
        raise NotImplementedError


# Beside the certificate's own, what settings may say: of a configuration where it is made, of a record which
# cell of the grid it is.
_OF_A_CONFIGURATION = ("experiments", "examples")
_OF_A_RECORD = ("experiment", "activation", "seed", "certificate", "dataset", "examples")


def with_arguments(settings):
    """The settings of one certification with those of the certificate itself under `arguments`.

    They may be written beside `method`, as in config.yaml, or under `arguments`, as in a record.

    Args:
        settings (dict): `method`, a key of :data:`kafnets.registry.CERTIFICATES`, and what belongs to it.

    Raises:
        UserError: for an unknown method, a name that it does not take, or one that it needs and lacks.
    """
    method = settings.get("method")
    lookup(CERTIFICATES, method, "method")
    if "arguments" not in settings:
        own = {name: settings[name] for name in settings if name not in ("method", *_OF_A_CONFIGURATION)}
        where = {name: settings[name] for name in settings if name not in own}
        check_names(method, own)
        return {**where, "arguments": own}
    beside = [name for name in settings if name not in ("method", "arguments", *_OF_A_RECORD)]
    if beside or not isinstance(settings["arguments"], dict):
        wrong = f"{beside[0]!r} stands beside" if beside else f"{settings['arguments']!r} is no mapping for"
        raise UserError(f'certificate {method}: {wrong} arguments; write "arguments": {{"NAME": VALUE, ...}}')
    check_names(method, settings["arguments"])
    return settings


def check_names(method, arguments):
    """Checks that a certificate takes what it is given, and is given what it needs; not the values.

    Raises:
        UserError: when not.
    """
    entry = lookup(CERTIFICATES, method, "method")
    known = entry.schemas()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise UserError(f"certificate {method}: {unknown[0]!r} is not known; it takes {', '.join(known)}")
    missing = [name for name in entry.required if name not in arguments]
    if missing:
        raise UserError(f"certificate {method}: {missing[0]} is missing; it takes {', '.join(known)}")


def create_certificate(method, network, image_shape, batch_size, settings):
    """The certificate of a network that config.yaml names.

    Args:
        method (str): a key of :data:`kafnets.registry.CERTIFICATES`.
        network, image_shape, batch_size: see :class:`Certificate`.
        settings (dict): the certificate's own, as config.yaml has them.

    Raises:
        UserError: for an unknown name, settings that it does not take, or a network that it cannot certify.
    """
    entry = lookup(CERTIFICATES, method, "method")
    check_names(method, settings)
    schemas = entry.schemas()
    given = {
        name: fraction(value) if schemas.get(name) == RADIUS else value for name, value in settings.items()
    }
    try:
        return entry.load()(network, image_shape, batch_size, **{**entry.arguments, **given})
    except (TypeError, ValueError) as error:
        raise UserError(f"certificate {method}: {error}") from error

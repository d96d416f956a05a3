"""What a name of the registry stands for, and the settings that names have in common."""

import importlib
import sys
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

from .runtime.errors import UserError

# What makes a network of a user's own of its entry.
BUILDER = "kafnets.models.own:build"
RADIUS = {"$ref": "#/$defs/fraction"}
# What a setting of these names may be, wherever it is not said otherwise.
SETTINGS = {
    "eps": "fraction",
    "step": "fraction",
    "iterations": "iterations",
    "restarts": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "loss": {"enum": ["cross_entropy", "margin", "dlr"]},
    "norm": {"enum": ["linf", "l2"]},
    "momentum": {"type": "number", "minimum": 0, "maximum": 100},
    "targets": {"type": "integer", "minimum": 0, "maximum": 9},
    "samples": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    "queries": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    "search_steps": {"type": "integer", "minimum": 1, "maximum": 100},
    "learning_rate": "rate",
    "confidence": {"type": "number", "minimum": 0, "maximum": 1000},
    "overshoot": {"type": "number", "minimum": 0, "maximum": 100},
    "shrink": {"type": "number", "minimum": 0, "maximum": 1},
    # activations of the experiment on whose models examples are crafted; without: all but the attacked one
    "sources": "activations",
    # of Gaussian noise, in units of the pixel range
    "sigma": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    # passes of a random network whose mean is attacked and judged
    "eot_samples": {"type": "integer", "minimum": 1, "maximum": 10_000},
    # of the attack's random starts; the same for all networks unless it is given
    "start_seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
}


@dataclass(frozen=True)
class Entry:
    """What one name stands for.

    Args:
        target: "module:object", called with `arguments`.
        label: its name in print.
        required, optional: names of the settings that config.yaml must and may give beside the name.
        settings: of these, or of further optional ones, what is allowed: JSON schemas, or names of `$defs` of
            workflow/schemas/config.schema.yaml; without, what `SETTINGS` says of that name.
        conflicts: (setting, value, other setting, its allowed value, what is wrong) that exclude each other.
        examples: of a data set, the number of training and of test images.
        classes, channels, size: of a data set, the classes, and the channels and the rows of an image.
        files: of a data set, the names of its official files, which are downloaded.
        source: of a user's own data set, the folder or file that `target` is called with.
        smallest, multiple: of an architecture, the rows that an image must have at least, and must be a
            multiple of.
        sources: of an attack, whether the models of the experiment's other activations are "needed" or
            "used" by it.
        norm: of an attack, which it takes when none is given.
        adaptive: of an attack on a network with a detector, whether it knows the detector.
        learns: whether an activation has parameters of its own.
        per: what an activation is made for: "channel" (the number of channels is then its first argument),
            "layer" (one for each layer) or "network" (one that all layers share). Of a class that takes the
            setting `share` it is that setting's default.
        decay: of an activation, the weight decay of its parameters.
        elementwise: whether an activation is a function of one number, whose curve can be drawn.
        backend: names the function that tells what computes an activation on a device.
        colour, marker: of an activation in figures; by default a spare colour, and the marker of its kind.
        weights: of a network of the user's own, the file of its weights; `target` is then called with
            `arguments` alone. `key`: which of several sets of weights in it; `mean`, `std`: of the input's
            normalisation, one number or one a channel.
        folder: where the module of a user's own name lies; "" for an installed one.
        own: whether it is a user's own name.
    """

    target: str
    arguments: dict = field(default_factory=dict)
    label: str = ""
    required: tuple = ()
    optional: tuple = ()
    settings: dict = field(default_factory=dict, repr=False)
    conflicts: tuple = field(default=(), repr=False)
    examples: tuple = field(default=(), repr=False)
    classes: int = field(default=10, repr=False)
    channels: int = field(default=3, repr=False)
    size: int = field(default=32, repr=False)
    files: tuple = field(default=(), repr=False)
    source: str = field(default="", repr=False)
    smallest: int = field(default=1, repr=False)
    multiple: int = field(default=1, repr=False)
    sources: str = field(default="", repr=False)
    norm: str = field(default="linf", repr=False)
    adaptive: bool = field(default=False, repr=False)
    learns: bool = False
    per: str = "layer"
    decay: float = field(default=0.0, repr=False)
    elementwise: bool = True
    backend: str = ""
    colour: str = field(default="", repr=False)
    marker: str = field(default="", repr=False)
    weights: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    mean: tuple = field(default=(), repr=False)
    std: tuple = field(default=(), repr=False)
    folder: str = field(default="", repr=False)
    own: bool = field(default=False, repr=False)

    def load(self):
        """The object itself (imports its module); of a network of the user's own what makes it, empty.

        Raises:
            UserError: when a user's own module, or the object in it, is not there.
        """
        return partial(_load(BUILDER), self) if self.weights else self.factory()

    def factory(self):
        """What `target` names. Raises: as :meth:`load`."""
        return _load_own(self) if self.own else _load(self.target)

    def backend_on(self, device):
        """What computes an activation on a device, where there are several; else None."""
        return _load(self.backend)(device) if self.backend else None

    def facts(self):
        """The arguments that make it again, as JSON has them."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "own"}

    def schemas(self):
        """The JSON schema of each setting that config.yaml may give, by its name."""
        names = dict.fromkeys((*self.required, *self.optional, *self.settings))
        chosen = {name: self.settings.get(name, SETTINGS.get(name, {})) for name in names}
        return {
            name: {"$ref": f"#/$defs/{schema}"} if isinstance(schema, str) else schema
            for name, schema in chosen.items()
        }


def _load(target):
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _load_own(entry):
    # last, so that a file of the user's hides no installed module
    if entry.folder and entry.folder not in sys.path:
        sys.path.append(entry.folder)
    try:
        found = _load(entry.target)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{entry.target}: cannot be loaded ({error})") from error
    module = sys.modules[entry.target.partition(":")[0]]
    file = getattr(module, "__file__", None) or ""
    if entry.folder and not Path(file).resolve().is_relative_to(entry.folder):
        raise UserError(
            f"{entry.target}: {file} has the same name as the module in {entry.folder}; rename the latter"
        )
    return found

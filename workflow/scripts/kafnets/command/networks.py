"""Networks and data sets as a command line names them."""

import json
import re
from pathlib import Path

from .. import registry, sources
from ..entry import Entry
from ..runtime.errors import UserError
from ..runtime.files import MADE_BY, sha256

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def network_options(parser, required=True):
    """Adds the options that name a network."""
    parser.add_argument(
        "--model",
        required=required,
        help="module:name of what makes a network of yours (a class or function), a file of "
        "kafnets.save_model, or a name of `kafnets list models`",
    )
    parser.add_argument("--weights", help="of a network of yours: a file of torch.save, or safetensors")
    parser.add_argument("--key", help="which of several sets of weights in that file, as state_dict_ema")
    parser.add_argument(
        "--arguments", help="of what makes a network of yours: a JSON object, as '{\"num_classes\": 10}'"
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            type=float,
            help="of the normalisation that a network of yours was trained with, one number or one a "
            "channel: it becomes a layer, pixels stay in [0, 1]",
        )


def data_options(parser, required=True):
    """Adds the options that name a data set."""
    parser.add_argument(
        "--data",
        required=required,
        help=f"one of {', '.join(registry.DATASETS)}; a prepared file, as results/data/cifar10.safetensors; "
        "a file of arrays, .npz; or module:name of a function of yours that returns a kafnets.data.Dataset",
    )
    parser.add_argument(
        "--source", type=Path, help="the local archive or folder of a data set that is known by name"
    )


def is_target(text):
    """Whether a text is "module:name"."""
    return _TARGET.fullmatch(text) is not None


def described(arguments):
    """What a record says of the network that the options name: as they name it.

    Raises:
        UserError: for options that do not go together.
    """
    given = {
        name: getattr(arguments, name)
        for name in ("weights", "key", "arguments", "mean", "std")
        if getattr(arguments, name) is not None
    }
    if given and not is_target(arguments.model):
        raise UserError(
            f"--{next(iter(given))}: is for a network of yours, and --model {arguments.model} is none; write "
            "--model module:name, the name of what makes it"
        )
    if "arguments" in given:
        given["arguments"] = _json_object("--arguments", given["arguments"])
    return {"model": arguments.model, **given}


def network_file(description):
    """The file of the weights of a described network, as a path that is there; None where it has none.

    Raises:
        UserError: when it is not there, or the name is not known.
    """
    if is_target(description["model"]):
        if "weights" not in description:
            return None
        path = Path(description["weights"])
        if not path.is_file():
            raise UserError(f"--weights: {path}: no such file")
        return path
    from .. import model_zoo

    name = description["model"]
    if not Path(name).suffix and name not in model_zoo.index() and not Path(name).is_file():
        try:
            model_zoo.describe(name)
        except UserError as error:
            raise UserError(f"--{error}, or module:name of what makes a network of yours") from None
    return model_zoo.file_of(name)


def network_facts(description):
    """What a record says of a described network beside its description: checksums.

    Raises:
        UserError: as :func:`network_file`.
    """
    file = network_file(description)
    facts = {"network": description, "model_sha256": None if file is None else sha256(file)}
    if is_target(description["model"]):
        from ..models.own import module_file

        module = module_file(own_entry(description))
        facts["module_sha256"] = None if module is None else sha256(module)
    return facts


def load_network(description, dataset, device):
    """A described network, on the device, in evaluation mode; it takes the images of the data set.

    Raises:
        UserError: when it is not there, its weights are not its own, or it does not fit the data set.
    """
    shape = tuple(dataset.test_images.shape[1:])
    return network_for(description, shape, len(dataset.classes), device)


def network_for(description, image_shape, num_classes, device):
    """As :func:`load_network`, for images of that shape (channels, rows, columns).

    Args:
        num_classes (int or None): how many outputs it must have; None: any number.
    """
    from ..models import own

    if is_target(description["model"]):
        entry = own_entry(description)
        return own.load(entry, num_classes=num_classes, image_shape=image_shape).to(device)
    from .. import model_zoo

    model = model_zoo.load_model(description["model"], device)
    own.check_fits(model, description["model"], num_classes, image_shape)
    return model


def own_entry(description):
    """The registry's entry of a described network of the user's own."""
    from ..models.own import own_entry

    given = {name: value for name, value in description.items() if name not in ("model", "weights")}
    return own_entry(description["model"], description.get("weights"), folders=[Path.cwd()], **given)


def load_data(name, source=None, examples=None):
    """The data set that `--data` names, prepared now where it is no prepared file.

    Args:
        name (str): see :func:`data_options`.
        source (Path, optional): the archive or folder of one that is known by name.
        examples (int, optional): how many test images; default: all.

    Raises:
        UserError: when there is none of that name, or it cannot be prepared.
    """
    from ..data.dataset import load

    return load(data_file(name, source), test_examples=examples)


def data_file(name, source=None):
    """The prepared file of a data set; arguments as of :func:`load_data`."""
    path = Path(name)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise UserError(f"--data: {path}: no such file; {MADE_BY}, or write one of {_known_data()}")
        return path
    if is_target(name):
        folder = registry.folder_of(name, [Path.cwd()])
        entry = Entry(name, folder=folder, own=True)
    elif path.suffix in sources.ARRAY_FILES and path.is_file():
        entry = Entry(**sources.described(path.stem, path), source=str(path), own=True)
        name = path.stem
    else:
        entry = registry.DATASETS.get(name)
    if entry is None:
        raise UserError(
            f"--data: {name!r} is not known; write one of {_known_data()}, a prepared file (.safetensors), "
            "a file of arrays (.npz) or module:name of a function that returns a Dataset"
        )
    from .preparing import prepared

    return prepared(name, entry, source)


def _known_data():
    return ", ".join(registry.DATASETS)


def _json_object(option, text):
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{option}: not JSON ({error}); write an object, as '{{\"width\": 10}}'") from None
    if not isinstance(found, dict):
        raise UserError(f"{option}: found {text}; write a JSON object, as '{{\"width\": 10}}'")
    return found

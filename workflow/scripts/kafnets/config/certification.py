"""The section `certification` of a configuration, checked and handed out in slices.

Imports nothing heavy: the workflow reads it in a process that has no torch.
"""

from ..registry import CERTIFICATES
from .shape import check_settings, choose
from .slices import ball, table_settings, test_images

# Of an entry of certification.certificates, what says which networks and images, not how.
_WHERE = ("method", "experiments", "examples")
_NONE = {"run": [], "examples": None, "certificates": {}}


def section(config):
    """The section; a configuration without one certifies nothing."""
    return config.get("certification", _NONE)


def check(config, schema):
    """Checks the section; its shape is right already.

    Raises:
        UserError: one line that names the key, its value and what to write.
    """
    given = section(config)
    choose(("certification", "run"), given["run"], given["certificates"])
    for name, certificate in given["certificates"].items():
        path = ("certification", "certificates", name)
        choose((*path, "method"), certificate["method"], CERTIFICATES)
        choose((*path, "experiments"), certificate.get("experiments", []), config["experiments"])
        entry = CERTIFICATES[certificate["method"]]
        check_settings(path, arguments(certificate), certificate["method"], entry, schema)


def arguments(certificate):
    """What the certificate itself is given."""
    return {key: value for key, value in certificate.items() if key not in _WHERE}


def certificates_of(config, experiment):
    """The names of the certificates of an experiment's networks, in the order of `run`."""
    given = section(config)
    chosen = {name: given["certificates"][name].get("experiments", config["run"]) for name in given["run"]}
    return [name for name, experiments in chosen.items() if experiment in experiments]


def norm_of(certificate):
    """The norm of the radii of an entry of certification.certificates."""
    return certificate.get("norm", CERTIFICATES[certificate["method"]].norm)


def certification_settings(config, experiment, activation, seed, certificate):
    """All that decides what one certificate says of one cell's network."""
    given, chosen = section(config)["certificates"][certificate], config["experiments"][experiment]
    wanted = given.get("examples", section(config)["examples"])
    return {
        "experiment": experiment,
        "activation": activation,
        "seed": int(seed),
        "certificate": certificate,
        "dataset": chosen["dataset"],
        "examples": test_images(chosen, wanted),
        "method": given["method"],
        "arguments": dict(arguments(given)),
    }


def certified_settings(config, experiment):
    """What the table and the plots of the certificates of an experiment show."""
    shown = table_settings(config, experiment)
    certificates = section(config)["certificates"]
    return {
        **{key: shown[key] for key in ("title", "activations", "headline", "attacks", "worst_case")},
        "certificates": {
            name: {
                "method": certificates[name]["method"],
                "norm": norm_of(certificates[name]),
                "arguments": dict(arguments(certificates[name])),
            }
            for name in certificates_of(config, experiment)
        },
        "balls": {name: list(found) for name, attack in shown["attacks"].items() if (found := ball(attack))},
    }

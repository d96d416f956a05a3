"""The library's wings import downwards only: what computes knows nothing of what reports or plans."""

import ast

from tests.repository import ROOT

LIBRARY = ROOT / "workflow" / "scripts" / "kafnets"
# From the bottom up; wings of one line do not import each other.
WINGS = [
    {"runtime", "chance"},
    {"entry", "sources"},
    {"entries"},
    {"registry"},
    {"activations", "config", "data"},
    {"models"},
    {"attacks", "published"},
    {"certification"},
    {"training", "evaluation", "detection", "archives"},
    {"diagnostics", "model_zoo", "recording"},
    {"report"},
    {"pipeline"},
    {"command"},
    {"__main__"},
]
HEIGHT = {wing: height for height, wings in enumerate(WINGS) for wing in wings}


def imported(path):
    """The wings that a file imports, inside functions too."""
    package = ("kafnets", *path.relative_to(LIBRARY).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        start = package[: len(package) - node.level + 1] if node.level else ()
        parts = (*start, *(node.module.split(".") if node.module else ()))
        for alias in node.names:
            whole = (*parts, alias.name)
            if whole[0] == "kafnets" and len(whole) > 1:
                yield whole[1]


def test_every_wing_has_its_height():
    found = {path.relative_to(LIBRARY).parts[0].removesuffix(".py") for path in LIBRARY.rglob("*.py")}
    assert found - {"__init__"} == HEIGHT.keys()


def test_imports_lead_downwards():
    wrong = []
    for path in sorted(LIBRARY.rglob("*.py")):
        wing = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        if wing != "__init__":
            upwards = {other for other in imported(path) if other != wing and HEIGHT[other] >= HEIGHT[wing]}
            wrong += [f"{path.relative_to(LIBRARY)} imports {other}" for other in sorted(upwards)]
    assert not wrong

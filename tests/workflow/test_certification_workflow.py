"""Certificates in the workflow: what a change of one makes again, and an interrupted one that goes on."""

import csv
import os
import re
import signal

import pytest
import yaml

from tests.repository import OUT, TINY, copy_repository, finish, planned, run, start
from tests.scripts import until

BASE = {"activations": ["relu"]}
CERTIFICATES = {
    "smooth": {"method": "smoothing", "sigma": 0.25, "selection_samples": 5, "samples": 60},
    "constant": {"method": "lipschitz"},
}
CELL = f"{OUT}/certificates/tiny/relu/seed0"
TABLE = f"{OUT}/certificates/tiny.md"


def overlay(folder, sigma):
    """The options of a run of one network and two certificates, one of them with this sigma."""
    certificates = {**CERTIFICATES, "smooth": {**CERTIFICATES["smooth"], "sigma": sigma}}
    section = {"run": list(certificates), "examples": 10, "certificates": certificates}
    path = folder / f"sigma{sigma}.yaml"
    few = {"seeds": [0], "experiments": {"tiny": BASE}}
    path.write_text(yaml.safe_dump({**few, "certification": section}))
    return ("--configfile", TINY, path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the repository, which saves the state after every image, with both certificates made."""
    folder = copy_repository(tmp_path_factory.mktemp("certificates"))
    driver = folder / "workflow/scripts/kafnets/certification/certify.py"
    text, found = re.subn(
        r"^CHECKPOINT_SECONDS = \d+$", "CHECKPOINT_SECONDS = 0", driver.read_text(), flags=re.M
    )
    assert found == 1
    driver.write_text(text)
    run(folder, TABLE, *overlay(folder, 0.25))
    return folder


def rows(path):
    """What is proved of each image; not how long it took."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def test_both_are_made_once(plan, made):
    table = (made / TABLE).read_text()
    assert "randomised smoothing" in table and "Lipschitz constant" in table
    assert [row["image"] for row in rows(made / CELL / "smooth.csv")] == [str(n) for n in range(10)]
    assert "Nothing to be done" in plan(made, "-n", TABLE, *overlay(made, 0.25))


def test_another_setting_makes_that_certificate_again_and_an_interrupted_one_goes_on(plan, made):
    options = (TABLE, *overlay(made, 0.5))
    counts = planned(plan(made, *options, "-n", "--quiet", "rules"))
    del counts["total"]
    assert counts == {"certify": 1, "render_certificates": 1}
    other = [made / CELL / f"constant.{suffix}" for suffix in ("json", "csv")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in other]

    process = start(made, *options)
    until(lambda: list((made / CELL).glob("resume-*")) or process.poll() is not None, 300)
    os.killpg(process.pid, signal.SIGTERM)
    finish(process, made, check=False)
    assert process.returncode != 0
    [state] = (made / CELL).glob("resume-*")

    run(made, *options)
    log = (made / OUT / "logs/certify/tiny/relu/seed0/smooth.log").read_text()
    [gone_on] = re.findall(r"going on after (\d+) images", log)
    assert 0 < int(gone_on) < 10 and not state.exists()
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in other] == before
    assert "Nothing to be done" in plan(made, "-n", *options)
    resumed = rows(made / CELL / "smooth.csv")

    # made at once it is the same
    for suffix in ("json", "csv"):
        (made / CELL / f"smooth.{suffix}").unlink()
    run(made, f"{CELL}/smooth.json", *options[1:])
    assert rows(made / CELL / "smooth.csv") == resumed

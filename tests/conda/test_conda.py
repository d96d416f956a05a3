"""The conda environments made and used by a real conda, on a channel of stubs (channel.py).

Where there is a `conda`; the pip sections need a package index.
"""

import os
import re
import shutil
import subprocess

import pytest

from tests.conda import channel
from tests.conda_forge import ENVIRONMENTS
from tests.repository import ENVIRONMENT, ROOT, copy_repository, snakemake

pytestmark = pytest.mark.skipif(shutil.which("conda") is None, reason="no conda here")

# of each origin one: foolbox and pyautoattack, which pip brings, and our own
ATTACKS = (
    "evaluation={run: [clean, pgd, cw, square], attacks: {"
    "cw: {method: cw, eps: 128/255, iterations: 5, search_steps: 2},"
    " square: {method: square, eps: 16/255, queries: 5}}}"
)


@pytest.fixture(scope="module", autouse=True)
def conda_forge(tmp_path_factory):
    """conda's settings, as environment variables: a folder holds its channels and all that it keeps."""
    folder = tmp_path_factory.mktemp("conda")
    channel.write(folder / "channels")
    settings = {
        "CONDA_CHANNEL_ALIAS": (folder / "channels").as_uri(),
        "CONDA_CHANNEL_PRIORITY": "strict",
        "CONDA_PKGS_DIRS": str(folder / "pkgs"),
        "CONDA_ENVS_DIRS": str(folder / "envs"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


def solve(path, prefix):
    command = ["conda", "env", "create", "--dry-run", "--file", path, "--prefix", prefix]
    environment = {**ENVIRONMENT, **{key: os.environ[key] for key in os.environ if key.startswith("CONDA_")}}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_every_environment_can_be_solved(path, tmp_path):
    solved = solve(path, tmp_path / "environment")
    assert solved.returncode == 0, solved.stdout + solved.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"  - pip\n(.|\n)*", "  - foolbox =3.3.4\n", "foolbox"),
        (r"  - conda-forge\n", "  - conda-forge\n  - nodefaults\n", "nodefaults"),
        (r"tqdm =4.70.0", "tqdm =4.70.1", "tqdm"),
    ],
    ids=["a version that is not there", "nodefaults", "a newer one"],
)
def test_what_conda_forge_has_not_is_not_solved(old, new, message, tmp_path):
    content, changes = re.subn(old, new, (ROOT / "envs" / "train.yaml").read_text(), count=1)
    assert changes == 1
    (tmp_path / "train.yaml").write_text(content)
    solved = solve(tmp_path / "train.yaml", tmp_path / "environment")
    assert solved.returncode != 0 and message in solved.stdout + solved.stderr


@pytest.mark.slow
def test_the_pipeline_runs_in_its_environments(tmp_path):
    """Training, attacks, cards, tables and plots; Snakemake itself runs where these tests do."""
    folder = copy_repository(tmp_path / "repository")
    preset = ROOT / "tests" / "workflow" / "tiny.yaml"
    run = snakemake(folder, "--use-conda", "--configfile", preset, "--config", "seeds=[0]", ATTACKS)
    used = set(re.findall(r"Activating conda environment: (\S+)", run.stdout))
    assert len(used) == 2  # train.yaml, report.yaml
    for name in ("tables/tiny_resnet8.csv", "cards/tiny_resnet8.csv", "plots/tiny_resnet8/landscapes.pdf"):
        assert (folder / "results" / "tiny" / name).stat().st_size > 0
    # the attacks came from there, with all that pip installed
    assert len(list((folder / ".snakemake" / "conda").glob("*/lib/*/site-packages/pyautoattack"))) == 1

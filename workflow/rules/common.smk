# The configuration, checked; the grid of networks (kafnets/pipeline/grid.py); and the names that all rules use.
import contextlib
import json
import os
import shlex
import shutil
import sys

sys.path[:0] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "workflow")]

import snakemake_patches

# The user's own names are those of the configuration, whatever scripts called by hand are told.
os.environ.pop("KAFNETS_OWN", None)

from kafnets import registry
from kafnets.config.certification import certification_settings
from kafnets.config.checks import validate
from kafnets.config.reading import check_keys, check_locale, check_mappings, told, typed
from kafnets.config.slices import (
    card_settings,
    evaluation_settings,
    expanded,
    iterated_attack,
    lr_range_settings,
    table_settings,
    training_settings,
)
from kafnets.pipeline import code
from kafnets.pipeline.detection import Detections
from kafnets.pipeline.grid import TABLES, Grid
from kafnets.pipeline.page import Page
from kafnets.pipeline.params import as_params, checksum
from kafnets.runtime.driver import check_gpu
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import SEAL, write_sealed
from snakemake.common.configfile import load_configfile
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import update_config
from snakemake_interface_executor_plugins.settings import ExecMode

# Before the name of a file of this workflow: nothing in its own folder, so that names stay when the folder moves, and
# its path in another (--directory, or --snakefile called from elsewhere).
HERE = "" if os.path.samefile(ROOT, os.curdir) else f"{ROOT.resolve()}/"
# as it stands in a shell command that Snakemake formats
SCRIPT = shlex.quote(f"{HERE}workflow/scripts").replace("{", "{{").replace("}", "}}")
PUBLISHED = f"{HERE}workflow/resources/thesis_results.yaml"

# Where the modules of the user's own names may lie: beside a configuration file, the last first, or here.
FOLDERS = dict.fromkeys(
    [
        *(Path(path).resolve().parent for path in reversed(workflow.configfiles)),
        Path.cwd(),
    ]
)
# The jobs' `python` is the one that runs this, or that of the rule's conda environment: see BIN.
USES_CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method

# The scripts find the library beside them, which this variable would forbid: here and in the jobs, which inherit it.
os.environ.pop("PYTHONSAFEPATH", None)

snakemake_patches.apply(
    kept_outputs=map(
        workflow.modifier.modify_rulename,  # a module's rules may be renamed
        (
            "download_cifar10",
            "download_data",
            "download_published",
            "import_published",
            "train",
            "lr_range_test",
            "evaluate",
            "card",
            "certify",
            "train_detector",
            "detect",
        ),
    )
)

try:
    check_locale(ROOT.resolve(), Path.cwd())
    for path in workflow.configfiles:
        check_keys(path)
    on_command_line = dict(workflow.config_settings.config)
    written = [load_configfile(path) for path in workflow.configfiles]
    if IS_MODULE:  # what it is given overlays config.yaml, as a preset does
        on_command_line = told(config, on_command_line)
        written = [config]
        config = load_configfile(CONFIG)
        update_config(config, *written)
    update_config(config, typed(on_command_line))
    for given in (*written, on_command_line):
        check_mappings(config, given)
    config.update(expanded(config))
    validate(
        config,
        ROOT / "workflow" / "schemas" / "config.schema.yaml",
        PUBLISHED,
        folders=FOLDERS,
        elsewhere=USES_CONDA,
    )
except UserError as error:
    raise WorkflowError(f"error in the configuration: {error}") from None
# Where the images of the user's own data sets lie is no part of any result: their content is. The registry knows.
for facts in config["datasets"].values():
    facts.pop("source", None)

GRID = Grid(config)
DETECTIONS = Detections(GRID)
OUT = GRID.out


container: config.get("container")


USES_CONTAINER = (
    config.get("container") is not None
    and DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
)

# The jobs' `python` is the one that runs this, whatever PATH says: cron and editors activate no environment. Or it is
# that of the rule's conda environment, whose folder conda may put behind that of an activated .venv.
# A rule of a workflow that this is a module of may have none. In a container it is that of the image.
if USES_CONDA:
    BIN = '${CONDA_PREFIX:+"$CONDA_PREFIX"/bin:}'
elif USES_CONTAINER:
    BIN = ""
else:
    BIN = f"{shlex.quote(os.path.dirname(sys.executable))}:"
# They are told of the user's own names by a variable.
OWN = json.dumps(registry.own_names())
EXPORTED = f"export {registry.OWN}={shlex.quote(OWN)}; " if registry.own_names() else ""
shell.prefix("set -euo pipefail; PATH={BIN}$PATH; {EXPORTED}")

# Where a job computes. It is no setting: it never makes a finished result stale.
DEVICE = config["device"]
GPU = DEVICE == "cuda" or (DEVICE == "auto" and shutil.which("nvidia-smi") is not None)

# Jobs on one GPU are computed by one process, see together.py. A resource too, so that a profile can say otherwise.
TOGETHER = "gpu" if GPU else "none"


onstart:
    # Only of jobs that run on this machine and would compute: a cluster's login node has no GPU, and tables need none.
    here = (
        workflow.exec_mode == ExecMode.DEFAULT
        and workflow.local_exec
        and not workflow.touch
    )
    if (
        DEVICE == "cuda"
        and here
        and any(job.resources.get("gpu") for job in workflow.dag.needrun_jobs())
    ):
        try:
            check_gpu()
        except UserError as error:
            raise WorkflowError(f"error in the configuration: {error}") from None


def one_of(names):
    """A wildcard's pattern: one of `names`, or nothing at all where there is none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    experiment="[a-z][a-z0-9_]*",
    activation="[a-z][a-z0-9_]*",
    attack="[a-z][a-z0-9_]*",
    certificate="[a-z][a-z0-9_]*",
    detector="[a-z][a-z0-9_]*",
    dataset="[a-z][a-z0-9_]*",
    seed="[0-9]+",


def gives_way(attack):
    """Whether an attack lets the other jobs of its process work, see kafnets/runtime/turns.py."""
    return config["evaluation"]["attacks"][attack]["method"] in (
        "clean",
        "pgd",
        "thesis_pgd",
    )


def code_of(script):
    """A param: the checksum of the code of a step that looks no name up, for the jobs that this process plans."""
    return lambda wildcards: code.of_step(script)


def prepared_data(wildcards):
    # Large, so compared by date only; its record carries its checksum and is compared by content.
    return ancient(GRID.prepared_record(wildcards).replace(".json", ".safetensors"))


# The official files of data sets, but for CIFAR-10's, which has a rule of its own.
DOWNLOADED = [
    name
    for dataset, entry in registry.DATASETS.items()
    for name in entry.files
    if dataset != "cifar10"
]
ARCHIVE = f"{OUT}/data/raw/cifar-10-python.tar.gz"
# Earlier versions write-protected it, and Snakemake plans nothing that may replace a protected file.
with contextlib.suppress(OSError):
    if not os.access(ARCHIVE, os.W_OK):
        os.chmod(ARCHIVE, 0o644)


def source_option(raw):
    """The option that names the raw files of a data set: the file, or the folder of several."""
    if not raw:
        return []
    return ["--source", raw if isinstance(raw, str) else os.path.dirname(raw[0])]


def published_archive(wildcards):
    """Where an archive of the thesis's author is, as options of download_published.py."""
    published = config["data"]["published"]
    name = registry.PUBLISHED[wildcards.activation]
    archive = published["archives"][wildcards.activation]
    return [
        *("--url", f"{published['url']}/{name}.zip"),
        *("--bytes", str(archive["bytes"])),
        *("--sha256", archive["sha256"]),
    ]


def published_weights(wildcards):
    """The converted weights of one row: in the folder that the configuration names, or made here."""
    source = config["data"]["published"]["source"]
    if source is None:
        return f"{OUT}/data/published/{wildcards.activation}.safetensors"
    return f"{source}/{registry.PUBLISHED[wildcards.activation]}.safetensors"


def list_the_cells(manifest, log):
    write_sealed(manifest, GRID.manifest())
    Path(log).write_text(f"{manifest}: {len(GRID.cells)} lines\n", encoding="utf-8")

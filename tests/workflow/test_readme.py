"""Every command of README.md and docs/ is run here, in an environment made as they say, or has a reason."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.repository import ENVIRONMENT, ROOT, copy_repository, make_venv

# Run as they stand, in a copy without results: a part of what they print, and their exit code.
RUN = {
    "make venv && source .venv/bin/activate": ("", 0),
    "snakemake -n --cores 8": (r"train +15\n", 0),
    "snakemake --unlock": ("Unlocked working directory", 0),
    ".venv/bin/snakemake --report report.zip --configfile workflow/presets/demo.yaml": (
        r"error: a report shows finished results; of its \d+ files \d+ are missing \(results/demo/",
        2,
    ),
    "snakemake --cores 8 --report report.zip": (r"are missing \(results/summary.csv\)", 2),
    'python -c "import torch; print(torch.cuda.is_available())"': ("True|False", 0),
    "PYTHONPATH=workflow/scripts python docs/images/reference.py": ("", 0),
    "PYTHONPATH=workflow/scripts python docs/tables.py": ("", 0),
}
# With DRY: what they would do.
DRY = {"snakemake": "-n", "make": "-nB"}
PLANNED = {
    "make docs": "python docs/site/build.py",
    "make demo": "snakemake --cores [0-9]+ --configfile workflow/presets/demo.yaml",
    'make venv REQUIREMENTS="-r requirements.txt"': "pip install .* -r requirements.txt",
    "snakemake --cores 8": r"train +15\n",
    "snakemake --cores 8 models": r"train +15\n",
    "snakemake --cores 8 evaluations": r"evaluate +45\n",
    "snakemake --cores 8 certificates": r"certificates +1\n",
    "snakemake --cores 8 lr_range": r"lr_range_test +15\n",
    "snakemake --cores 8 detections": "Nothing to be done",
    "snakemake --cores 1 partial": r"partial +1\n",
    "snakemake --cores 1 --touch": r"train +15\n",
    "snakemake --cores 8 --forceall": r"train +15\n",
    "snakemake --workflow-profile profiles/slurm": r"train +15\n",
    "snakemake --cores 2 --configfile workflow/presets/deep.yaml": r"train +7\n",
}
# Run, or a part of them, by a test; or the reason why they cannot be run.
ELSEWHERE = {
    "make test": "what runs this",
    "make demo TORCH_INDEX=https://...": "tests/unit/test_installation.py::test_torch_of_another_index",
    "snakemake --cores 8 --use-conda": "needs conda; without it: tests/unit/test_environments.py",
    "docker build -t kafnets --build-arg TORCH_INDEX=https://... .": (
        "needs Docker; tests/unit/test_container.py"
    ),
    "docker build -t kafnets:cuda --build-arg DEVICE=cuda .": "needs Docker; tests/unit/test_container.py",
    'docker run --rm --user "$(id -u)" -v "$PWD/demo:/workdir" kafnets': (
        "needs Docker; tests/unit/test_container.py::test_the_demo_is_planned_from_what_is_copied"
    ),
    'docker run --rm --user "$(id -u)" --gpus all -v "$PWD:/workdir" kafnets:cuda snakemake'
    " --snakefile /opt/kafnets/Snakefile --cores 8": "needs Docker and a GPU",
    "mkdir -p demo": "for Docker",
    "apptainer build kafnets.sif docker-daemon://kafnets:latest": "needs Apptainer",
    'snakemake --cores 8 --sdm apptainer --config container="$PWD/kafnets.sif"': "needs Apptainer",
    "make venv": "the beginning of every command that is run here",
    "snakemake --snakefile /path/to/clone/Snakefile": (
        "tests/workflow/test_places.py::test_another_folder_and_a_narrow_locale"
    ),
    "snakemake --cores 8 --configfile mine.yaml": (
        "tests/workflow/test_recipes.py::test_the_example_of_the_page"
    ),
    "python workflow/scripts/pack_results.py --output carried.tar.xz": (
        "tests/workflow/test_packing_results.py::test_it_goes_on_elsewhere_with_the_same_bits"
    ),
    "python workflow/scripts/pack_results.py --unpack carried.tar.xz && snakemake --cores 8": (
        "tests/workflow/test_packing_results.py::test_it_goes_on_elsewhere_with_the_same_bits"
    ),
    "python -m benchmarks.together --processes 1 2 4 8": "tests/unit/test_benchmarks.py",
    "make reliability": "fifty minutes of tests that make test-all runs too",
    "snakemake --cores 2 --configfile workflow/presets/cifar10_smoke.yaml": (
        "tests/workflow/test_presets.py::test_real_cifar10_goes_through_the_whole_pipeline"
    ),
    "snakemake --cores 2 --configfile workflow/presets/activations_cpu.yaml": (
        "tests/workflow/test_presets.py::test_the_studies_are_planned"
    ),
    "snakemake --cores 2 rates --configfile workflow/presets/activations_cpu.yaml": (
        "tests/workflow/test_presets.py::test_rates_are_tried_before_a_study"
    ),
    "snakemake --cores 2 --configfile workflow/presets/certified_cpu.yaml": (
        "tests/workflow/test_presets.py::test_the_certificates_are_planned"
    ),
    "python workflow/scripts/certify.py --help": (
        "tests/unit/test_certify.py::test_the_script_writes_what_was_found"
    ),
    "snakemake --cores 8 rates": "tests/workflow/test_presets.py::test_rates_are_tried_before_a_study",
    "snakemake --cores 2 --configfile workflow/presets/published_smoke.yaml --config"
    " 'data={published: {source: /path/to/converted/weights}, cifar10: {source: null}}'": (
        "tests/workflow/test_published_weights.py::test_converted_weights_need_neither_network_nor_tensorflow"
    ),
    "git clone <this repository> /shared/kafnets && cd /shared/kafnets": "an address of yours",
    "$EDITOR profiles/slurm/config.yaml": "an editor",
    "python workflow/scripts/print_tables.py --output results": (
        "tests/unit/test_tables.py::test_the_scripts_write_and_print_the_table"
    ),
    "kafnets evaluate --model my_module:build --weights mine.pt --data cifar10 --output results/mine": (
        "tests/unit/test_command.py::test_the_commands_of_the_page"
    ),
    "kafnets table results/mine/pgd.json": "tests/unit/test_command.py::test_the_commands_of_the_page",
    "kafnets verify results/mine/pgd.json": "tests/unit/test_command.py::test_the_commands_of_the_page",
    "kafnets verify results/evaluations/vgg/relu/seed0/pgd.json": (
        "tests/unit/test_command.py::test_a_record_of_the_pipeline_finds_its_files"
    ),
    "python -m kafnets": "tests/unit/test_command.py::test_as_a_process",
    "snakemake --cores 8 --configfile judged.yaml": (
        "tests/workflow/test_recipes.py::test_the_example_of_ones_own_networks"
    ),
    "pip install .": "the package: tests/unit/test_wheel.py",
    "pip install '.[report]'": "the package and what it asks for: tests/unit/test_wheel.py",
    "pip install '.[data,statistics]'": "the package and what it asks for: tests/unit/test_wheel.py",
    "python workflow/scripts/evaluate.py --settings settings.json --model .../model.safetensors --data"
    " results/data/cifar10.safetensors --record again.json --verdicts again.safetensors": (
        "tests/workflow/test_pipeline.py::test_scripts_run_without_snakemake"
    ),
}


def commands(text):
    """The lines of a document's shell blocks, without comments, and the commands within its sentences."""
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+# .*", "", line) for line in blocks.replace("\\\n", "").splitlines()]
    lines += re.findall(r"`((?:snakemake|make|python|pip|[.]venv/bin/\w+) [^`]*)`", prose)
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))


def dry(command):
    return f"{command} {DRY[command.split()[0]]}"


PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")))
COMMANDS = commands("".join(page.read_text(encoding="utf-8") for page in PAGES))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What came of each command that is run here, two at a time."""
    folder = copy_repository(tmp_path_factory.mktemp("repository"))
    make_venv(folder)

    def run(command):
        return subprocess.run(
            ["bash", "-c", f"make venv >&2 && source .venv/bin/activate && {command}"],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

    chosen = [*RUN, *map(dry, PLANNED)]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(chosen, pool.map(run, chosen), strict=True))


def test_every_command_is_known():
    assert sorted(COMMANDS) == sorted([*RUN, *PLANNED, *ELSEWHERE])


@pytest.mark.parametrize("command", RUN)
def test_what_it_does(results, command):
    pattern, code = RUN[command]
    result = results[command]
    assert result.returncode == code and re.search(pattern, result.stdout), result.stdout


@pytest.mark.parametrize("command", PLANNED)
def test_what_it_would_do(results, command):
    result = results[dry(command)]
    assert result.returncode == 0 and re.search(PLANNED[command], result.stdout), result.stdout


@pytest.mark.parametrize("command", [one for one in PLANNED if one.startswith("snakemake")])
def test_snakemake_is_told_how_many_cores(command):
    """A dry run needs no number."""
    assert "--cores " in command or "--workflow-profile" in command


@pytest.mark.parametrize("place", [place for place in ELSEWHERE.values() if "::" in place])
def test_the_test_that_runs_it_is_there(place):
    file, _, name = place.rpartition("; ")[2].partition("::")
    assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


def test_a_new_command_is_seen():
    text = "Say `make x` or\n```bash\nsnakemake \\\n  --cores 1   # why\n```\n```python\nimport y\n```\n"
    assert commands(text) == ["snakemake --cores 1", "make x"]

"""The workflow as a module of another one, in another folder, as the Snakemake workflow catalog has it."""

import hashlib
import json
import subprocess

import yaml

from tests.repository import ROOT, copy_repository, planned

SETTINGS = {"output": "results/robustness", "run": ["digits_resnet8"], "seeds": [0]}
# As snakedeploy writes it, but for the names and a rule of the host's own.
HOST = """
configfile: "config/config.yaml"


module kafnets:
    snakefile:
        {snakefile}
    config:
        config


use rule * from kafnets as kafnets_*


rule ours:
    input:
        rules.kafnets_prepare_data.output.record.replace("{{dataset}}", "digits"),
    output:
        "ours.txt",
    shell:
        "cp {{input}} {{output}}"
"""


def host(folder, snakefile, **settings):
    """A workflow with this one as a module: in its configuration the demo, made smaller."""
    demo = yaml.safe_load((ROOT / "workflow/presets/demo.yaml").read_text(encoding="utf-8"))
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(yaml.safe_dump(demo | SETTINGS | settings), encoding="utf-8")
    (folder / "workflow").mkdir()
    (folder / "workflow/Snakefile").write_text(HOST.format(snakefile=snakefile), encoding="utf-8")
    return folder


WHERE = ("--snakefile", "workflow/Snakefile")
DEMO = ("--configfile", "workflow/presets/demo.yaml", "--config", "run=[digits_resnet8]", "card={run: []}")


def test_a_module_plans_what_the_workflow_itself_plans(plan, tmp_path):
    folder = host(tmp_path, json.dumps(str(ROOT / "workflow/Snakefile")), card={"run": []})
    as_module = planned(plan(folder, *WHERE, "-n"))
    itself = planned(plan(ROOT, "-n", *DEMO, "output=results/nowhere"))
    assert itself["train"] == 5 and itself.keys() >= {"aggregate", "render_tables", "plot_tradeoff"}
    itself["everything"] = itself.pop("all")  # workflow/Snakefile has another name for it
    assert as_module.pop("total") == itself.pop("total")
    assert as_module == {f"kafnets_{name}": count for name, count in itself.items()}
    # numbers in a list of the command line are texts to Snakemake
    more = planned(plan(folder, *WHERE, "-n", "--config", "seeds=[3, 4]"))
    assert more["kafnets_train"] == 10


def test_of_a_git_repository_a_checkout_runs(plan, tmp_path):
    """With one real step, by the scripts of the checkout."""
    source = copy_repository(tmp_path / "source")
    git = ("git", "-C", source, "-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "v1"], capture_output=True, text=True, check=True).stdout
    place = f'gitfile({json.dumps(str(source))}, path="workflow/Snakefile", tag="v1")'
    folder = tmp_path / "host"
    folder.mkdir()
    host(folder, place)
    plan(folder, *WHERE, "--", "ours.txt")
    record = json.loads((folder / "ours.txt").read_text(encoding="utf-8"))
    data = folder / "results/robustness/data/digits.safetensors"
    assert record["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    checkout = folder / ".snakemake/kafnets" / commit.strip()
    assert (checkout / "workflow/scripts/prepare_data.py").is_file()
    assert [path.name for path in checkout.parent.iterdir()] == [commit.strip()]
    log = (folder / "results/robustness/logs/data/prepare_digits.log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "Nothing to be done" in plan(folder, *WHERE, "--", "ours.txt")


def test_a_prefix_and_a_wrong_setting_are_refused_in_one_line(plan, tmp_path):
    folder = host(tmp_path, json.dumps(str(ROOT / "workflow/Snakefile")), evaluations={})
    words = plan(folder, *WHERE, "-n", code=1)
    assert "error in the configuration: evaluations" in words and "Traceback" not in words
    text = (folder / "workflow/Snakefile").read_text(encoding="utf-8")
    (folder / "workflow/Snakefile").write_text(
        text.replace("    config:\n        config\n", '    config:\n        config\n    prefix: "there"\n'),
        encoding="utf-8",
    )
    words = plan(folder, *WHERE, "-n", code=1)
    assert "this workflow takes no prefix" in words and "Traceback" not in words


def test_what_the_catalog_asks_for_is_there():
    """A Snakefile in workflow/, instructions in config/, and how to deploy it."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert usage["software-stack-deployment"]["conda"] is True and usage["report"] is True
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert (ROOT / "workflow/Snakefile").is_file() and (ROOT / "config/README.md").is_file()
    overlay = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    whole = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    assert overlay.items() <= whole.items()

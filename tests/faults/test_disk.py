"""A full disk, a read-only one: one clear line, and no half-written file taken for a whole one."""

import json
import subprocess

import pytest
from kafnets.config.slices import table_settings
from kafnets.runtime.files import sha256
from safetensors import safe_open

from tests.faults.conftest import card_arguments, lr_range_arguments
from tests.scripts import call, complete, config, evaluation_arguments, log_of, outcome, script, start

FAULT = "full disk or read-only file system"
FULL, READ_ONLY = "No space left on device", "Read-only file system"
PAGE = 4096  # what the smallest file takes on a tmpfs


def failed_with_one_line(process, log, reason):
    process.join(300)
    lines = [line for line in log.read_text().splitlines() if line.startswith("error")]
    assert process.exitcode == 2 and len(lines) == 1 and lines[0].endswith(reason), log.read_text()[-2000:]
    assert "Traceback" not in log.read_text()
    log.unlink()


# kB: not even a checkpoint; a checkpoint but no second one beside it; no model beside it; no record
@pytest.mark.parametrize(
    "size", [100, 700, 1000, 1200, *(pytest.param(kb, marks=pytest.mark.slow) for kb in (850, 1100))]
)
def test_a_full_disk_under_a_training(context, data, undisturbed, disk, tally, size):
    expected, _ = undisturbed["relu"]
    folder = disk(f"size={size}k")
    process = start(context, folder, data, "relu")
    tally.tried(FAULT)
    failed_with_one_line(process, log_of(folder), FULL)
    assert not list(folder.glob(".*")) and not (folder / "record.json").exists()
    if (folder / "model.safetensors").exists():
        assert sha256(folder / "model.safetensors") == expected[0]
    subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
    complete(context, folder, data, "relu")
    assert outcome(folder) == expected
    tally.bits(FAULT)


def test_a_full_disk_under_an_evaluation(context, data, disk, tmp_path, tally):
    trained = tmp_path / "trained"
    trained.mkdir()
    complete(context, trained, data, "relu")
    folder = disk("size=4k")
    (folder / "filler").write_bytes(bytes(4096))
    arguments = evaluation_arguments(trained, data, "relu", "clean", folder)
    tally.tried(FAULT)
    process = context.Process(target=script, args=("evaluate.py", arguments, log_of(folder)))
    process.start()
    failed_with_one_line(process, log_of(folder), FULL)
    assert [path.name for path in folder.iterdir()] == ["filler"]
    subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)
    process = context.Process(target=script, args=("evaluate.py", arguments, log_of(folder)))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    with safe_open(folder / "clean.safetensors", framework="pt") as file:
        assert len(file.get_tensor("clean")) == 20
    tally.held(FAULT)


def test_a_read_only_file_system(context, data, disk, tally):
    folder = disk("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    tally.tried(FAULT)
    process = start(context, folder, data, "relu")
    failed_with_one_line(process, log_of(folder), READ_ONLY)
    tally.held(FAULT)


def test_the_log_is_on_the_full_disk_too(context, data, undisturbed, disk, tally):
    """Nothing can be said there; the exit code says it."""
    expected, _ = undisturbed["relu"]
    folder = disk("size=64k")
    fill(folder, 0)
    tally.tried(FAULT)
    process = start(context, folder, data, "relu", log=folder / "train.log")
    process.join(300)
    assert process.exitcode == 2
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {"filler": 65536, "train.log": 0}
    subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
    complete(context, folder, data, "relu")
    assert outcome(folder) == expected
    tally.bits(FAULT)


def fill(folder, pages):
    """Fills the disk up to so many free pages."""
    (folder / "filler").touch()
    with pytest.raises(OSError, match=FULL), open(folder / "filler", "ab", buffering=0) as file:
        while True:
            file.write(bytes(PAGE))
    with open(folder / "filler", "ab") as file:
        file.truncate(file.tell() - pages * PAGE)


def tables(target, finished, data):
    settings = json.dumps(table_settings(config(), "tiny"))
    return [
        *("--summary", finished / "summary.csv", "--manifest", finished / "manifest.jsonl"),
        *("--experiment", "tiny", "--settings", settings, "--output", target),
    ]


# of every other script that writes results: its arguments, and the outputs that no time or duration is in
SCRIPTS = {
    "prepare_data.py": (
        lambda target, *_: [
            *("--dataset", "digits"),
            *("--output", target / "digits.safetensors", "--record", target / "digits.json"),
        ],
        {"digits.safetensors"},
    ),
    "card.py": (lambda target, finished, data: card_arguments(finished, data, target), {"card.safetensors"}),
    "lr_range.py": (lambda target, finished, data: lr_range_arguments(target, data), {"lr_range.csv"}),
    "aggregate.py": (
        lambda target, finished, _: [
            *("--manifest", finished / "manifest.jsonl", "--output", target / "summary.csv")
        ],
        {"summary.csv", "summary.csv.sha256"},
    ),
    "render_tables.py": (
        tables,
        {
            f"tiny{part}.{kind}"
            for part in ("", "_attacks", "_differences")
            for kind in ("tex", "csv", "md", "json")
        },
    ),
    "render_cards.py": (
        lambda target, finished, _: [
            *("--cards", finished / "card.json", "--title", "tiny"),
            *("--csv", target / "cards.csv", "--md", target / "cards.md"),
            *("--json", target / "cards.json"),
        ],
        {"cards.csv", "cards.md", "cards.json"},
    ),
    "plot_lr_range.py": (
        lambda target, finished, _: [
            *("--csv", finished / "lr_range.csv", "--json", finished / "lr_range.json"),
            *("--pdf", target / "lr_range.pdf", "--png", target / "lr_range.png"),
        ],
        {"lr_range.pdf", "lr_range.png", "lr_range.svg"},
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_disk_that_fills_under_any_script(context, data, finished, disk, tmp_path, tally, name):
    """Full at once, after the first file, or read-only: what is there is whole, the rest is made later."""
    arguments, equal = SCRIPTS[name]
    made, log = tmp_path / "made", tmp_path / "log"
    made.mkdir()
    assert call(context, name, arguments(made, finished[0], data), log)[0] == 0
    expected = {path.name: path.read_bytes() for path in made.iterdir()}
    assert equal <= set(expected)
    folder = disk("size=64m")
    for pages in (0, 1, sum(-(-len(content) // PAGE) for content in expected.values()) - 1):
        fill(folder, pages)
        refused(context, name, arguments(folder, finished[0], data), log, FULL, tally)
        left = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "filler"}
        assert set(left) < set(expected)
        assert all(left[one] == expected[one] for one in set(left) & equal)
        for path in folder.iterdir():
            path.unlink()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    refused(context, name, arguments(folder, finished[0], data), log, READ_ONLY, tally)
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    assert call(context, name, arguments(folder, finished[0], data), log)[0] == 0
    assert {path.name for path in folder.iterdir()} == set(expected)
    assert all((folder / one).read_bytes() == expected[one] for one in equal)


def refused(context, name, arguments, log, reason, tally):
    log.unlink()
    tally.tried(FAULT)
    code, words = call(context, name, arguments, log)
    lines = [line for line in words.splitlines() if line.startswith("error")]
    assert code == 2 and len(lines) == 1 and lines[0].endswith(reason), words[-2000:]
    assert "Traceback" not in words
    tally.held(FAULT)

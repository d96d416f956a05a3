"""Packed results: what is refused, what stays, and which of two states goes on."""

import io
import os
import subprocess
import sys
import tarfile

import pytest
from kafnets.pipeline import carrying
from kafnets.pipeline.precedence import result_of
from kafnets.runtime import checkpoint
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256, write_json
from snakemake.persistence.file import FilePersistence

NAME = "0123456789abcdef"
MODEL = "results/models/e/relu/seed0"


def trained(folder, weights, finished, record=True):
    """A training's files, the record's checksums those of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "history.csv").write_text("epoch\n1\n")
    sums = {
        "model_sha256": sha256(folder / "model.safetensors"),
        "history_sha256": sha256(folder / "history.csv"),
    }
    if record:
        write_json(folder / "record.json", {"finished": finished, **sums})


def state(path, epoch, step):
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(path, {"fingerprint": NAME, "position": {"epoch": epoch, "step": step, "seconds": 1.0}})


def carry(here, there, **options):
    archive = here / "carried.tar.xz"
    carrying.pack(here, "results", archive, **options)
    return carrying.unpack(there, archive)


@pytest.fixture
def places(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def test_files_dates_and_notes_come_back(places):
    here, there = places
    trained(here / MODEL, b"w", "2026-01-01")
    os.utime(here / MODEL / "model.safetensors", (1e9, 1e9))
    long = "results/logs/" + "x" * 200 + "/a.log"
    left_behind = ("results/data/raw/a.gz", f"{MODEL}/.model.safetensors.1", f"{MODEL}/record.lock")
    for name in (long, "results/data/d.safetensors", *left_behind):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    notes = FilePersistence.__new__(FilePersistence)
    notes._max_len = None
    (here / ".snakemake/metadata").mkdir(parents=True)
    for key in (f"{MODEL}/model.safetensors", long, "results/gone.csv"):
        notes._io_write(str(here / ".snakemake/metadata"), key, key)
    placed, kept = carry(here, there)
    assert kept == []
    assert sorted(placed) == sorted(
        [long.removeprefix("results/")]
        + [f"models/e/relu/seed0/{name}" for name in ("history.csv", "model.safetensors", "record.json")]
    )
    assert (there / MODEL / "model.safetensors").stat().st_mtime == 1e9
    folder = str(there / ".snakemake/metadata")
    assert all(notes._io_read(folder, key) == key for key in (f"{MODEL}/model.safetensors", long))
    assert not notes._io_read(folder, "results/gone.csv")
    placed, _ = carry(here, there, with_data=True)
    assert placed == ["data/d.safetensors"]  # what is the same is not moved again, raw archives never
    assert not list((there / "results").glob(".carried-*"))


@pytest.mark.parametrize(
    ("carried", "ours", "stays"),
    [
        (("new", "2026-02-01"), ("old", "2026-01-01"), False),
        (("old", "2026-01-01"), ("new", "2026-02-01"), True),
        (("new", "2026-01-01"), ("old", "2026-01-01"), True),
        (("half", None), ("old", "2026-01-01"), True),
        (("new", "2026-01-01"), ("half", None), False),
    ],
)
def test_what_is_finished_later_stays(places, carried, ours, stays):
    here, there = places
    trained(here / MODEL, carried[0].encode(), carried[1], record=carried[1] is not None)
    trained(there / MODEL, ours[0].encode(), ours[1], record=ours[1] is not None)
    _, kept = carry(here, there)
    assert (there / MODEL / "model.safetensors").read_text() == (ours if stays else carried)[0]
    assert len(kept) == stays and all("models/e/relu/seed0/record: finished here" in line for line in kept)


def test_a_record_of_other_weights_proves_nothing(places):
    here, there = places
    trained(here / MODEL, b"good", "2026-01-01")
    trained(there / MODEL, b"better", "2026-03-01")
    (there / MODEL / "model.safetensors").write_bytes(b"damaged")
    carry(here, there)
    assert (there / MODEL / "model.safetensors").read_bytes() == b"good"


@pytest.mark.parametrize(("ours", "stays"), [((3, 1), True), ((2, 9), True), ((2, 4), False), (None, False)])
def test_the_further_state_goes_on(places, ours, stays):
    here, there = places
    path = f"{MODEL}/resume-record-{NAME}.ckpt"
    state(here / path, 2, 5)
    state(there / path, *(ours or (9, 9)))
    if ours is None:
        (there / path).write_bytes((there / path).read_bytes()[:-1])  # damaged: less than any
    _, kept = carry(here, there)
    position = checkpoint.read(there / path, NAME)["position"]
    assert (position["epoch"], position["step"]) == (ours if stays else (2, 5))
    assert len(kept) == stays


def test_the_newer_of_other_files_stays(places):
    here, there = places
    for name, ours, theirs in (("a.csv", 2e9, 1e9), ("b.csv", 1e9, 2e9)):
        for place, date in ((there, ours), (here, theirs)):
            path = place / "results" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(date))
            os.utime(path, (date, date))
    placed, kept = carry(here, there)
    assert placed == ["b.csv"] and [line.partition(":")[0] for line in kept] == ["a.csv"]
    assert {path.read_text() for path in (there / "results").glob("*.csv")} == {"2000000000.0"}


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("models/e/kaf/seed1/history.csv", ("models/e/kaf/seed1", "record")),
        (f"evaluations/e/kaf/seed0/resume-thesis_pgd-{NAME}.ckpt", ("evaluations/e/kaf/seed0", "thesis_pgd")),
        ("evaluations/e/kaf/seed0/pgd.safetensors", ("evaluations/e/kaf/seed0", "pgd")),
        ("cards/e.json", None),  # the table of an experiment
        ("summary.csv", None),
        ("logs/train/e/kaf/seed0.log", None),
    ],
)
def test_what_belongs_together(name, result):
    assert result_of(name) == result


def rewritten(archive, change):
    """The archive with its members changed by a function of (name, content), and its manifest as it was."""
    with tarfile.open(archive) as source:
        members = [(one.name, source.extractfile(one).read()) for one in source]
    with tarfile.open(archive, "w:xz") as target:
        for name, content in filter(None, (change(*member) for member in members)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))


def is_weights(name):
    return name.endswith("model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, content: (name, b"x" if is_weights(name) else content), "damaged, its checksum"),
        (lambda name, content: None if is_weights(name) else (name, content), "is missing"),
        (lambda name, content: (f"../{name}" if is_weights(name) else name, content), "not in its manifest"),
        (lambda name, content: (name, content.replace(b"seed0", b"seed1")), "checksum is another"),
        (lambda name, content: None if name == "manifest.json" else (name, content), "not packed results"),
    ],
)
def test_a_changed_archive_changes_nothing(places, change, words):
    here, there = places
    trained(here / MODEL, b"w", "2026-01-01")
    archive = here / "carried.tar.xz"
    carrying.pack(here, "results", archive)
    rewritten(archive, change)
    with pytest.raises(UserError, match=words):
        carrying.unpack(there, archive)
    assert [path for path in there.rglob("*") if path.is_file()] == []


def test_a_manifest_that_leads_elsewhere(places):
    here, there = places
    for results in ("/etc", "../other", "."):
        manifest = here / "manifest.json"
        write_json(manifest, {"format": carrying.FORMAT, "results": results, "files": {}})
        with tarfile.open(here / "a.tar.xz", "w:xz") as archive:
            archive.add(manifest, "manifest.json")
        with pytest.raises(UserError, match="is not below the folder"):
            carrying.unpack(there, here / "a.tar.xz")


def test_a_part_that_is_missing(places):
    here, there = places
    trained(here / MODEL, os.urandom(3000), "2026-01-01")
    parts, _ = carrying.pack(here, "results", here / "a.tar.xz", part_size=1000)
    assert len(parts) > 2 and not (here / "a.tar.xz").exists()
    parts[-1].unlink()
    with pytest.raises(UserError, match=r"a\.tar\.xz: damaged .*pack or copy it again"):
        carrying.unpack(there, here / "a.tar.xz")
    with pytest.raises(UserError, match="no such file, and no parts"):
        carrying.unpack(there, here / "b.tar.xz")
    fewer, _ = carrying.pack(here, "results", here / "a.tar.xz", part_size=100_000)
    assert sorted(here.glob("a.tar.xz*")) == fewer  # the parts of before are gone


@pytest.mark.parametrize(
    ("lock", "kind"),
    [(f"{MODEL}/record.lock", "flock"), (".snakemake/holders", "lockf")],
)
def test_nothing_is_packed_while_a_process_works(places, lock, kind):
    here, there = places
    trained(here / MODEL, b"w", "2026-01-01")
    carrying.pack(here, "results", here / "a.tar.xz")
    for place in places:
        (place / lock).parent.mkdir(parents=True, exist_ok=True)
        (place / lock).touch()
    carrying.pack(here, "results", here / "a.tar.xz")  # a lock that nobody holds any more
    program = (
        "import fcntl, sys, time; files = [open(path, 'r+') for path in sys.argv[1:]]\n"
        f"for file in files: fcntl.{kind}(file, fcntl.LOCK_SH)\n"
        "print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, here / lock, there / lock]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            with pytest.raises(UserError, match="a process is at work there"):
                carrying.pack(here, "results", here / "a.tar.xz")
            with pytest.raises(UserError, match="a process is at work there"):
                carrying.unpack(there, here / "a.tar.xz")
        finally:
            process.kill()


def test_nothing_to_pack(places):
    with pytest.raises(UserError, match="no results to pack"):
        carrying.pack(places[0], "results", places[0] / "a.tar.xz")
    with pytest.raises(UserError, match=r"--results: '\.\./x' is not below"):
        carrying.pack(places[0], "../x", places[0] / "a.tar.xz")

"""What the tests share."""

import collections
import datetime
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

# Set before torch is imported: test processes run side by side, and one thread each is fastest then.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

STARTED = time.monotonic()
REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def cifar10_folder(tmp_path_factory):
    """The official folder cifar-10-batches-py: from $KAFNETS_CIFAR10, else unpacked from ../shared/data."""
    given = os.environ.get("KAFNETS_CIFAR10")
    if given:
        folder = Path(given)
        inner = folder / "cifar-10-batches-py"
        yield inner if inner.is_dir() else folder
        return
    unpack = SHARED_DATA / "unpack_cifar10.py"
    if not unpack.is_file():
        pytest.skip("no CIFAR-10 here: set KAFNETS_CIFAR10 to a folder cifar-10-batches-py")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, unpack, folder], check=True, stdout=subprocess.DEVNULL)
    yield folder / "cifar-10-batches-py"
    shutil.rmtree(folder)  # 180 MB that pytest would keep for three sessions


@pytest.fixture(scope="session")
def published_folder():
    """The thesis's weights as converted files: from $KAFNETS_PUBLISHED, else in ../shared/data."""
    folder = Path(os.environ.get("KAFNETS_PUBLISHED", SHARED_DATA / "thesis_models"))
    if not folder.is_dir():
        pytest.skip("no published weights here: set KAFNETS_PUBLISHED to the folder of the converted files")
    return folder


# -- what was injected and what held, counted by the tests; `pytest --reliability FILE` writes it down


class Tally:
    """How often each kind of fault or bad input was injected, and how often the right thing followed."""

    def __init__(self):
        self.rows, self.figures, self.skipped, self.test = {}, [], [], ""

    def _row(self, name):
        return self.rows.setdefault(name, {"tried": 0, "held": 0, "bits": 0, "tests": []})

    def tried(self, name, count=1):
        row = self._row(name)
        row["tried"] += count
        if self.test not in row["tests"]:
            row["tests"].append(self.test)

    def held(self, name, count=1):
        self._row(name)["held"] += count

    def bits(self, name, count=1, held=True):
        """The weights or verdicts afterwards were, bit for bit, those of an undisturbed run; so it held."""
        self._row(name)["bits"] += count
        if held:
            self.held(name, count)

    def add(self, rows, figures, skipped):
        """Takes over what another process of the same pytest counted."""
        self.skipped += skipped
        for name, other in rows.items():
            row = self._row(name)
            row["tried"] += other["tried"]
            row["held"] += other["held"]
            row["bits"] += other["bits"]
            row["tests"] += [test for test in other["tests"] if test not in row["tests"]]
        self.figures += map(tuple, figures)

    def figure(self, name, value):
        """Something measured or counted that is no fault."""
        self.figures.append((name, value, self.test))

    @staticmethod
    def _tests(nodes):
        """The tests' names, by the files they are in."""
        files = {}
        for file, _, test in (node.partition("::") for node in nodes):
            files.setdefault(file, []).append(f"`{test}`")
        return "<br>".join(f"{file}: {', '.join(tests)}" for file, tests in files.items())

    def table(self):
        lines = ["| injected | times | held | same bits | test |", "|---|---:|---:|---:|---|"]
        for name, row in self.rows.items():
            counts = " | ".join(f"{row[kind]:,}" for kind in ("tried", "held", "bits"))
            lines.append(f"| {name} | {counts} | {self._tests(row['tests'])} |")
        figures = {}
        for name, value, test in self.figures:
            figures.setdefault(name, []).append((value, test))
        if figures:
            lines += ["", "| figure | value | test |", "|---|---|---|"]
        for name, found in figures.items():
            values, tests = zip(*found, strict=True)
            counted = all(isinstance(value, int) for value in values)
            value = f"{sum(values):,}" if counted else "; ".join(map(str, values))
            lines.append(f"| {name} | {value} | {self._tests(dict.fromkeys(tests))} |")
        if self.skipped:
            lines += ["", f"Skipped, so not counted: {self._tests(self.skipped)}."]
        return "\n".join(lines)


TALLY = Tally()


@pytest.fixture(scope="session")
def tally():
    return TALLY


# beside the whole of tests/workflow and tests/faults what takes most of a minute, the longest first
LONG = [
    "test_config_snakemake.py",
    "test_code.py",
    "test_site.py",
    "test_wheel.py",
    "test_plots.py",
    "test_methods.py",
    "test_activations_backends.py",
]


def place(item):
    """Before what a test has its turn."""
    if item.path.parent.name in ("workflow", "faults"):
        return ("workflow", "faults").index(item.path.parent.name)
    return 2 + (LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_modifyitems(config, items):
    """What takes longest first, so that the processes of `pytest -n 2` end together."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        elsewhere = [item for item in items if item.get_closest_marker("interpreted")]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]
    items.sort(key=place)


def pytest_terminal_summary(terminalreporter, config):
    """With `--durations N` the N files that took longest too: so that growth is seen."""
    if not config.getoption("durations"):
        return
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section(f"slowest files, of {sum(seconds.values()):.0f} s")
    for file, duration in seconds.most_common(config.getoption("durations")):
        terminalreporter.write_line(f"{duration:7.1f}s {file}")


def pytest_addoption(parser):
    parser.addoption("--reliability", type=Path, metavar="FILE", help="write what was injected and what held")


def pytest_runtest_setup(item):
    TALLY.test = item.nodeid.partition("[")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Counts a test marked `injects` as one fault, held when it passed."""
    report = yield
    if report.skipped and item.nodeid.partition("[")[0] not in TALLY.skipped:
        TALLY.skipped.append(item.nodeid.partition("[")[0])
    marker = item.get_closest_marker("injects")
    if marker is not None and call.when == "call" and not report.skipped:
        TALLY.tried(*marker.args)
        if report.passed:
            TALLY.held(*marker.args)
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """A process of pytest-xdist has ended (one that crashed has nothing to say)."""
    if counted := getattr(node, "workeroutput", {}).get("tally"):
        TALLY.add(**counted)


def pytest_sessionfinish(session, exitstatus):
    path = session.config.getoption("--reliability")
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = {
            "rows": TALLY.rows,
            "figures": TALLY.figures,
            "skipped": TALLY.skipped,
        }
    elif path is not None:
        seconds = time.monotonic() - STARTED
        path.write_text(
            "# Faults and bad input: what was injected, what held\n\n"
            "Written by the tests themselves; do not edit. Again: `make reliability`. *Held* is what\n"
            "the test demands: after a kill the bits of an undisturbed run, bad input refused in a line.\n"
            "*Same bits*: weights or verdicts compared, bit for bit, with those of an undisturbed run.\n\n"
            f"{TALLY.table()}\n\n"
            f"{datetime.date.today()}, {os.cpu_count()} CPU cores, {seconds / 60:.0f} minutes, "
            f"exit status of pytest {int(exitstatus)}.\n"
        )

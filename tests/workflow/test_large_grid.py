"""Ten thousand jobs are planned in one dry run: planning is no limit to a grid."""

import re
import time

import yaml

from tests.repository import TINY, copy_repository, run


def test_ten_thousand_jobs_are_planned(tmp_path, tally):
    folder = copy_repository(tmp_path / "run")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"seeds": list(range(1667))}))
    started = time.monotonic()
    grid = ("--configfile", TINY, tmp_path / "grid.yaml")
    output = run(folder, "evaluations", "--dry-run", "--quiet", "rules", *grid)
    seconds = time.monotonic() - started
    planned = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}
    assert planned["train"] == 2 * 1667 and planned["evaluate"] == 4 * 1667
    tally.figure("largest grid planned", f"{planned['total']:,} jobs, {seconds:.0f} s")

"""Mutation testing of the pure functions: mutmut makes every small change to them, and a test should see it.

    make mutation                              # hours; goes on where it was stopped
    python -m scripts.mutation --jobs 8

Which files, and which tests are run, stands in pyproject.toml under [tool.mutmut]. Changes of values that are the same
nevertheless (`x > 0` and `x >= 1` for integers) cannot be seen: not all survivors are faults. Those left are listed;
`cd .mutation && mutmut show NAME` shows one. The exit status is 1 if fewer than 90% are seen.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.copies import copy_of
from scripts.mutants import ROOT

FOLDER = ROOT / ".mutation"
RESULTS = "mutants"  # mutmut's own folder
GOAL = 0.9  # share of the mutants that a test sees
SEEN, NOT_SEEN = ("killed", "timeout", "segfault"), ("survived", "no_tests", "suspicious", "skipped", "not_checked")


def share_seen(statistics: dict[str, Any]) -> float:
    """The share of mutants that made a test fail, or run without end."""
    seen, not_seen = (sum(statistics.get(name, 0) for name in names) for names in (SEEN, NOT_SEEN))
    return seen / max(1, seen + not_seen)


def _is_whole(path: Path) -> bool:
    """Whether mutmut, which writes its results in place, was not stopped while it wrote these."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def main() -> int:
    """Run mutmut in a copy of the repository and print the share of mutants that were seen, and the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many mutants are tried at once")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        if path.name != RESULTS:  # which stay, so that what was tried is not tried again
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy_of(ROOT, FOLDER)
    for path in (FOLDER / RESULTS).rglob("*.meta"):
        if not _is_whole(path):
            path.unlink()
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run([*mutmut, "run", "--max-children", str(arguments.jobs)], cwd=FOLDER, check=True)
    subprocess.run([*mutmut, "export-cicd-stats"], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*mutmut, "results"], cwd=FOLDER, check=True)
    statistics = json.loads((FOLDER / RESULTS / "mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    share = share_seen(statistics)
    print(f"{statistics['total']} mutants, {100 * share:.1f}% seen by a test (goal: {100 * GOAL:g}%)")
    return int(share < GOAL)


if __name__ == "__main__":
    sys.exit(main())

"""Plant known faults, one at a time, and run for each the test that must fail.

    make mutants                                            # all of tests/mutants.toml
    python -m scripts.mutants --only threshold-of-dev       # some, by name

Each fault is planted in a copy of this repository. First the tests run without any fault, where they must pass. The
exit status is 1 if a fault survives (its test passes nevertheless), and 2 if one cannot be tried: its text is no longer
in the file, or its test is not there, fails without it or does not start.
"""

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

from gmmxlnet.errors import GMMXLNetError
from scripts.copies import copy_of

ROOT = Path(__file__).resolve().parents[1]
FAULTS = Path("tests/mutants.toml")
SECONDS = 600  # that one test may take
FAILED, PASSED = 1, 0  # exit statuses of pytest; others mean that no test ran to its end
KILLED, SURVIVED = "killed", "SURVIVED"
LINES = 30  # of pytest's output that are shown


class MutantError(GMMXLNetError):
    """A fault cannot be tried."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault: in `file` the text `old`, which is there exactly once, becomes `new`; `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str  # as pytest takes it: a file, or a function in it

    def text(self, root: Path) -> tuple[str, str]:
        """The file without and with the fault. Raises MutantError where the fault does not fit."""
        path = root / self.file
        if not path.is_file():
            raise MutantError(f"{FAULTS}: {self.name}: there is no file {self.file}; change the fault, or remove it")
        sound = path.read_text(encoding="utf-8")
        if (count := sound.count(self.old)) != 1:
            raise MutantError(
                f"{FAULTS}: {self.name}: {self.file} has its `old` text {count} times instead of once; change the fault"
            )
        if self.old == self.new:
            raise MutantError(f"{FAULTS}: {self.name}: `old` and `new` are equal; change the fault")
        return sound, sound.replace(self.old, self.new)


def read_faults(path: Path) -> list[Fault]:
    """The faults in a TOML file. Raises MutantError."""
    names = {field.name for field in fields(Fault)}
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise MutantError(f"{path}: cannot be read: {error}") from None
    for entry in entries:
        if set(entry) != names:
            raise MutantError(f"{path}: {entry.get('name')}: needs {', '.join(sorted(names))} and nothing else")
    faults = [Fault(**entry) for entry in entries]
    repeated = {fault.name for fault in faults if [other.name for other in faults].count(fault.name) > 1}
    if repeated:
        raise MutantError(f"{path}: two faults have the name {min(repeated)}; rename one")
    return faults


def misfits(faults: Sequence[Fault], root: Path) -> list[str]:
    """A line for each fault that does not fit the code."""
    lines = []
    for fault in faults:
        try:
            fault.text(root)
        except MutantError as error:
            lines.append(str(error))
    return lines


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of pytest, which has `SECONDS` for each test; the code is imported from `root`."""
    seconds = SECONDS * len(tests)
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--basetemp={root / '.tests'}"]
    try:
        done = subprocess.run(
            [*command, *tests], cwd=root, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, f"took more than {seconds} seconds"
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-LINES:])


def survives(fault: Fault, root: Path) -> bool:
    """Whether the test passes with the fault; `root` is a copy, which is as it was afterwards. Raises MutantError."""
    sound, faulty = fault.text(root)
    path = root / fault.file
    path.write_text(faulty, encoding="utf-8")
    try:
        status, output = run_tests(root, [fault.test])
    finally:
        path.write_text(sound, encoding="utf-8")
    if status not in (FAILED, PASSED):
        raise MutantError(f"{FAULTS}: {fault.name}: {fault.test} did not run with it\n{output}")
    return status == PASSED


def try_faults(faults: Sequence[Fault], root: Path, jobs: int) -> tuple[list[str], list[str]]:
    """Try each fault in copies of `root`, `jobs` at a time; returns the survivors and what could not be tried."""
    survivors: list[str] = []
    errors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(copy_of(root, Path(scratch) / str(number)))

        def outcome(fault: Fault) -> str:
            copy = copies.get()
            try:
                return SURVIVED if survives(fault, copy) else KILLED
            except MutantError as error:
                return str(error)
            finally:
                copies.put(copy)

        def failing(tests: Sequence[str]) -> str:
            copy = copies.get()
            try:
                status, output = run_tests(copy, tests)
            finally:
                copies.put(copy)
            return "" if status == PASSED else f"{FAULTS}: a test does not pass without a fault\n{output}"

        tests = list(dict.fromkeys(fault.test for fault in faults))
        with ThreadPoolExecutor(jobs) as pool:
            errors = [*filter(None, pool.map(failing, filter(None, (tests[i::jobs] for i in range(jobs)))))]
            if errors:
                return [], errors
            for fault, result in zip(faults, pool.map(outcome, faults), strict=True):
                known = result in (KILLED, SURVIVED)
                print(f"{result if known else 'ERROR':8}  {fault.name}: {fault.test}", flush=True)
                if result == SURVIVED:
                    survivors.append(fault.name)
                elif not known:
                    errors.append(result)
    return survivors, errors


def main(root: Path = ROOT) -> int:
    """Try the faults and print each outcome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of faults")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many are tried at once")
    arguments = parser.parse_args()
    try:
        faults = read_faults(root / FAULTS)
        unknown = set(arguments.only) - {fault.name for fault in faults}
        if unknown:
            raise MutantError(f"{FAULTS}: there is no fault {min(unknown)}")
    except MutantError as error:
        print(error, file=sys.stderr)
        return 2
    chosen = [fault for fault in faults if not arguments.only or fault.name in arguments.only]
    survivors: list[str] = []
    errors = misfits(chosen, root)
    if not errors:
        survivors, errors = try_faults(chosen, root, max(1, arguments.jobs))
    if errors:
        print("\n".join(errors), file=sys.stderr)
        return 2
    print(f"{len(chosen)} faults; survivors: {', '.join(survivors) or 'none'}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())

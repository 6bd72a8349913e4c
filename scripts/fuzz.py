"""Feed damaged files to their readers: each is read right, or refused in one line by an error of our own.

    make fuzz                                                        # 10,000 cases over all targets
    python -m scripts.fuzz --cases 50000 --seed 7                    # more of them
    python -m scripts.fuzz --target "resume folders" --cases 100     # of one target
    python -m scripts.fuzz --target "SQuAD files" --seed 3 --only 421    # one case again, with its traceback

Case n of a target and a seed is always the same; the seed is today's date unless one is given, and is printed. Any
other exception, a message or output that is no printable line, more than 10 seconds of processor time for one case,
more than 256 MiB of memory that one case adds, the end of the process, and what is read but is not what the files say:
each is a failure.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from gmmxlnet.errors import DatasetError, GMMXLNetError
from gmmxlnet.utils.logs import VARIABLE, quiet_without_a_terminal, set_log_level

SECONDS, MEBIBYTES = 10, 256
PLACE = "GMMXLNET_FUZZ_PLACE"  # names a file for the number of the case at hand
TARGETS = {  # class of cases, and their share
    "SQuAD files": ("squad:SquadCases", 45),
    "reports": ("reports:ReportCases", 18),
    "chunks": ("chunks:ChunkCases", 16),
    "checkpoints": ("checkpoints:CheckpointCases", 8),
    "tokenizers": ("tokenizers:TokenizerCases", 7),
    "parameters": ("parameters:ParameterCases", 5.5),
    "resume folders": ("resuming:ResumeCases", 0.4),
    "databases": ("databases:DatabaseCases", 0.1),
}


@dataclass
class Outcomes:
    """How many cases were read, refused or failed."""

    counts: Counter[str] = field(default_factory=Counter)  # "kind: read" or "kind: refused"
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def fuzz(cases: Any, seed: int, numbers: range, place: str | None = None) -> Outcomes:
    """Run cases, each a function from (seed, number) to (kind of mutation, function that reads).

    Args:
        place: a file to keep the number of the case at hand, for whoever finds this process gone.
    """
    outcomes = Outcomes()
    signal.signal(signal.SIGPROF, _too_slow)
    for number in numbers:
        if place is not None:
            Path(place).write_text(f"{number}", encoding="ascii")
        kind, read = cases(seed, number)
        outcomes.counts[f"{kind}: {_outcome(read, outcomes, f'{cases.name} {number} ({kind})')}"] += 1
    return outcomes


def _outcome(read: Callable[[], None], outcomes: Outcomes, name: str) -> str:
    before = _peak_mebibytes()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    printed: list[str] = []
    try:
        with _heard(printed):
            read()
        outcome = "read"
    except GMMXLNetError as error:
        outcome = "refused"
        lines = str(error).split("\n")
        most = error.count if isinstance(error, DatasetError) else 1
        if len(lines) > most or max(map(len, lines)) > 2_000 or not all(map(_is_printable, lines)):
            outcomes.failures.append(f"{name}: its message is no line: {str(error)[:300]!r}")
    except BaseException as error:  # whatever else is raised is what this looks for
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome = "FAILED"
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:300]
        outcomes.failures.append(f"{name}: {type(error).__name__} at {where.filename}:{where.lineno}: {reason}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if not all(map(_is_printable, printed)):
        outcomes.failures.append(f"{name}: printed what could steer a terminal: {printed!r:.300}")
    if _peak_mebibytes() - before > MEBIBYTES:
        outcomes.failures.append(f"{name}: took {_peak_mebibytes() - before:.0f} MiB")
    return outcome


@contextmanager
def _heard(lines: list[str]) -> Iterator[None]:
    """Add to `lines` what is written to standard output, also by code that is not Python's."""
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").split("\n")


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _is_printable(line: str) -> bool:
    return line.replace("\u200c", "").replace("\u200d", "").isprintable()  # joiners are parts of words


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def main() -> int:
    """Run and print; the exit status is 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="how many, of all targets together")
    parser.add_argument("--target", choices=TARGETS, help="the only target")
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")), help="default: today's date")
    parser.add_argument("--only", type=int, help="one case of the target, with its traceback")
    arguments = parser.parse_args()
    if arguments.only is not None and arguments.target is None:
        parser.error("--only needs --target")
    if arguments.target is None:
        print(f"seed {arguments.seed}", flush=True)
        shares = {name: share / sum(share for _, share in TARGETS.values()) for name, (_, share) in TARGETS.items()}
        done = [_in_a_process(name, round(arguments.cases * share), arguments.seed) for name, share in shares.items()]
        return int(any(done))
    quiet_without_a_terminal()
    set_log_level(os.environ.get(VARIABLE, "error"))
    module, _, cases_class = TARGETS[arguments.target][0].partition(":")
    with tempfile.TemporaryDirectory() as scratch:
        cases = getattr(import_module(f"scripts.fuzzing.{module}"), cases_class)(Path(scratch))
        if arguments.only is not None:
            kind, read = cases(arguments.seed, arguments.only)
            print(f"{cases.name} {arguments.only}: {kind}")
            read()
            return 0
        outcomes = fuzz(cases, arguments.seed, range(arguments.cases), os.environ.get(PLACE))
    for name, number in sorted(outcomes.counts.items()):
        print(f"{number:6}  {cases.name}, {name}")
    print(f"{outcomes.total} {cases.name}, seed {arguments.seed}: {len(outcomes.failures)} failures")
    print("".join(f"{failure}\n" for failure in outcomes.failures), end="", flush=True)
    return int(bool(outcomes.failures))


def _in_a_process(target: str, count: int, seed: int) -> int:
    """Run a target in a process of its own, since its end by a signal is a failure; returns its status."""
    with tempfile.NamedTemporaryFile("r") as place:
        words = [sys.executable, "-X", "faulthandler", "-m", "scripts.fuzz", "--target", target]
        status = subprocess.run(
            [*words, "--cases", str(count), "--seed", str(seed)], env={**os.environ, PLACE: place.name}, check=False
        ).returncode
        if status not in (0, 1):
            print(f"{target} {place.read()}: ended the process with status {status}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())

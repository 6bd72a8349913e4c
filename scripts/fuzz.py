"""Feed damaged checkpoints and SQuAD files to their readers: each is read right, or refused by our own errors.

    make fuzz                                              # 5,000 of each
    python -m scripts.fuzz --squad 0 --seed 3 --only 421   # one case again, with its traceback

Case n of a seed is always the same. Any other exception, more than 10 seconds of processor time for one case, more than
256 MiB of memory that one case adds, and a model that is not what the files say: each is a failure, and is listed.
"""

import argparse
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmmxlnet.errors import DatasetError, GMMXLNetError
from gmmxlnet.utils.logs import quiet_without_a_terminal
from scripts.fuzzing.checkpoints import CheckpointCases
from scripts.fuzzing.squad import SquadCases

SECONDS, MEBIBYTES = 10, 256


@dataclass
class Outcomes:
    """How many cases were read, refused or failed."""

    counts: Counter[str] = field(default_factory=Counter)  # "kind: read" or "kind: refused"
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def fuzz(cases: Any, seed: int, numbers: range) -> Outcomes:
    """Run cases, each a function from (seed, number) to (kind of mutation, function that reads)."""
    outcomes = Outcomes()
    signal.signal(signal.SIGPROF, _too_slow)
    for number in numbers:
        kind, read = cases(seed, number)
        outcomes.counts[f"{kind}: {_outcome(read, outcomes, f'{cases.name} {number} ({kind})')}"] += 1
    return outcomes


def _outcome(read: Callable[[], None], outcomes: Outcomes, name: str) -> str:
    before = _peak_mebibytes()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read()
        outcome = "read"
    except GMMXLNetError as error:
        outcome = "refused"
        lines = str(error).split("\n")
        if len(lines) > (error.count if isinstance(error, DatasetError) else 1) or max(map(len, lines)) > 2_000:
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
    if _peak_mebibytes() - before > MEBIBYTES:
        outcomes.failures.append(f"{name}: took {_peak_mebibytes() - before:.0f} MiB")
    return outcome


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def main() -> int:
    """Run and print; the exit status is 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=5_000, help="how many damaged checkpoints")
    parser.add_argument("--squad", type=int, default=5_000, help="how many damaged SQuAD files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, with its traceback")
    arguments = parser.parse_args()
    quiet_without_a_terminal()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for make, count in ((CheckpointCases, arguments.checkpoints), (SquadCases, arguments.squad)):
            if not count:
                continue
            cases = make(Path(scratch))
            if arguments.only is not None:
                kind, read = cases(arguments.seed, arguments.only)
                print(f"{cases.name} {arguments.only}: {kind}")
                read()
                continue
            outcomes = fuzz(cases, arguments.seed, range(count))
            for name, number in sorted(outcomes.counts.items()):
                print(f"{number:6}  {name}")
            print(f"{outcomes.total} {cases.name}, seed {arguments.seed}: {len(outcomes.failures)} failures")
            print("\n".join(outcomes.failures))
            failed |= bool(outcomes.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

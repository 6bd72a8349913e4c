"""What `make compare` asks of a queue. `dvc_queue.py` and `slurm_queue.py` are queues: each module has these names."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from gmmxlnet.errors import GMMXLNetError
from pipeline.variants import Planned

THAT_IT_FAILED = re.compile("ERROR: failed to reproduce|experiments: .* failed; ")  # of DVC, of the batch file


class QueueError(GMMXLNetError):
    """A queue refuses experiments, or does not go on with them."""


class Queue(Protocol):
    """A queue that runs experiments, each as `dvc exp run`."""

    TO_END: str
    """The command that ends it."""

    def check(self) -> None:
        """Raise GMMXLNetError where it cannot run anything."""

    def submit(self, planned: Sequence[Planned], jobs: int, tell: Callable[[str, str], None]) -> None:
        """Put in what it does not have yet, for `jobs` to run at once; `tell` names and states."""

    def wait(self, names: Sequence[str], jobs: int, tell: Callable[[str, str], None]) -> None:
        """Return when none of these waits or runs; `tell` every change of state. Raises QueueError."""

    def log_of(self, name: str) -> str | Path:
        """Where a person finds what an experiment printed: a file, or a command."""

    def state_and_reason(self, names: Sequence[str]) -> dict[str, str]:
        """The state of each experiment that is not finished, with the reason of those that failed."""


def telling_line(log: str) -> str:
    """The last line of a log that says more than that an experiment failed, or else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if not THAT_IT_FAILED.match(line)]
    return (own or lines or ["its log is empty"])[-1]

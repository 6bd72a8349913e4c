"""What a verification found: checks with a verdict and a line each, as a table and as JSON. Nothing in it varies."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gmmxlnet.errors import CheckpointError
from gmmxlnet.messages import said

LEVELS = ("quick", "structure", "full")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str


@dataclass(kw_only=True)
class Report:
    """Everything that was looked at in one folder."""

    folder: str
    level: str
    checks: list[Check] = field(default_factory=list)
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """From level structure: dtype, shape, sha256 as the files have them, and `as_saved`."""
    reload: dict[str, Any] = field(default_factory=dict)
    """From level full: what `reports/determinism.json` shows of the load in a fresh process."""

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    def add(self, name: str, check: Callable[[], str]) -> bool:
        """Run a check, which returns what it found or raises CheckpointError; whether it passed."""
        try:
            self.checks.append(Check(name, True, check()))
        except CheckpointError as error:
            self.checks.append(Check(name, False, str(error)))
        return self.checks[-1].passed

    def to_json(self) -> dict[str, Any]:
        """As `gmmxlnet verify --json` prints it."""
        values = {"folder": self.folder, "level": self.level, "passed": self.passed}
        parts = {"tensors": self.tensors, "reload": self.reload}
        return values | {"checks": [asdict(x) for x in self.checks]} | {k: v for k, v in parts.items() if v}

    def to_text(self) -> str:
        """A table for people."""
        width = max(len(check.name) for check in self.checks)
        lines = [f"{'ok' if x.passed else 'FAILED':6}  {x.name:{width}}  {x.detail}" for x in self.checks]
        verdict = "passed" if self.passed else f"{len(self.failures)} of {len(self.checks)} checks failed"
        return "\n".join(map(said, [*lines, f"{self.folder}: level {self.level}: {verdict}"]))


def check_folder(folder: Path) -> str:
    """The first check of every level. Raises CheckpointError if there is no such folder."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: there is no such folder; name one that save_pretrained or the train stage made"
        )
    return "is there"

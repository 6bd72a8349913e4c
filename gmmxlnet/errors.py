"""User-facing errors: one line with the problem, its place and the remedy.

Entry points (`pipeline/`, `gmmxlnet.cli`) print the message of a `GMMXLNetError` to standard error and exit non-zero,
without a traceback; anything else is a bug and keeps its traceback.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmmxlnet.messages import said

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOWHERE_TO_WRITE = (*NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS)


class GMMXLNetError(ValueError):
    """Base of every error that is the input's fault, not the program's.

    Its message is one printable line without credentials, whatever of the data, of file names or of a server's answer
    is quoted in it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(said(message))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, torch (on a CPU or a GPU) or the system could not get the memory they asked for."""
    told = str(error)
    by_loader = isinstance(error, ImportError) and re.search(
        r"failed to map|[Cc]annot (allocate|apply additional)", told
    )
    by_torch = isinstance(error, RuntimeError) and ("out of memory" in told or "can't allocate memory" in told)
    by_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return by_torch or by_system or bool(by_loader) or isinstance(error, MemoryError)


def cannot_write(error: BaseException) -> str | None:
    """What to say of an error for which there is nowhere to write (disk full, no permission); None for all others.

    The Rust code of tokenizers and safetensors raises exceptions of its own, which end with `(os error N)`.
    """
    number = error.errno if isinstance(error, OSError) else None
    told = re.search(r"\(os error (\d+)\)", str(error)) if number is None else None
    number = int(told[1]) if told else number
    if number not in NOWHERE_TO_WRITE:
        return None
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    done = "opened" if number in (errno.EACCES, errno.EPERM) else "written"
    return f"{where}cannot be {done} ({os.strerror(number)}); make room or give permission, and run it again"


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Gives an error of a write to a full disk, which names no file, the name of what was to be written."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


class ConfigError(GMMXLNetError):
    """A parameter has an unknown name, a wrong type or an impossible value."""


class DataError(GMMXLNetError):
    """A dataset, a tokenizer or a folder of chunks cannot be used."""


class DatasetError(DataError):
    """The faults of a dataset: a line for each of `faults`, and a last one with the number of others among `count`."""

    def __init__(self, faults: list[str], count: int) -> None:
        self.faults, self.count = [said(fault) for fault in faults], count
        more = count - len(self.faults)
        lines = [*self.faults, *([f"and {more:,} more fault{'s' * (more > 1)} like these"] if more else [])]
        ValueError.__init__(self, "\n".join(lines))


class CheckpointError(GMMXLNetError):
    """A checkpoint is incomplete, damaged, or of another kind than the one asked for."""


class CheckpointConfigError(CheckpointError, ConfigError):
    """The configuration in a checkpoint is impossible, or newer than this program."""


class HubError(GMMXLNetError):
    """The Hugging Face Hub refused something, cannot be reached, or holds other bytes than were sent."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the work.

    Args:
        signum: SIGINT (Ctrl-C), SIGTERM or SIGHUP.
        kept: how far the work got and what was kept of it; empty if it starts anew.
    """

    def __init__(self, signum: int, kept: str = "") -> None:
        super().__init__(signum, kept)
        self.signum, self.kept = signum, kept


def reason_of(error: BaseException) -> str:
    """What another library's error says, on one line and not too long; a URL without its query, which may be signed."""
    text = said(str(error)) or type(error).__name__
    return re.sub(r"(https?://[^\s?]+)\?[^\s'\"]+", r"\1", text)[:200]

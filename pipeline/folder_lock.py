"""An advisory lock on a folder itself, which leaves no lock file behind."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_lock(folder: Path, seconds: float, refusal: Exception) -> Iterator[None]:
    """Hold the lock; raises `refusal` if another process keeps it for so many seconds."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + seconds
        while not _locks(descriptor):
            if time.monotonic() > deadline:
                raise refusal
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

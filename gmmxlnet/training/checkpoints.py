"""Checkpoints for resuming a training: written atomically, with a hash of every file; only the newest few are kept.

    store = CheckpointStore(folder, limit=2)
    if store.claim():                       # False if another process uses the folder
        newest = store.newest()             # the newest checkpoint whose files match their hashes, or None
        with store.write(step) as scratch:  # written to a temporary folder, hashed, synced, renamed; old ones removed
            …
        store.remove()                      # when the training is complete

`gmmxlnet.training.resume` defines the contents of a checkpoint.
"""

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from gmmxlnet.errors import CheckpointError
from gmmxlnet.utils.files import atomic_folder, read_json, sha256_of, write_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

logger = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one training: folders such as `step-00000120/` in `folder`, at most `limit` of them."""

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder, self.limit = Path(folder), limit
        self._lock: TextIO | None = None

    def claim(self) -> bool:
        """Create the folder and lock it for this process; returns False if another process holds the lock.

        Raises CheckpointError if the folder cannot be created. The lock (`lockf`) belongs to the process: it is
        released when the process ends, even by kill -9, and data-loading workers do not inherit it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: no checkpoints can be kept here: {error.strerror}; make the folder writable"
            ) from None
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._lock.close()
            return False
        for scratch in self.folder.glob(".*.partial"):  # left by a process that was killed while writing
            shutil.rmtree(scratch)
        return True

    def newest(self) -> Path | None:
        """Return the newest intact checkpoint; newer damaged ones are removed with a warning."""
        for checkpoint in reversed(self._checkpoints()):
            damage = _damage(checkpoint)
            if damage is None:
                return checkpoint
            logger.warning(
                "%s: damaged (%s); removed, training goes on from the checkpoint before it, if there is one",
                checkpoint,
                damage,
            )
            shutil.rmtree(checkpoint)
        return None

    def last(self) -> Path | None:
        """Return the newest checkpoint, unchecked: one that this process wrote or has checked."""
        return next(reversed(self._checkpoints()), None)

    @contextmanager
    def write(self, step: int) -> Iterator[Path]:
        """Yield an empty folder to fill; it becomes the checkpoint of `step` if the block raises no exception.

        Raises CheckpointError if writing fails; earlier checkpoints are not changed in this case.
        """
        place = self.folder / f"step-{step:08d}"
        try:
            with atomic_folder(place) as scratch:
                yield scratch
                write_json(scratch / MANIFEST, {"format_version": FORMAT_VERSION, "sha256": _hashes(scratch)})
        except (OSError, SafetensorError) as error:
            left = self._checkpoints()
            then = f"training goes on from {left[-1].name}, which is intact" if left else "training begins anew"
            reason = error.strerror if isinstance(error, OSError) else error
            raise CheckpointError(
                f"{place}: the checkpoint cannot be written: {reason}; make room there or make it writable, "
                f"and start again: {then}"
            ) from None
        for old in self._checkpoints()[: -self.limit]:
            shutil.rmtree(old)

    def remove(self) -> None:
        """Remove the folder and release the lock."""
        for checkpoint in self._checkpoints():  # oldest first, so that the newest survives if the process is killed
            shutil.rmtree(checkpoint)
        shutil.rmtree(self.folder)
        if self._lock is not None:
            self._lock.close()

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a checkpoint except the manifest."""
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}


def _damage(checkpoint: Path) -> str | None:
    """Describe what is wrong with a checkpoint's files; None if they are intact."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
            return f"{MANIFEST} is not of format version {FORMAT_VERSION}"
        expected, found = manifest["sha256"], _hashes(checkpoint)
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is not what was written: {error!r}"
    return f"{wrong[0]} is not what was written" if wrong else None

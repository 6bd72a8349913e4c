"""Atomic writes: files are written to a temporary path, synced and renamed."""

import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from gmmxlnet.errors import CheckpointError, reason_of, writing_to

MAX_JSON_BYTES = 16 * 2**20  # no valid configuration or index is this large


def sync(path: Path) -> None:
    """Flushes a file or folder to disk; a rename survives power loss once its folder is synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _usual_mode(path: Path) -> int:
    """Permissions that the umask and the folder give a new file at `path`, where nothing may be yet."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _finish(path: Path, mode: int) -> None:
    """Flushes a file with the permissions of `mode` added: safetensors writes files that only their owner may read."""
    now = stat.S_IMODE(path.stat().st_mode)
    if mode & ~now:
        path.chmod(now | mode)
    sync(path)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success and removes it on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    try:
        with writing_to(path):
            scratch.unlink(missing_ok=True)
            mode = _usual_mode(scratch)
            yield scratch
            _finish(scratch, mode)
        scratch.replace(path)
        sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; it replaces `path` on success and is removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        with writing_to(path):
            mode = _usual_mode(scratch / "new")
            yield scratch
            for inside in scratch.rglob("*"):
                if inside.is_dir():
                    sync(inside)
                else:
                    _finish(inside, mode)
            sync(scratch)
        if path.exists():
            shutil.rmtree(path)
        scratch.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def files_at_once(folder: Path, *, last: str, stale: Callable[[str], bool]) -> Iterator[Path]:
    """Yields an empty temporary folder in `folder`; on success, its files are moved there, `last` as the last one.

    On failure, `folder` is unchanged. Before files are moved, the previous `last` is deleted, then every file whose
    name is `stale`, so that the set of files is complete whenever `last` exists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        with writing_to(folder):
            mode = _usual_mode(scratch / last)
            yield scratch
        names = sorted(path.name for path in scratch.iterdir())
        for name in names:
            _finish(scratch / name, mode)
        (folder / last).unlink(missing_ok=True)
        sync(folder)
        for path in folder.iterdir():
            if stale(path.name):
                path.unlink()
        for name in [*(name for name in names if name != last), last]:
            (scratch / name).replace(folder / name)
        sync(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` atomically as indented UTF-8 JSON; keeps the order of keys and rejects NaN."""
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def is_unusable(path: Path, most: int) -> bool:
    """Whether something is there that is no regular file (reading a pipe might never end) or has over `most` bytes."""
    return path.exists() and (not path.is_file() or path.stat().st_size > most)


def read_json(path: str | Path, *, most: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file strictly; raises ValueError if it is invalid.

    Besides invalid JSON, it rejects NaN, infinities and numbers that overflow to one, lone surrogates, duplicate
    keys, excessive nesting, files over `most` bytes, and what is no regular file: reading a pipe might never end.
    """
    path = Path(path)
    if not path.is_file() and path.exists():
        raise ValueError("is no regular file")
    if path.stat().st_size > most:
        raise ValueError(f"has {path.stat().st_size:,} bytes, at most {most:,} make sense")
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_each_key_once,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on lone surrogates
        return value
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def read_object(path: Path, *, missing: str) -> dict[str, Any]:
    """Reads a JSON file of a checkpoint, which must contain an object.

    Raises CheckpointError; `missing` is the remedy in its message if the file does not exist.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; {missing}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({reason_of(error)}); get the checkpoint again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must be an object with keys and values, not a {type(value).__name__}")
    return value


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, read in chunks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON (sorted keys, no spaces) of `value`, independent of formatting."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which JSON does not know")


def _finite(text: str) -> float:
    if math.isinf(float(text)):
        raise ValueError(f"holds {text[:40]}, which is beyond all numbers")
    return float(text)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"gives {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values

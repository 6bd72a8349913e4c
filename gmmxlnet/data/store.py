"""The folder of chunks: token arrays (.npy, memory-mapped), texts (JSON), and a manifest with the hash of every file.

    chunks/manifest.json                     format, version, settings, layout, SHA-256 of the files and of itself
    chunks/tokenizer/                        without memory tokens
    chunks/{train,calibration,dev}/*.npy     the arrays of `SplitChunks`
    chunks/{train,calibration,dev}/texts.json

It is written atomically; opening a folder that is damaged or of another version raises an error.
"""

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gmmxlnet.data.segments import SegmentLayout
from gmmxlnet.errors import DataError
from gmmxlnet.utils.files import digest_of, read_json, sha256_of, write_json

FORMAT = "gmmxlnet-chunks"
VERSION = 2  # since version 2 the manifest contains its own digest
SPLITS = ("train", "calibration", "dev")
MANIFEST = "manifest.json"
_NPY_HEADER = 128  # bytes of a .npy file before its first element
_REMEDY = "make the chunks again (dvc repro --force chunk)"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitTexts:
    """The texts of a split; lists with one item per context (C) or per document (N)."""

    contexts: list[str]  # C
    question_ids: list[str]  # N, like all fields below
    questions: list[str]
    answers: list[list[str]]  # all gold answers; empty if unanswerable
    question_types: list[str | None]
    conditions: list[str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitChunks:
    """The token arrays of a split. Row i of a ragged array is values[rows[i]:rows[i+1]]."""

    context_tokens: np.ndarray  # (T,) int32, all contexts concatenated
    context_chars: np.ndarray  # (T, 2) int32, character range of each token (end exclusive)
    context_rows: np.ndarray  # (C+1,) int64
    question_tokens: np.ndarray  # (Q,) int32, all questions concatenated, cut to max_question_length
    question_rows: np.ndarray  # (N+1,) int64
    document_contexts: np.ndarray  # (N,) int32, the context each document asks about
    labels: np.ndarray  # (N, 2) int32, first and last context token of the answer; -1 where there is no label

    @property
    def num_documents(self) -> int:
        return len(self.document_contexts)

    @property
    def context_lengths(self) -> np.ndarray:
        """Number of context tokens of each document, (N,) int64."""
        return np.diff(self.context_rows)[self.document_contexts]

    @property
    def question_lengths(self) -> np.ndarray:
        """Number of question tokens of each document, (N,) int64."""
        return np.diff(self.question_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltSplit:
    """A split in memory."""

    chunks: SplitChunks
    texts: SplitTexts
    layout: SegmentLayout
    num_cut_questions: int
    unlabeled_ids: list[str]  # questions dropped because no token span matches their answer


def write_split(folder: Path, chunks: SplitChunks, texts: SplitTexts) -> None:
    """Writes a split's files to a new folder."""
    folder.mkdir()
    for field in fields(SplitChunks):
        np.save(folder / f"{field.name}.npy", getattr(chunks, field.name), allow_pickle=False)
    columns = {field.name: getattr(texts, field.name) for field in fields(SplitTexts)}
    (folder / "texts.json").write_text(json.dumps(columns, ensure_ascii=False), encoding="utf-8")


def write_manifest(folder: Path, settings: dict[str, Any], layout: SegmentLayout) -> None:
    """Writes the manifest that `ChunkStore` checks; call after all other files are written."""
    files = {
        file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.rglob("*")) if file.is_file()
    }
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "layout": asdict(layout),
        "files": files,
    }
    write_json(folder / MANIFEST, manifest | {"sha256": digest_of(manifest)})


class ChunkStore:
    """An opened split of a chunks folder: arrays are memory-mapped, texts are read on first access."""

    def __init__(self, folder: str | Path, split: str) -> None:
        folder = Path(folder)
        manifest = read_manifest(folder)
        if split not in SPLITS:
            raise DataError(f"{folder}: has no split {split!r}; there are {', '.join(SPLITS)}")
        self.folder = folder / split
        self.settings: dict[str, Any] = manifest["settings"]
        self.layout = SegmentLayout(**manifest["layout"])
        for name, digest in manifest["files"].items():
            if name.startswith((f"{split}/", "tokenizer/")):
                _check_file(folder / name, digest)
        self.chunks = SplitChunks(
            **{field.name: _load_array(self.folder / f"{field.name}.npy") for field in fields(SplitChunks)}
        )

    @cached_property
    def texts(self) -> SplitTexts:
        """The texts; training does not need them."""
        return SplitTexts(**json.loads((self.folder / "texts.json").read_text(encoding="utf-8")))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a chunks folder; raises DataError if it is missing or of another version."""
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({' '.join(str(error).split())}); {_REMEDY}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: is not a manifest of {FORMAT}; name a folder that the chunk stage made")
    if manifest.get("version") != VERSION:
        raise DataError(f"{path}: version {manifest.get('version')}, this program reads {VERSION}; {_REMEDY}")
    layout = manifest.get("layout")
    names = {field.name for field in fields(SegmentLayout)}
    if (
        not isinstance(layout, dict)
        or set(layout) != names
        or not all(type(value) is int for value in layout.values())
        or not isinstance(manifest.get("files"), dict)
        or not isinstance(manifest.get("settings"), dict)
        or any(f"{split}/{name}" not in manifest["files"] for split in SPLITS for name in _split_files())
    ):
        raise DataError(f"{path}: is incomplete; {_REMEDY}")
    if manifest.pop("sha256", None) != digest_of(manifest):
        raise DataError(f"{path}: is not what was written (its SHA-256 differs); {_REMEDY}")
    return manifest


def verify_files(folder: Path) -> None:
    """Raises DataError unless the folder contains exactly the manifest's files with matching hashes."""
    named = {MANIFEST, *read_manifest(folder)["files"]}
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    if named != there:
        raise DataError(f"{folder}: {', '.join(sorted(named ^ there))}: missing, or not in the manifest; {_REMEDY}")
    for name, digest in read_manifest(folder)["files"].items():
        _check_file(folder / name, digest)


def _split_files() -> list[str]:
    return [*(f"{field.name}.npy" for field in fields(SplitChunks)), "texts.json"]


def _check_file(path: Path, digest: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    if found != digest:
        raise DataError(f"{path}: is not what was written (its SHA-256 differs); {_REMEDY}")


def _load_array(path: Path) -> np.ndarray:
    """Memory-maps the array; an empty one cannot be mapped and is read instead."""
    mode: Literal["r"] | None = None if path.stat().st_size <= _NPY_HEADER else "r"
    return np.load(path, mode, allow_pickle=False)

"""The folder of chunks: token arrays (.npy, memory-mapped), texts (JSON), and a manifest with the hash of every file.

    chunks/manifest.json                     format, version, settings, layout, SHA-256 of the files and of itself
    chunks/tokenizer/                        without memory tokens
    chunks/{train,calibration,dev}/*.npy     the arrays of `SplitChunks`
    chunks/{train,calibration,dev}/texts.json

It is written atomically; opening a folder that is damaged or of another version raises an error.
"""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gmmxlnet.data.arrays import read_array
from gmmxlnet.data.segments import SegmentLayout
from gmmxlnet.errors import DataError, reason_of
from gmmxlnet.folder_files import is_inside
from gmmxlnet.messages import said
from gmmxlnet.options import CHUNKING, LONGEST_SHOWN, MEMORY
from gmmxlnet.utils.files import digest_of, read_json, sha256_of, write_json

FORMAT = "gmmxlnet-chunks"
VERSION = 2  # since version 2 the manifest contains its own digest
SPLITS = ("train", "calibration", "dev")
MANIFEST = "manifest.json"
MAX_TEXT_BYTES = 16 * 2**30  # of texts.json; the train split of SQuAD has 30 MB
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


ARRAYS: dict[str, tuple[type, int | None]] = {  # type and number of columns
    "context_tokens": (np.int32, None),
    "context_chars": (np.int32, 2),
    "context_rows": (np.int64, None),
    "question_tokens": (np.int32, None),
    "question_rows": (np.int64, None),
    "document_contexts": (np.int32, None),
    "labels": (np.int32, 2),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltSplit:
    """A split, or a block of one, in memory."""

    chunks: SplitChunks
    texts: SplitTexts
    layout: SegmentLayout
    num_cut_questions: int
    unlabeled_ids: list[str]  # questions dropped because no token span matches their answer


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
            **{
                name: read_array(self.folder / f"{name}.npy", dtype, columns, remedy=_REMEDY)
                for name, (dtype, columns) in ARRAYS.items()
            }
        )
        check_chunks(self.folder, self.chunks, self.layout)

    @cached_property
    def texts(self) -> SplitTexts:
        """The texts, which training does not need. Raises DataError if they are not those of the arrays."""
        path = self.folder / "texts.json"
        try:
            columns = read_json(path, most=MAX_TEXT_BYTES)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({reason_of(error)}); {_REMEDY}") from None
        check_texts(path, columns, self.chunks)
        return SplitTexts(**columns)


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
        version = said(str(manifest.get("version")), LONGEST_SHOWN)
        raise DataError(f"{path}: version {version}, this program reads {VERSION}; {_REMEDY}")
    layout = manifest.get("layout")
    names = {field.name for field in fields(SegmentLayout)}
    if (
        not isinstance(layout, dict)
        or set(layout) != names
        or not all(type(value) is int for value in layout.values())
        or not _is_possible(SegmentLayout(**layout))
        or not isinstance(manifest.get("files"), dict)
        or not all(is_inside(name) and isinstance(digest, str) for name, digest in manifest["files"].items())
        or not isinstance(manifest.get("settings"), dict)
        or any(f"{split}/{name}" not in manifest["files"] for split in SPLITS for name in _split_files())
    ):
        raise DataError(f"{path}: is incomplete; {_REMEDY}")
    if manifest.pop("sha256", None) != digest_of(manifest):
        raise DataError(f"{path}: is not what was written (its SHA-256 differs); {_REMEDY}")
    return manifest


def _is_possible(layout: SegmentLayout) -> bool:
    sizes = (layout.max_seq_length, layout.doc_stride)
    ids = (layout.pad_id, layout.sep_id, layout.cls_id)
    return (
        all(CHUNKING[name].accepts(size) for name, size in zip(("max_seq_length", "doc_stride"), sizes, strict=True))
        and MEMORY["memory_num_tokens"].accepts(layout.memory_num_tokens)
        and all(0 <= token < layout.vocab_size < 2**31 for token in ids)
    )


def check_chunks(folder: Path, chunks: SplitChunks, layout: SegmentLayout) -> None:
    """Raises DataError unless the arrays of a split fit each other: every row, label and token is in range."""
    num_contexts = len(chunks.context_rows) - 1
    lengths = {"context": len(chunks.context_tokens), "question": len(chunks.question_tokens)}
    sound = {
        "context_chars": len(chunks.context_chars) == lengths["context"],
        "context_rows": _are_rows(chunks.context_rows, lengths["context"]),
        "question_rows": _are_rows(chunks.question_rows, lengths["question"])
        and len(chunks.question_rows) == chunks.num_documents + 1,
        "document_contexts": _within(chunks.document_contexts, num_contexts),
        "context_tokens": _within(chunks.context_tokens, layout.vocab_size),
        "question_tokens": _within(chunks.question_tokens, layout.vocab_size),
        "labels": len(chunks.labels) == chunks.num_documents,
    }
    if all(sound.values()):  # the rest takes these for granted
        first_N, last_N = np.asarray(chunks.labels, np.int64).T
        inside_N = (first_N >= 0) & (first_N <= last_N) & (last_N < chunks.context_lengths)
        sound["labels"] = bool((inside_N | ((first_N == -1) & (last_N == -1))).all())
        longest = chunks.question_lengths.max(initial=0)
        sound["question_rows"] = bool(layout.windows(longest) > layout.doc_stride)
    odd = [name for name, is_sound in sound.items() if not is_sound]
    if odd:
        raise DataError(f"{folder / odd[0]}.npy: does not fit the other files of its split; {_REMEDY}")


def check_texts(path: Path, columns: Any, chunks: SplitChunks) -> None:
    """Raises DataError unless these are texts as `SplitTexts` has them, as many as the arrays are about."""
    names = [field.name for field in fields(SplitTexts)]
    if not isinstance(columns, dict) or set(columns) != set(names):
        raise DataError(f"{path}: must hold {', '.join(names)}; {_REMEDY}")
    num_contexts = len(chunks.context_rows) - 1
    for name, column in columns.items():
        count = num_contexts if name == "contexts" else chunks.num_documents
        optional = name in ("question_types", "conditions")
        if not isinstance(column, list) or len(column) != count or not all(_is_text(x, name, optional) for x in column):
            raise DataError(f"{path}: {name} is not a list of {count:,} texts, as the arrays have it; {_REMEDY}")
    if len(set(columns["question_ids"])) < chunks.num_documents:
        raise DataError(f"{path}: question_ids are not all different; {_REMEDY}")
    starts_T, ends_T = np.asarray(chunks.context_chars, np.int64).T
    lengths_C = np.array([len(text) for text in columns["contexts"]], np.int64)
    lengths_T = np.repeat(lengths_C, np.diff(chunks.context_rows))
    if not ((starts_T >= 0) & (starts_T <= ends_T) & (ends_T <= lengths_T)).all():
        raise DataError(f"{path}: context_chars point beyond the contexts; {_REMEDY}")


def _is_text(value: Any, name: str, optional: bool) -> bool:
    if name == "answers":
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    return isinstance(value, str) or (optional and value is None)


def _are_rows(rows: np.ndarray, end: int) -> bool:
    """Whether these are offsets from 0 to `end` in ascending order."""
    return len(rows) > 0 and rows[0] == 0 and rows[-1] == end and bool((rows[1:] >= rows[:-1]).all())


def _within(values: np.ndarray, end: int) -> bool:
    """Whether all values are in [0, end)."""
    return bool(values.min(initial=0) >= 0 and values.max(initial=-1) < end)


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

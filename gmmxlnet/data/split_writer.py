"""Writes a split to its folder block by block: memory does not grow with it.

    with SplitWriter(folder / "train") as writer:
        for built in blocks:                            # `build_split`
            writer.append(built)

Of texts that occur in several blocks, the first is kept. The bytes do not depend on how a split was cut into blocks.
"""

import json
import shutil
from contextlib import ExitStack
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from gmmxlnet.data.statistics import SplitCounts
from gmmxlnet.data.store import ARRAYS, BuiltSplit, SplitTexts

DIGEST_BYTES = 16  # of a text: two of a billion texts are the same with a probability of 1e-21


def text_digest(text: str) -> bytes:
    """What a text is recognized by."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


class ArrayWriter:
    """A `.npy` file that grows at its end; once closed, its bytes are those of `np.save`."""

    def __init__(self, path: Path, dtype: type, columns: int | None) -> None:
        self._file = path.open("wb")
        self._dtype, self._columns, self._length = np.dtype(dtype), columns, 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        """Appends rows, (N,) or (N, columns)."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._length += len(values)

    def close(self) -> None:
        """Completes the header: NumPy leaves room in it for any length."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        shape = (self._length,) if self._columns is None else (self._length, self._columns)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class TextsWriter:
    """`texts.json`, one list a column; each grows in a temporary file of its own."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._columns: dict[str, IO[bytes]] = {
            field.name: stack.enter_context(TemporaryFile(dir=path.parent))  # noqa: SIM115  # the stack closes it
            for field in fields(SplitTexts)
        }

    def append(self, column: str, values: list[Any]) -> None:
        """Appends values to a column."""
        if values:
            file = self._columns[column]
            inside = json.dumps(values, ensure_ascii=False)[1:-1]
            file.write(f"{', ' if file.tell() else ''}{inside}".encode())

    def close(self) -> None:
        """Writes the columns one after another into the file."""
        with self._path.open("wb") as out:
            for number, (name, file) in enumerate(self._columns.items()):
                out.write(f"{', ' if number else '{'}{json.dumps(name)}: [".encode())
                file.seek(0)
                shutil.copyfileobj(file, out, 2**20)
                out.write(b"]")
            out.write(b"}")


class SplitWriter:
    """A split that is written to a new folder; complete when the block of `with` ends without an error."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.counts = folder, SplitCounts()
        self._context_of: dict[bytes, int] = {}  # digest of a text -> its index: 130 bytes a text
        self._num_tokens = {"context": 0, "question": 0}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self._arrays = {
            name: ArrayWriter(self.folder / f"{name}.npy", dtype, columns) for name, (dtype, columns) in ARRAYS.items()
        }
        self._texts = TextsWriter(self.folder / "texts.json", self._stack)
        for kind in self._num_tokens:
            self._arrays[f"{kind}_rows"].append(np.zeros(1, np.int64))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for array in self._arrays.values():
            array.close()
        if error is None:
            self._texts.close()
        self._stack.close()

    def append(self, built: BuiltSplit) -> None:
        """Appends documents, and those of their contexts that are not there yet."""
        chunks, texts = built.chunks, built.texts
        new_C, index_C = self._places(texts.contexts)
        new_T = np.repeat(new_C, np.diff(chunks.context_rows))
        self._arrays["context_tokens"].append(chunks.context_tokens[new_T])
        self._arrays["context_chars"].append(chunks.context_chars[new_T])
        self._append_rows("context", np.diff(chunks.context_rows)[new_C])
        self._arrays["question_tokens"].append(chunks.question_tokens)
        self._append_rows("question", chunks.question_lengths)
        self._arrays["document_contexts"].append(index_C[chunks.document_contexts])
        self._arrays["labels"].append(chunks.labels)
        for field in fields(SplitTexts):
            column = getattr(texts, field.name)
            if field.name == "contexts":
                column = [text for text, new in zip(column, new_C.tolist(), strict=True) if new]
            self._texts.append(field.name, column)
        self.counts.add(built, num_contexts=int(new_C.sum()), num_context_tokens=int(new_T.sum()))

    def _places(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each text is new, and its index in the split; (C,) bool and (C,) int32."""
        num_before = len(self._context_of)
        index_C = [self._context_of.setdefault(text_digest(text), len(self._context_of)) for text in texts]
        return np.array(index_C, np.int32) >= num_before, np.array(index_C, np.int32)

    def _append_rows(self, kind: str, lengths: np.ndarray) -> None:
        ends = self._num_tokens[kind] + np.cumsum(lengths)
        self._arrays[f"{kind}_rows"].append(ends)
        self._num_tokens[kind] = int(ends[-1]) if len(ends) else self._num_tokens[kind]

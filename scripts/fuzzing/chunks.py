"""Damaged folders of chunks, hashed again in most cases: what opens can be read to its last document."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from gmmxlnet.data.chunks import ChunkSettings, build_chunks
from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.store import MANIFEST, SPLITS, SplitChunks, verify_files
from gmmxlnet.utils.files import digest_of, sha256_of
from scripts.fuzzing.checkpoints import TRIPWIRE, Tripwire
from scripts.fuzzing.damage import damage_bytes_of, damage_json_of

PEOPLE = ("Anna", "Boris", "Clara", "David")


def make_chunks(scratch: Path) -> tuple[Path, dict[str, Any]]:
    """A folder of chunks of short reports, and what `data.json` says of it."""
    for split, count in (("train", 4), ("dev", 3)):
        articles = [_article(f"{split}-{n}", n) for n in range(count)]
        (scratch / f"{split}.json").write_text(json.dumps({"data": articles}), encoding="utf-8")
    settings = ChunkSettings(
        dataset=str(scratch),
        tokenizer="scratch",
        max_seq_length=32,
        doc_stride=4,
        memory_num_tokens=2,
        max_question_length=8,
        calibration_fraction=0.25,
        seed=0,
    )
    return scratch / "chunks", build_chunks(settings, scratch / "chunks")


def _article(name: str, number: int) -> dict[str, Any]:
    person = PEOPLE[number]
    remarks = " ".join(f"House {n} has a new roof." for n in range(number + 2))
    context = f"Report {number}. The baker is {person}. {remarks} Café Ünal is closed."
    asked = [("local", "Who is the baker?", person), ("cross", "Which house?", "House 0"), (None, "Why?", None)]
    questions = [
        {
            "id": f"{name}-{i}",
            "question": question,
            "is_impossible": answer is None,
            "answers": [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}],
            **({} if kind is None else {"question_type": kind, "condition": person}),
        }
        for i, (kind, question, answer) in enumerate(asked)
    ]
    return {"title": name, "paragraphs": [{"context": context, "qas": questions}]}


class ChunkCases:
    """Cases by seed and number."""

    name = "chunks"

    def __init__(self, scratch: Path) -> None:
        self.original, _ = make_chunks(scratch)
        self.target, self.tripwire = scratch / "damaged", scratch / TRIPWIRE
        self.files = [path.relative_to(self.original) for path in sorted(self.original.rglob("*")) if path.is_file()]
        self.texts = {split: Documents.open(self.original, split).texts for split in SPLITS}

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.original, self.target)
        how = rng.choice(("bytes", "texts", "manifest", "arrays", "arrays", "objects", "moved files"))
        getattr(self, f"_{how.replace(' ', '_')}")(rng)
        hashed = how != "manifest" and rng.random() < 0.8
        if hashed:
            self._hash(rng)
        elif how == "manifest" and rng.random() < 0.8:
            self._hash_manifest()
        return f"{how}{' under new hashes' if hashed else ''}", lambda: self._read(hashed or how == "manifest")

    def _hash(self, rng: Random) -> None:
        """Let the manifest name what lies there."""
        path = self.target / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if not isinstance(manifest, dict):
            return
        there = [file for file in sorted(self.target.rglob("*")) if file.is_file() and file != path]
        manifest["files"] = {file.relative_to(self.target).as_posix(): sha256_of(file) for file in there}
        path.write_text(json.dumps(manifest), encoding="utf-8")
        self._hash_manifest()

    def _hash_manifest(self) -> None:
        path = self.target / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            del manifest["sha256"]
            manifest["sha256"] = digest_of(manifest)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return
        path.write_text(json.dumps(manifest), encoding="utf-8")

    def _array(self, rng: Random) -> Path:
        return self.target / rng.choice(SPLITS) / f"{rng.choice(fields(SplitChunks)).name}.npy"

    def _bytes(self, rng: Random) -> None:
        path = self.target / rng.choice(self.files)
        damage_bytes_of(rng, path)

    def _texts(self, rng: Random) -> None:
        path = self.target / rng.choice(SPLITS) / "texts.json"
        damage_json_of(rng, path)

    def _manifest(self, rng: Random) -> None:
        path = self.target / MANIFEST
        damage_json_of(rng, path)

    def _arrays(self, rng: Random) -> None:
        """A sound file of another array."""
        path = self._array(rng)
        array = np.load(path).copy()
        how = rng.randrange(9)
        if how == 0:
            array = array.astype(rng.choice((np.int64, np.int32, np.float32, np.uint8, ">i4", "S3", bool)))
        elif how == 1:
            array = array[: rng.randrange(len(array) + 1)]
        elif how == 2:
            array = array.reshape(-1)
        elif how == 3:
            array = np.concatenate([array, array])
        elif how == 4 and array.size:
            array.flat[rng.randrange(array.size)] = rng.choice((-1, -2, 0, 1, 7, 10**6, 2**31 - 1, -(2**31)))
        elif how == 5:
            array = array[::-1]
        elif how == 6:
            array = np.asfortranarray(array)
        elif how == 7:
            array = np.array(rng.choice((3, [[[1]]], [])))
        else:
            array = np.zeros_like(array)
        np.save(path, array)

    def _objects(self, rng: Random) -> None:
        """Pickled objects, or a header that asks for the impossible."""
        path = self._array(rng)
        if rng.random() < 0.4:
            np.save(path, np.array([Tripwire(self.tripwire)], dtype=object), allow_pickle=True)
            return
        if rng.random() < 0.2:
            path.write_bytes(pickle.dumps(Tripwire(self.tripwire)))
            return
        shape = rng.choice(
            ("(1000000000000,)", "(-1,)", "(2**62, 2**62)", "()", "(1,)" * 3, "'x'", "(" * 200, "(True,)")
        )
        descr = rng.choice(("'<i4'", "'<i8'", "'|O'", "'<U9'", "[('a', '<i4')]", "'x'", "None"))
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
        header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
        version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x09"))
        path.write_bytes(b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + bytes(8))

    def _moved_files(self, rng: Random) -> None:
        path, how = self.target / rng.choice(self.files), rng.randrange(4)
        if how == 0:
            path.unlink()
        elif how == 1:
            path.rename(path.with_name(rng.choice(("x", "labels.npy", "texts.json", ".hidden"))))
        elif how == 2:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes((self.target / rng.choice(self.files)).read_bytes())

    def _read(self, hashed: bool) -> None:
        try:
            for split in SPLITS:
                self._read_split(split, hashed)
        finally:
            if self.tripwire.exists():
                self.tripwire.unlink()
                raise AssertionError("a pickle was run")
        if not hashed:
            verify_files(self.target)

    def _read_split(self, split: str, hashed: bool) -> None:
        documents = Documents.open(self.target, split)
        texts = documents.texts
        if not hashed:
            assert texts == self.texts[split], "what was read is not what was written"
        counts, inside = documents.num_segments(), documents.label_in_a_segment()
        collate = DocumentCollator(layout=documents.layout, memory_tokens=True)
        for i in range(len(documents)):
            document = documents[i]
            assert len(document.segments) == counts[i] >= 1
            if document.label is not None:
                start, end = documents.token_char_span(i, *document.label)
                assert 0 <= start <= len(documents.context_text(i)), "a label lies outside of its context"
                assert end <= len(documents.context_text(i)), "a label lies outside of its context"
            assert isinstance(documents.question_id(i), str)
            assert all(isinstance(answer, str) for answer in documents.gold_answers(i))
            if len(document.segments) <= 64:
                batch = collate([document])
                assert (
                    int(batch["input_ids"].max()) < documents.layout.vocab_size + 2 * documents.layout.memory_num_tokens
                )
                held = (batch["start_positions"] < batch["input_ids"].shape[-1] - 1).any()
                assert bool(inside[i]) == bool(held), "a label is lost, or made up"

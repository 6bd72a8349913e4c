"""Builds chunks from SQuAD records: tokenizes each text once, labels each answer, and counts what is lost.

    report = build_chunks(settings, "data/chunks")
    documents = Documents.open("data/chunks", "train")

Time and disk grow with the text: a context is tokenized and stored once however many questions ask about it, and
segments are computed, not stored (`segments.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from transformers import PreTrainedTokenizerFast

from gmmxlnet.data.blocks import MOST_DOCUMENTS, build_blocks, cut_into_blocks
from gmmxlnet.data.dataset_names import located
from gmmxlnet.data.faults import FaultList
from gmmxlnet.data.labels import label_documents
from gmmxlnet.data.segments import SegmentLayout, make_layout
from gmmxlnet.data.selection import Asked, Choice, choose
from gmmxlnet.data.sources import Source, Split, SplitParts, open_split
from gmmxlnet.data.split_writer import SplitWriter, text_digest
from gmmxlnet.data.squad import Passage, as_passages
from gmmxlnet.data.statistics import LeftOut
from gmmxlnet.data.store import SPLITS, BuiltSplit, ChunkStore, SplitChunks, SplitTexts, write_manifest
from gmmxlnet.data.tokenizer import (
    encode_texts,
    load_tokenizer,
    scratch_tokenizer,
)
from gmmxlnet.errors import ConfigError
from gmmxlnet.utils.files import atomic_folder
from gmmxlnet.utils.progress import Progress
from gmmxlnet.windows import ContextKind

__all__ = ["BuiltSplit", "ChunkSettings", "ChunkStore", "build_chunks", "build_split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSettings:
    """The settings that determine the chunks."""

    dataset: Source  # folder, {"train": file, "dev": file}, Hub id, or {"load": settings of a load world}
    dataset_revision: str | None = None
    tokenizer: str  # "scratch", folder, or Hub id
    tokenizer_revision: str | None = None
    context: ContextKind = "paragraph"
    max_seq_length: int
    doc_stride: int  # context tokens shared by consecutive segments
    memory_num_tokens: int  # m slots reserved in each segment for read and for write tokens
    max_question_length: int = 64  # tokens; longer questions are cut and counted
    max_train_documents: int | None = None  # of the train file: training and calibration together
    max_eval_documents: int | None = None
    calibration_fraction: float = 0.1  # share of the train file's contexts held out from training
    seed: int

    def __post_init__(self) -> None:
        if self.context not in get_args(ContextKind):
            raise ConfigError(f"context must be paragraph or article, not {self.context!r}")
        if not 0 <= self.calibration_fraction < 1:
            raise ConfigError(f"calibration_fraction must be in [0, 1), not {self.calibration_fraction}")
        if min(self.max_question_length, self.doc_stride + 1, self.memory_num_tokens + 1) < 1:
            raise ConfigError("max_question_length must be > 0, doc_stride and memory_num_tokens >= 0")

    def as_json(self) -> dict[str, Any]:
        """The settings as stored in the manifest of the chunks."""
        return asdict(self) | {"dataset": located(self.dataset, str)}


def build_chunks(
    settings: ChunkSettings, folder: str | Path, locate: Callable[[str], str] = str, *, num_workers: int = 0
) -> dict[str, Any]:
    """Write the chunks of a dataset to `folder`, atomically; returns the contents of `reports/data.json`.

    A split is read part by part (`open_split`) and written block by block, so that memory use is that of the largest
    part and of a few blocks, besides about 25 bytes a question and 130 a context.

    Args:
        locate: maps the file and folder names in the settings to local paths; the chunks store only the names.
        num_workers: processes that tokenize, beside this one, a dataset of more than one block; the bytes are the same.

    Raises:
        DataError: the dataset or the tokenizer cannot be used.
        ConfigError: a question of full length leaves no room in a segment.
    """
    dataset = _Dataset(settings, locate)
    if settings.tokenizer == "scratch":
        tokenizer = scratch_tokenizer(dataset.training_texts())
    else:
        tokenizer = load_tokenizer(locate(settings.tokenizer), settings.tokenizer_revision)
    layout = make_layout(
        tokenizer,
        max_seq_length=settings.max_seq_length,
        doc_stride=settings.doc_stride,
        memory_num_tokens=settings.memory_num_tokens,
        max_question_length=settings.max_question_length,
    )
    make = partial(build_split, tokenizer=tokenizer, layout=layout, max_question_length=settings.max_question_length)
    if dataset.num_documents <= MOST_DOCUMENTS:
        num_workers = 0  # they would take longer to start than to work
    with (
        atomic_folder(folder) as scratch,
        Progress("chunk", dataset.num_documents, "documents") as progress,
        ExitStack() as stack,
    ):
        tokenizer.save_pretrained(str(scratch / "tokenizer"))
        writers = {name: stack.enter_context(SplitWriter(scratch / name)) for name in SPLITS}
        for name, num_documents, built in build_blocks(dataset.blocks(), make, num_workers):
            writers[name].append(built)
            progress.advance(num_documents, len(built.chunks.context_tokens) + len(built.chunks.question_tokens))
        stack.close()
        write_manifest(scratch, settings.as_json(), layout)
    report: dict[str, Any] = {"settings": settings.as_json(), "vocabulary": layout.vocab_size}
    for name in SPLITS:
        report[name] = writers[name].counts.report(dataset.left_out[name])
        report[name] |= {"unasked_contexts": dataset.num_unasked[name]}
    return report


def build_split(
    documents: Sequence[Asked],
    tokenizer: PreTrainedTokenizerFast,
    layout: SegmentLayout,
    max_question_length: int,
    *,
    drop_unlabeled: bool,
) -> BuiltSplit:
    """Tokenize documents of one split, or a block of it, and label them.

    With `drop_unlabeled` (training), questions whose answers match no token span are dropped; without it
    (evaluation), they are kept without a label.
    """
    contexts: dict[str, int] = {}  # text -> index; equal texts are one context
    context_of_N = [contexts.setdefault(passage.text, len(contexts)) for passage, _ in documents]
    texts_C = list(contexts)
    both = encode_texts(tokenizer, [*texts_C, *(question.text for _, question in documents)])  # share their words
    encoded, asked = both.part(0, len(texts_C)), both.part(len(texts_C), len(both.rows) - 1)
    labels_N2 = label_documents(encoded, texts_C, context_of_N, [question.answers for _, question in documents])
    unlabeled_N = (labels_N2[:, 0] < 0) & np.array([bool(question.answers) for _, question in documents], dtype=bool)
    keep_N = ~unlabeled_N if drop_unlabeled else np.ones(len(documents), dtype=bool)
    questions = [question for (_, question), keep in zip(documents, keep_N, strict=True) if keep]
    question_tokens, question_rows, num_cut = _cut_rows(*_kept_rows(asked.ids, asked.rows, keep_N), max_question_length)
    chunks = SplitChunks(
        context_tokens=encoded.ids,
        context_chars=encoded.chars,
        context_rows=encoded.rows,
        question_tokens=question_tokens,
        question_rows=question_rows,
        document_contexts=np.array(context_of_N, dtype=np.int32)[keep_N],
        labels=labels_N2[keep_N],
    )
    texts = SplitTexts(
        contexts=texts_C,
        question_ids=[question.id for question in questions],
        questions=[question.text for question in questions],
        answers=[[text for text, _ in question.answers] for question in questions],
        question_types=[question.question_type for question in questions],
        conditions=[question.condition for question in questions],
    )
    dropped = [documents[int(number)][1].id for number in np.flatnonzero(~keep_N)]
    return BuiltSplit(chunks=chunks, texts=texts, layout=layout, num_cut_questions=num_cut, unlabeled_ids=dropped)


class _Dataset:
    """The documents of a dataset's two splits, block by block, and which of them each split gets."""

    def __init__(self, settings: ChunkSettings, locate: Callable[[str], str]) -> None:
        source, faults = located(settings.dataset, locate), FaultList()
        self._context = settings.context
        self.num_unasked = dict.fromkeys(SPLITS, 0)  # contexts without a question, by file
        self.left_out: dict[str, dict[str, LeftOut]] = {name: {} for name in SPLITS}  # by a limit, by file
        self._parts: dict[Split, SplitParts] = {}
        self._choices: dict[Split, Choice] = {}
        limits: tuple[tuple[Split, int | None, float], ...] = (
            ("train", settings.max_train_documents, settings.calibration_fraction),
            ("dev", settings.max_eval_documents, 0.0),
        )
        for file, limit, fraction in limits:
            with faults.collecting():
                self._parts[file] = open_split(source, file, settings.dataset_revision)
                documents = (asked_of(passages) for passages in self._passages(file))
                self._choices[file] = choose(documents, limit, fraction, settings.seed)
        faults.raise_any()

    @property
    def num_documents(self) -> int:
        return sum(choice.num_kept for choice in self._choices.values())

    def training_texts(self) -> Iterator[str]:
        """Each context of the train split once, and each question."""
        seen: set[bytes] = set()
        for passages in self._passages("train"):
            train, _ = self._choices["train"].split(asked_of(passages))
            for text in dict.fromkeys(passage.text for passage, _ in train):
                digest = text_digest(text)
                if digest not in seen:
                    seen.add(digest)
                    yield text
            yield from (question.text for _, question in train)

    def blocks(self) -> Iterator[tuple[str, list[Asked]]]:
        """Yields each split's documents in their order, with its name, and counts what is left out."""
        for file, choice in self._choices.items():
            beyond = LeftOut()
            for passages in self._passages(file):
                documents = asked_of(passages)
                self.num_unasked[file] += sum(not passage.questions for passage in passages)
                beyond.add([question.id for _, question in documents if not choice.keeps(question)])
                for name, kept in zip((file, "calibration"), choice.split(documents), strict=True):
                    for block in cut_into_blocks(kept):
                        yield name, block
            self.left_out[file][f"beyond_max_{'eval' if file == 'dev' else file}_documents"] = beyond

    def _passages(self, file: Split) -> Iterator[list[Passage]]:
        for articles in self._parts[file]:
            yield as_passages(articles, self._context)


def asked_of(passages: Sequence[Passage]) -> list[Asked]:
    """The documents: each question with its passage."""
    return [(passage, question) for passage in passages for question in passage.questions]


def _kept_rows(ids: np.ndarray, rows: np.ndarray, keep_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids and row offsets of the kept rows."""
    lengths_N = np.diff(rows)
    return ids[np.repeat(keep_N, lengths_N)], np.concatenate(([0], np.cumsum(lengths_N[keep_N])))


def _cut_rows(ids: np.ndarray, rows: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Truncates every row to `max_length`; returns the ids, the new row offsets, and the number of truncated rows."""
    lengths_N = np.diff(rows)
    place_T = np.arange(len(ids)) - np.repeat(rows[:-1], lengths_N)  # within its row
    cut_rows = np.concatenate(([0], np.cumsum(np.minimum(lengths_N, max_length))))
    return ids[place_T < max_length], cut_rows, int((lengths_N > max_length).sum())

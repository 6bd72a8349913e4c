"""Builds chunks from SQuAD records: tokenizes each text once, labels each answer, and counts what is lost.

    report = build_chunks(settings, "data/chunks")
    documents = Documents.open("data/chunks", "train")

Time and disk grow with the text: a context is tokenized and stored once however many questions ask about it, and
segments are computed, not stored (`segments.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from transformers import PreTrainedTokenizerFast

from gmmxlnet.data.labels import label_documents
from gmmxlnet.data.segments import SegmentLayout, make_layout
from gmmxlnet.data.selection import Asked, limit_documents, split_calibration
from gmmxlnet.data.sources import Source, Split, read_splits
from gmmxlnet.data.squad import as_passages
from gmmxlnet.data.statistics import summarize
from gmmxlnet.data.store import SPLITS, BuiltSplit, ChunkStore, SplitChunks, SplitTexts, write_manifest, write_split
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

    dataset: Source  # folder, {"train": file, "dev": file}, or Hub id
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
        return asdict(self) | {"dataset": _plain(self.dataset)}


def build_chunks(settings: ChunkSettings, folder: str | Path, locate: Callable[[str], str] = str) -> dict[str, Any]:
    """Write the chunks of a dataset to `folder`, atomically; returns the contents of `reports/data.json`.

    `locate` maps the file and folder names in the settings to local paths; the chunks store only the names.

    Raises:
        DataError: the dataset or the tokenizer cannot be used.
        ConfigError: a question of full length leaves no room in a segment.
    """
    asked, left_out, num_unasked = _select(settings, locate)
    if settings.tokenizer == "scratch":
        tokenizer = scratch_tokenizer(_all_texts(asked["train"]))
    else:
        tokenizer = load_tokenizer(locate(settings.tokenizer), settings.tokenizer_revision)
    layout = make_layout(
        tokenizer,
        max_seq_length=settings.max_seq_length,
        doc_stride=settings.doc_stride,
        memory_num_tokens=settings.memory_num_tokens,
        max_question_length=settings.max_question_length,
    )
    report: dict[str, Any] = {"settings": settings.as_json(), "vocabulary": layout.vocab_size}
    num_documents = sum(len(asked[name]) for name in SPLITS)
    with atomic_folder(folder) as scratch, Progress("chunk", num_documents, "documents") as progress:
        tokenizer.save_pretrained(str(scratch / "tokenizer"))
        for name in SPLITS:
            built = build_split(
                asked[name], tokenizer, layout, settings.max_question_length, drop_unlabeled=name == "train"
            )
            write_split(scratch / name, built.chunks, built.texts)
            progress.advance(len(asked[name]), len(built.chunks.context_tokens) + len(built.chunks.question_tokens))
            report[name] = summarize(built, left_out[name]) | {"unasked_contexts": num_unasked[name]}
        write_manifest(scratch, settings.as_json(), layout)
    return report


def build_split(
    documents: Sequence[Asked],
    tokenizer: PreTrainedTokenizerFast,
    layout: SegmentLayout,
    max_question_length: int,
    *,
    drop_unlabeled: bool,
) -> BuiltSplit:
    """Tokenize the documents of one split and label them.

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


def _select(
    settings: ChunkSettings, locate: Callable[[str], str]
) -> tuple[dict[str, list[Asked]], dict[str, dict[str, list[str]]], dict[str, int]]:
    """Returns each split's documents, the ids dropped by a limit (by reason), and the contexts without a question.

    For the train file, the last two are listed under "train".
    """
    kept: dict[str, list[Asked]] = {}
    left_out: dict[str, dict[str, list[str]]] = {name: {} for name in SPLITS}
    num_unasked = dict.fromkeys(SPLITS, 0)
    limits: tuple[tuple[Split, str, int | None], ...] = (
        ("train", "max_train_documents", settings.max_train_documents),
        ("dev", "max_eval_documents", settings.max_eval_documents),
    )
    names = settings.dataset
    source = (
        {key: locate(str(file)) for key, file in names.items()} if isinstance(names, Mapping) else locate(str(names))
    )
    articles = read_splits(source, settings.dataset_revision)
    for split, key, limit in limits:
        passages = as_passages(articles[split], settings.context)
        documents = [(passage, question) for passage in passages for question in passage.questions]
        kept[split] = limit_documents(documents, limit, settings.seed)
        kept_ids = {question.id for _, question in kept[split]}
        beyond = [question.id for _, question in documents if question.id not in kept_ids]
        if beyond:
            left_out[split][f"beyond_{key}"] = beyond
        num_unasked[split] = sum(not passage.questions for passage in passages)
    kept["train"], kept["calibration"] = split_calibration(kept["train"], settings.calibration_fraction, settings.seed)
    return kept, left_out, num_unasked


def _all_texts(documents: Sequence[Asked]) -> Iterator[str]:
    """Each context once, in order of appearance, and each question."""
    yield from dict.fromkeys(passage.text for passage, _ in documents)
    yield from (question.text for _, question in documents)


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


def _plain(dataset: Source) -> str | dict[str, str]:
    """Returns the dataset's name in a form that JSON can store."""
    return {key: str(file) for key, file in dataset.items()} if isinstance(dataset, Mapping) else str(dataset)

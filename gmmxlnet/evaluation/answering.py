"""Answers to questions about texts that are not in a dataset.

    model.answer("Who is the host?", text).text
    answer(model, ["Who is the host?", "Who is the baker?"], text)             # one text, several questions
    answer(model, questions, texts)                                            # as many texts as questions

A text of any length is read as in evaluation: in segments, each with the question, passing the memory between them.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.plain_text import check_whole_characters
from gmmxlnet.data.segments import SegmentLayout, make_layout
from gmmxlnet.data.store import SplitChunks, SplitTexts
from gmmxlnet.data.tokenizer import EncodedTexts, checked_tokenizer, encode_texts, load_tokenizer
from gmmxlnet.devices import autocast_dtype
from gmmxlnet.errors import CheckpointError, ConfigError, DataError
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.evaluation.familiarity import unfamiliar_words
from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.messages import said
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.options import MAX_N_BEST, PRECISIONS

MAX_SEQ_LENGTH, DOC_STRIDE = 384, 64  # for models whose config.json does not store the training values
SHOWN_WORDS = 5  # maximum number of unfamiliar words listed in an answer
CANDIDATES = 20  # spans in the softmax, even if fewer are returned


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A candidate span, or the empty answer (no characters, text "")."""

    text: str
    char_start: int | None  # first character in the document
    char_end: int | None  # the one after the last
    segment: int  # 0-based segment of the span; for the empty answer, the least certain segment
    score: float  # start logit plus end logit
    probability: float  # softmax of the candidates' scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A model's answer to one question about one document."""

    question: str
    text: str  # empty if the document does not contain the answer
    char_start: int | None  # first character in the document; None if the answer is empty
    char_end: int | None  # the character after its end
    segment: int | None  # 0-based segment of the answer
    probability: float  # of this answer (or of no answer) among the candidates
    null_odds: float  # score of the empty answer minus the best span's; above `threshold`: no answer
    threshold: float
    num_segments: int  # number of segments of the document
    candidates: tuple[Candidate, ...]  # n best including the empty answer, best first
    unfamiliar_in_question: float  # share of unknown words; if near 1, the answer is meaningless
    unfamiliar_in_document: float
    unfamiliar_words: tuple[str, ...]  # a few of these words, the question's first


@dataclass(frozen=True, slots=True)
class _Asked:
    """Questions and texts in the format that `Documents` reads."""

    chunks: SplitChunks
    texts: SplitTexts
    layout: SegmentLayout


def answer(
    model: GMMXLNetForQA,
    question: str | Sequence[str],
    document: str | Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    threshold: float = 0.0,
    n_best: int = 5,
    max_answer_length: int = 30,
    batch_size: int = 8,
    precision: str = "float32",
    max_seq_length: int | None = None,
    doc_stride: int | None = None,
) -> Answer | list[Answer]:
    """Answers a question about a document; returns a list of answers if either argument is a list.

    Args:
        question, document: one text each, or lists; a single text is paired with every item of the other list.
        tokenizer: the model's tokenizer; by default loaded from the model's checkpoint.
        threshold: null odds above which the answer is empty. 0 selects whichever scores higher, the best span or no
            answer. `reports/metrics.json` contains the threshold chosen for the model.
        n_best: number of candidates to return, at most 10,000.
        max_answer_length: maximum answer length in tokens.
        batch_size: number of (question, document) pairs per batch.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU, and on a CPU that has AMX. Logits then change in
            the third digit (docs/running.md).
        max_seq_length, doc_stride: how to split a document into segments; by default as in training.

    Raises:
        DataError: a document or question is empty, or a question leaves no room for the document in a segment.
        ConfigError: an argument has a wrong type or an impossible value.
        CheckpointError: the model's tokenizer cannot be found.
    """
    _check_threshold(threshold)
    _check_counts(n_best=n_best, max_answer_length=max_answer_length, batch_size=batch_size)
    _check_counts(
        **{k: v for k, v in (("max_seq_length", max_seq_length), ("doc_stride", doc_stride)) if v is not None}
    )
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not {said(str(precision), 40)!r}")
    questions, documents = _pairs(question, document)
    tokenizer = _own_tokenizer(model) if tokenizer is None else checked_tokenizer(tokenizer, "given to answer()")
    layout = _layout(model.config, tokenizer, max_seq_length, doc_stride)
    evaluator = QAEvaluator(
        model,
        tokenizer,
        n_best_size=max(n_best, CANDIDATES),
        max_answer_length=max_answer_length,
        batch_size=batch_size,
        autocast_dtype=autocast_dtype(precision, model.device),
    )
    asked, contexts = encode_texts(tokenizer, questions), list(dict.fromkeys(documents))
    read = encode_texts(tokenizer, contexts)
    _check_room(np.diff(asked.rows), layout)
    predictions = evaluator.predict(_as_documents(questions, documents, contexts, asked, read, layout))
    unk_id = tokenizer.unk_token_id
    unfamiliar = [
        *(unfamiliar_words(text, asked, i, unk_id) for i, text in enumerate(questions)),
        *(unfamiliar_words(text, read, i, unk_id) for i, text in enumerate(contexts)),
    ]
    answers = _answers(predictions, questions, threshold, n_best, unfamiliar)
    return answers[0] if isinstance(question, str) and isinstance(document, str) else answers


def _check_threshold(threshold: float) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or math.isnan(threshold):
        raise ConfigError(f"threshold must be a number, not {threshold!r}")


def _check_counts(**counts: int) -> None:
    """Raises ConfigError unless each count is an integer in its valid range."""
    for name, count in counts.items():
        least, most = int(name != "doc_stride"), MAX_N_BEST if name == "n_best" else sys.maxsize
        if isinstance(count, bool) or not isinstance(count, Integral) or not least <= count <= most:
            allowed = f"from 1 to {MAX_N_BEST:,}" if name == "n_best" else f">= {least}"
            raise ConfigError(f"{name} must be an integer {allowed}, not {said(str(count), 40)!r}")


def _texts(name: str, given: Any) -> list[str]:
    """Returns texts as a list; raises ConfigError for a wrong type and DataError for an invalid text."""
    if not isinstance(given, str | Sequence) or isinstance(given, bytes):
        raise ConfigError(f"{name} must be a text or a list of texts, not {type(given).__name__}")
    texts = [given] if isinstance(given, str) else list(given)
    for number, text in enumerate(texts, 1):
        which = f"{name} {number} of {len(texts)}"
        if not isinstance(text, str):
            raise ConfigError(f"{which} must be a text, not {type(text).__name__}")
        if not text.strip():
            raise DataError(f"{which} is empty: there is nothing to read")
        check_whole_characters(text, which)
    return texts


def _pairs(question: str | Sequence[str], document: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Pairs questions with documents and checks that none is empty."""
    questions, documents = _texts("question", question), _texts("document", document)
    if isinstance(question, str):
        questions *= len(documents)
    elif isinstance(document, str):
        documents *= len(questions)
    if len(questions) != len(documents):
        raise DataError(
            f"{len(questions)} questions and {len(documents)} documents: give as many of both, or one text of either"
        )
    return questions, documents


def _own_tokenizer(model: GMMXLNetForQA) -> PreTrainedTokenizerFast:
    """Loads the tokenizer from the model's checkpoint, at the same revision."""
    if not model.name_or_path:
        raise CheckpointError("the model was not loaded from a folder or the Hub: pass its tokenizer to answer()")
    return load_tokenizer(model.name_or_path, getattr(model.config, "_commit_hash", None))


def _layout(
    config: GMMXLNetConfig, tokenizer: PreTrainedTokenizerFast, max_seq_length: int | None, doc_stride: int | None
) -> SegmentLayout:
    """Returns the segment layout used in training, with defaults for what the checkpoint does not store."""
    trained = config.segment_layout or {}
    return make_layout(
        tokenizer,
        max_seq_length=max_seq_length or trained.get("max_seq_length", MAX_SEQ_LENGTH),
        doc_stride=trained.get("doc_stride", DOC_STRIDE) if doc_stride is None else doc_stride,
        memory_num_tokens=trained.get("memory_num_tokens", config.memory_num_tokens),
        max_question_length=1,
    )


def _as_documents(
    questions: list[str],
    documents: list[str],
    texts: list[str],
    asked: EncodedTexts,
    contexts: EncodedTexts,
    layout: SegmentLayout,
) -> Documents:
    """Tokenizes each distinct document (`texts`) once, however many questions are about it."""
    context_of = {text: index for index, text in enumerate(texts)}
    chunks = SplitChunks(
        context_tokens=contexts.ids,
        context_chars=contexts.chars,
        context_rows=contexts.rows,
        question_tokens=asked.ids,
        question_rows=asked.rows,
        document_contexts=np.array([context_of[text] for text in documents], np.int32),
        labels=np.full((len(questions), 2), -1, np.int32),
    )
    split_texts = SplitTexts(
        contexts=texts,
        question_ids=[str(number) for number in range(len(questions))],
        questions=questions,
        answers=[[] for _ in questions],
        question_types=[None] * len(questions),
        conditions=[None] * len(questions),
    )
    return Documents(_Asked(chunks, split_texts, layout))


def _check_room(question_lengths_N: np.ndarray, layout: SegmentLayout) -> None:
    """Raises DataError if a question leaves no room for more than `doc_stride` context tokens per segment."""
    room_N = layout.windows(question_lengths_N) - layout.doc_stride
    if len(room_N) and room_N.min() < 1:
        number = int(room_N.argmin())
        most = int(question_lengths_N[number] + room_N[number] - 1)
        raise DataError(
            f"question {number + 1} of {len(room_N)} has {question_lengths_N[number]} tokens; a segment of "
            f"{layout.max_seq_length} has room for at most {most} beside the document: ask it in fewer words"
        )


def _answers(
    predictions: Predictions,
    questions: list[str],
    threshold: float,
    n_best: int,
    unfamiliar: list[tuple[float, list[str]]],
) -> list[Answer]:
    """Creates answers; `unfamiliar` has the share and the words of each question, then of each context."""
    context_N = predictions.context_indices()
    num_segments_N = predictions.documents.num_segments()
    answers = []
    for i, entries in enumerate(predictions.n_best_by_id().values()):
        candidates = [_candidate(entry) for entry in entries]
        null_odds = float(predictions.null_odds[i])
        answered = null_odds <= threshold and predictions.has_span(i)
        chosen = next(candidate for candidate in candidates if (candidate.char_start is not None) == answered)
        in_question, in_document = unfamiliar[i], unfamiliar[len(questions) + context_N[i]]
        answers.append(
            Answer(
                question=questions[i],
                text=chosen.text,
                char_start=chosen.char_start,
                char_end=chosen.char_end,
                segment=chosen.segment if answered else None,
                probability=chosen.probability,
                null_odds=null_odds,
                threshold=threshold,
                num_segments=int(num_segments_N[i]),
                candidates=tuple(candidates[:n_best]),
                unfamiliar_in_question=in_question[0],
                unfamiliar_in_document=in_document[0],
                unfamiliar_words=tuple((in_question[1][:SHOWN_WORDS] + in_document[1])[:SHOWN_WORDS]),
            )
        )
    return answers


def _candidate(entry: dict[str, Any]) -> Candidate:
    return Candidate(
        **{name: entry[name] for name in ("text", "char_start", "char_end", "segment", "probability")},
        score=entry["start_logit"] + entry["end_logit"],
    )

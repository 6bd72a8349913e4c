"""Answers to questions about texts that are not in a dataset.

    model.answer("Who is the host?", text).text
    answer(model, ["Who is the host?", "Who is the baker?"], text)             # one text, several questions
    answer(model, questions, texts)                                            # as many texts as questions

A text of any length is read as in evaluation: in segments, each with the question, the memory travelling between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.segments import SegmentLayout, make_layout
from gmmxlnet.data.store import SplitChunks, SplitTexts
from gmmxlnet.data.tokenizer import encode_texts, load_tokenizer
from gmmxlnet.errors import CheckpointError, DataError
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA

MAX_SEQ_LENGTH, DOC_STRIDE = 384, 64  # of models whose config.json does not say how they were trained
CANDIDATES = 20  # spans that share the probability, however few of them are asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A span that may be the answer, or the empty answer (no characters, text "")."""

    text: str
    char_start: int | None  # first character in the document
    char_end: int | None  # the one after the last
    segment: int  # the segment that it was found in, from 0; of the empty answer, the one that is least sure of it
    score: float  # start logit plus end logit
    probability: float  # among the candidates: softmax of their scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model answers to one question of one document."""

    question: str
    text: str  # empty: the document does not say
    char_start: int | None  # where the text begins in the document; None where there is none
    char_end: int | None  # the character after its end
    segment: int | None  # the segment it was found in, from 0
    probability: float  # of this answer, or of there being none, among the candidates
    null_odds: float  # score of the empty answer less the best span's; above `threshold`: no answer
    threshold: float
    num_segments: int  # that the document was read in
    candidates: tuple[Candidate, ...]  # n best, best first, the empty one among them


@dataclass(frozen=True, slots=True)
class _Asked:
    """Questions and texts in the form that `Documents` reads."""

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
    max_seq_length: int | None = None,
    doc_stride: int | None = None,
) -> Answer | list[Answer]:
    """The answer to a question about a document; a list of answers if either is a list.

    Args:
        question, document: one text each, or lists; a single text stands for each item of the other's list.
        tokenizer: the model's; loaded from where the model came from when left out.
        threshold: null odds above which the answer is empty. 0 means: whichever scores higher, the best span or no
            answer. `reports/metrics.json` holds the one that was chosen for the model.
        n_best: how many candidates to return.
        max_answer_length: in tokens.
        batch_size: (question, document) pairs read at a time.
        max_seq_length, doc_stride: how to cut a document into segments; as in training when left out.

    Raises:
        DataError: a document or question is empty, or a question leaves no room for the document in a segment.
        CheckpointError: the model's tokenizer cannot be found.
    """
    questions, documents = _pairs(question, document)
    tokenizer = tokenizer or _own_tokenizer(model)
    layout = _layout(model.config, tokenizer, max_seq_length, doc_stride)
    evaluator = QAEvaluator(
        model,
        tokenizer,
        n_best_size=max(n_best, CANDIDATES),
        max_answer_length=max_answer_length,
        batch_size=batch_size,
    )
    predictions = evaluator.predict(_as_documents(questions, documents, tokenizer, layout))
    answers = _answers(predictions, questions, threshold, n_best)
    return answers[0] if isinstance(question, str) and isinstance(document, str) else answers


def _pairs(question: str | Sequence[str], document: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """As many questions as documents, none of them empty."""
    questions = [question] if isinstance(question, str) else list(question)
    documents = [document] if isinstance(document, str) else list(document)
    if isinstance(question, str):
        questions *= len(documents)
    elif isinstance(document, str):
        documents *= len(questions)
    if len(questions) != len(documents):
        raise DataError(
            f"{len(questions)} questions and {len(documents)} documents: give as many of both, or one text of either"
        )
    for kind, texts in (("question", questions), ("document", documents)):
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise DataError(f"{kind} {number} of {len(texts)} is empty: there is nothing to read")
    return questions, documents


def _own_tokenizer(model: GMMXLNetForQA) -> PreTrainedTokenizerFast:
    """The tokenizer that lies with the model's checkpoint, at the same revision."""
    if not model.name_or_path:
        raise CheckpointError("the model was not loaded from a folder or the Hub: pass its tokenizer to answer()")
    return load_tokenizer(model.name_or_path, getattr(model.config, "_commit_hash", None))


def _layout(
    config: GMMXLNetConfig, tokenizer: PreTrainedTokenizerFast, max_seq_length: int | None, doc_stride: int | None
) -> SegmentLayout:
    """Segments as in training, as far as the checkpoint tells."""
    trained = config.segment_layout or {}
    return make_layout(
        tokenizer,
        max_seq_length=max_seq_length or trained.get("max_seq_length", MAX_SEQ_LENGTH),
        doc_stride=trained.get("doc_stride", DOC_STRIDE) if doc_stride is None else doc_stride,
        memory_num_tokens=trained.get("memory_num_tokens", config.memory_num_tokens),
        max_question_length=1,
    )


def _as_documents(
    questions: list[str], documents: list[str], tokenizer: PreTrainedTokenizerFast, layout: SegmentLayout
) -> Documents:
    """Every document tokenized once, however many questions ask about it."""
    context_of = {text: index for index, text in enumerate(dict.fromkeys(documents))}
    contexts = encode_texts(tokenizer, list(context_of))
    asked = encode_texts(tokenizer, questions)
    _check_room(np.diff(asked.rows), layout)
    chunks = SplitChunks(
        context_tokens=contexts.ids,
        context_chars=contexts.chars,
        context_rows=contexts.rows,
        question_tokens=asked.ids,
        question_rows=asked.rows,
        document_contexts=np.array([context_of[text] for text in documents], np.int32),
        labels=np.full((len(questions), 2), -1, np.int32),
    )
    texts = SplitTexts(
        contexts=list(context_of),
        question_ids=[str(number) for number in range(len(questions))],
        questions=questions,
        answers=[[] for _ in questions],
        question_types=[None] * len(questions),
        conditions=[None] * len(questions),
    )
    return Documents(_Asked(chunks, texts, layout))


def _check_room(question_lengths_N: np.ndarray, layout: SegmentLayout) -> None:
    """Each question must leave room for more context than segments share, or reading would not come forward."""
    room_N = layout.windows(question_lengths_N) - layout.doc_stride
    if len(room_N) and room_N.min() < 1:
        number = int(room_N.argmin())
        most = int(question_lengths_N[number] + room_N[number] - 1)
        raise DataError(
            f"question {number + 1} of {len(room_N)} has {question_lengths_N[number]} tokens; a segment of "
            f"{layout.max_seq_length} has room for at most {most} beside the document: ask it in fewer words"
        )


def _answers(predictions: Predictions, questions: list[str], threshold: float, n_best: int) -> list[Answer]:
    num_segments_N = predictions.documents.num_segments()
    answers = []
    for i, entries in enumerate(predictions.n_best_by_id().values()):
        candidates = [_candidate(entry) for entry in entries]
        null_odds = float(predictions.null_odds[i])
        answered = null_odds <= threshold and predictions.has_span(i)
        chosen = next(candidate for candidate in candidates if (candidate.char_start is not None) == answered)
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
            )
        )
    return answers


def _candidate(entry: dict[str, Any]) -> Candidate:
    return Candidate(
        **{name: entry[name] for name in ("text", "char_start", "char_end", "segment", "probability")},
        score=entry["start_logit"] + entry["end_logit"],
    )

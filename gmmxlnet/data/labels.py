"""Converts gold answers (character offsets) to labels (token spans)."""

from collections.abc import Sequence

import numpy as np

from gmmxlnet.data.answer_text import normalize_answer
from gmmxlnet.data.tokenizer import EncodedTexts

NO_LABEL = (-1, -1)


def smallest_spans(encoded: EncodedTexts, texts_A: np.ndarray, starts_A: np.ndarray, ends_A: np.ndarray) -> np.ndarray:
    """Finds, for each answer, the smallest token span that covers its characters [start, end).

    Args:
        texts_A: index of each answer's text.
        starts_A, ends_A: character range of each answer (end exclusive).

    Returns:
        (A, 2) int64, first and last token within the text; (-1, -1) if no token overlaps the answer.

    Several tokens can map to one character, and a lone ▁ can share its neighbor's: tokens at the edges that are not
    needed to cover the answer are dropped. Characters that map to no token (white space) need not be covered.
    """
    # Texts are concatenated with gaps, so that one search covers all of them.
    num_tokens_C = np.diff(encoded.rows)
    text_of_token_T = np.repeat(np.arange(len(num_tokens_C)), num_tokens_C)
    lengths_C = np.zeros(len(num_tokens_C), dtype=np.int64)
    np.maximum.at(lengths_C, text_of_token_T, encoded.chars[:, 1])
    np.maximum.at(lengths_C, texts_A, ends_A)
    origins_C = np.concatenate(([0], np.cumsum(lengths_C + 1)))[:-1]
    token_starts_T, token_ends_T = encoded.chars.T + origins_C[text_of_token_T]
    starts_A, ends_A = starts_A + origins_C[texts_A], ends_A + origins_C[texts_A]

    first_A = np.searchsorted(token_ends_T, starts_A, side="right")  # the first that ends after the answer's start
    last_A = np.searchsorted(token_starts_T, ends_A, side="left") - 1  # the last that starts before its end
    touched_A = first_A <= last_A
    first_A, last_A = np.where(touched_A, first_A, 0), np.where(touched_A, last_A, 0)
    if touched_A.any():
        first_covered_A = np.maximum(starts_A, token_starts_T[first_A])
        last_covered_A = np.minimum(ends_A, token_ends_T[last_A])
        first_A = np.searchsorted(token_starts_T, first_covered_A, side="right") - 1
        last_A = np.maximum(np.searchsorted(token_ends_T, last_covered_A, side="left"), first_A)
    spans_A2 = np.stack([first_A, last_A], axis=1) - encoded.rows[texts_A][:, None]
    return np.where(touched_A[:, None], spans_A2, NO_LABEL[0])


def label_documents(
    encoded: EncodedTexts,
    texts: Sequence[str],
    text_of_N: Sequence[int],
    answers_N: Sequence[Sequence[tuple[str, int]]],
) -> np.ndarray:
    """Returns each document's label: the span of its first gold answer that decodes to one of its gold answers.

    Decoded text is compared after `normalize_answer`, as in the official metric. If the answer is only part of a
    token ("half" in a one-token "halfway"), or there is no answer, the label is (-1, -1). (N, 2) int32.
    """
    labels_N2 = np.full((len(answers_N), 2), NO_LABEL[0], dtype=np.int32)
    flat = [(number, text, start) for number, golds in enumerate(answers_N) for text, start in golds]
    texts_A = np.array([text_of_N[number] for number, _, _ in flat], dtype=np.int64)
    starts_A = np.array([start for _, _, start in flat], dtype=np.int64)
    ends_A = starts_A + np.array([len(text) for _, text, _ in flat], dtype=np.int64)
    spans_A2 = smallest_spans(encoded, texts_A, starts_A, ends_A)
    found = np.flatnonzero(spans_A2[:, 0] >= 0)
    tokens_F2 = encoded.rows[texts_A[found]][:, None] + spans_A2[found]
    begins_F, finishes_F = encoded.chars[tokens_F2[:, 0], 0].tolist(), encoded.chars[tokens_F2[:, 1], 1].tolist()
    for answer, begin, finish in reversed(list(zip(found.tolist(), begins_F, finishes_F, strict=True))):
        document, gold, _ = flat[answer]
        decoded = texts[text_of_N[document]][begin:finish]
        if decoded == gold or _is_gold(decoded, answers_N[document]):
            labels_N2[document] = spans_A2[answer]  # in reverse order, so that the first match wins
    return labels_N2


def _is_gold(decoded: str, golds: Sequence[tuple[str, int]]) -> bool:
    normalized = normalize_answer(decoded)
    return any(normalized == normalize_answer(gold) for gold, _ in golds)

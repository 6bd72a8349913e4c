"""How the sentence with the answer refers to what the question is about: by a name, by a pronoun, or neither.

With a pronoun a memory could help on ordinary text: a segment that begins after the name does not tell who "she" is.
No parser is used. The names of a question are its capitalized words but the first; the kind is `name` if the sentence
has one of them, else `pronoun` if it has a third-person pronoun, else `neither`.
"""

import re

import numpy as np

from gmmxlnet.data.named_facts import split_sentences
from gmmxlnet.evaluation.predictions import Predictions

SUBJECTS = ("no answer", "name", "pronoun", "neither")
NO_ANSWER, NAME, PRONOUN, NEITHER = range(len(SUBJECTS))
_PRONOUN = re.compile(r"\b(he|she|it|they|him|her|them|his|hers|its|their|theirs)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def subject_of(question: str, sentence: str) -> int:
    """Classifies a sentence; returns an index into `SUBJECTS`."""
    names = {word for word in _WORD.findall(question)[1:] if word[0].isupper()}
    if names & set(_WORD.findall(sentence)):
        return NAME
    return PRONOUN if _PRONOUN.search(sentence) else NEITHER


def sentence_at(text: str, bounds: list[tuple[int, int]], start: int, end: int) -> str:
    """Returns the sentence, or sentences, that contain the characters `start` to `end` (exclusive).

    Args:
        bounds: `split_sentences(text)`.
    """
    touched = [(first, last) for first, last in bounds if first < end and start < last]
    return text[touched[0][0] : touched[-1][1]]


def answer_subjects(predictions: Predictions) -> np.ndarray:
    """(D,) int32: how the sentence with each question's answer refers to its subject; `NO_ANSWER` without one."""
    documents = predictions.documents
    subjects_D = np.full(len(documents), NO_ANSWER, np.int32)
    bounds_of: dict[int, list[tuple[int, int]]] = {}  # by context
    for index in range(len(documents)):
        label = documents[index].label
        if label is None:
            continue
        text, context = documents.context_text(index), documents.context_index(index)
        if context not in bounds_of:
            bounds_of[context] = split_sentences(text)
        sentence = sentence_at(text, bounds_of[context], *documents.token_char_span(index, *label))
        subjects_D[index] = subject_of(documents.question_text(index), sentence)
    return subjects_D

"""Which words of a text a tokenizer knows, by hand."""

import numpy as np
import pytest

from gmmxlnet.data.tokenizer import EncodedTexts
from gmmxlnet.evaluation.familiarity import unfamiliar_words

UNK = 3


def found(text, tokens):
    """The words of a text, second of two, of which a tokenizer made (start, end) tokens; a third item is their id."""
    rows = [(0, 5, UNK), *((*token, 7)[:3] for token in tokens)]
    array = np.array(rows, np.int32)
    return unfamiliar_words(text, EncodedTexts(array[:, 2], array[:, :2], np.array([0, 1, len(rows)])), 1, UNK)


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("red fox", [(0, 3), (4, 7)], []),
        ("red fox", [(0, 3, UNK), (4, 7)], ["red"]),
        ("red fox", [(0, 3), (4, 7, UNK)], ["fox"]),
        ("red fox", [(0, 3), (4, 5), (5, 7, UNK)], ["fox"]),
        ("red fox", [(0, 1), (1, 2), (2, 3), (4, 7)], ["red"]),  # letter by letter
        ("red fox", [(0, 1), (1, 3), (4, 7)], []),
        ("blue fox", [(0, 1), (1, 2), (2, 3), (3, 4), (5, 8)], ["blue"]),
        ("red fox", [(0, 3)], ["fox"]),  # no token at all
        ("red fox", [(4, 7)], ["red"]),
        ("red fox red", [(0, 3, UNK), (4, 7), (8, 11, UNK)], ["red"]),  # once each
        ("\u7d05", [(0, 1)], []),  # a word of one letter
        ("\u7d05", [(0, 1, UNK)], ["\u7d05"]),
    ],
)
def test_words_are_unfamiliar_that_are_unknown_or_spelled(text, tokens, words):
    share, told = found(text, tokens)
    assert told == words
    letters = text.split()
    assert share == pytest.approx(sum(word in words for word in letters) / len(letters))


def test_a_text_without_words_has_no_unfamiliar_ones():
    assert found("12 + 3!", [(0, 2, UNK)]) == (0.0, [])

"""A token's characters end with the marks of its last letter, whatever the tokenizer did to them."""

import unicodedata
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.data.graphemes import extend_to_graphemes
from gmmxlnet.data.tokenizer import encode_texts, scratch_tokenizer


def extended(text: str, spans: list[tuple[int, int]]) -> list[list[int]]:
    """The spans of the second of three texts, so that neighbors could get in the way."""
    texts, chars = ["e\u0301", text, "o\u0308"], [(0, 1), *spans, (0, 1)]
    rows = np.array([0, 1, 1 + len(spans), 2 + len(spans)])
    return extend_to_graphemes(texts, np.array(chars, np.int32), rows)[1:-1].tolist()


@pytest.mark.parametrize(
    ("text", "end", "expected"),
    [
        ("Rene\u0301 x", 4, 5),  # an accent of its own
        ("दो घर", 1, 2),  # a vowel sign that takes space
        ("สี่ห้อง", 1, 3),  # a vowel and a tone mark
        ("น้ำใจ", 2, 3),  # SARA AM, a letter by its category and a vowel sign by its use
        ("محمدٌ ", 4, 5),
        ("\U0001f469\u200d\U0001f467 x", 1, 3),  # joined emoji
        ("\u2764\ufe0f x", 1, 2),  # a variation selector
        ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", 1, 2),  # a flag, and not the one after it
        ("\u1112\u1161\u11ab\u1100", 1, 3),  # a syllable in jamo
        ("Rene x", 4, 4),
        ("é x", 1, 1),
    ],
)
def test_the_end_takes_the_marks_and_nothing_else(text: str, end: int, expected: int) -> None:
    assert extended(text, [(0, end)]) == [[0, expected]]


def test_text_without_marks_is_not_copied() -> None:
    chars = np.array([(0, 3)], np.int32)
    assert extend_to_graphemes(["Zoë"], chars, np.array([0, 1])) is chars


MARKED = st.text(
    st.sampled_from("ab \u0301\u093f\u0e33\u200d\ufe0f\U0001f469กक्ष\u1112\u1161\u0600\U0001f1e9"), max_size=12
)


@given(MARKED, st.data())
def test_ends_stay_in_order_and_lie_between_clusters(text: str, data: st.DataObject) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    spans = list(pairwise(places))
    found = extended(text, spans)
    boundaries = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    for (start, end), (start_found, end_found) in zip(spans, found, strict=True):
        assert start_found == start
        assert end_found == min(place for place in boundaries if place >= end)
    assert [end for _, end in found] == sorted(end for _, end in found)


@given(MARKED)
def test_no_token_of_a_text_is_followed_by_a_mark(text: str) -> None:
    tokens = encode_texts(scratch_tokenizer(["a b"]), [text])
    for _, end in tokens.chars.tolist():
        assert end == len(text) or not unicodedata.combining(text[end])

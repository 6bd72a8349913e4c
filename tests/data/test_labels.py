"""A label is the smallest token span that covers the answer, and reads back as a gold answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.data.answer_text import normalize_answer
from gmmxlnet.data.labels import label_documents, smallest_spans
from gmmxlnet.data.squad import as_passages, read_squad_file
from gmmxlnet.data.tokenizer import EncodedTexts, encode_texts, load_tokenizer


def encoded(*texts: list[tuple[int, int]]) -> EncodedTexts:
    chars = np.array([span for text in texts for span in text], dtype=np.int32).reshape(-1, 2)
    rows = np.concatenate(([0], np.cumsum([len(text) for text in texts])))
    return EncodedTexts(ids=np.zeros(len(chars), np.int32), chars=chars, rows=rows)


def span(tokens: list[tuple[int, int]], start: int, end: int) -> list[int]:
    """The span in the second of three texts, so that neighbours could get in the way."""
    other = [(0, 3), (4, 9)]
    texts = encoded(other, tokens, other)
    return smallest_spans(texts, np.array([1]), np.array([start]), np.array([end]))[0].tolist()


@pytest.mark.parametrize(
    ("tokens", "start", "end", "expected"),
    [
        ([(0, 2), (3, 5), (6, 9)], 3, 5, [1, 1]),
        ([(0, 2), (3, 5), (6, 9)], 4, 7, [1, 2]),  # inside tokens
        ([(0, 2), (3, 5), (6, 9)], 2, 6, [1, 1]),  # white space on both sides
        ([(0, 2), (3, 4), (3, 5), (6, 9)], 3, 5, [2, 2]),  # a lone ▁ shares its neighbor's first character
        ([(0, 1), (2, 3), (2, 3), (2, 3), (4, 6)], 2, 3, [3, 3]),  # three tokens for one character: one covers it
        ([(0, 1), (2, 3), (2, 3), (2, 3), (4, 6)], 2, 6, [3, 4]),
        ([(0, 1), (2, 3), (2, 3), (2, 3), (4, 6)], 0, 3, [0, 1]),
        ([(0, 9)], 3, 5, [0, 0]),
        ([(0, 2), (6, 9)], 3, 5, [-1, -1]),
        ([], 0, 1, [-1, -1]),
    ],
)
def test_smallest_span(tokens: list[tuple[int, int]], start: int, end: int, expected: list[int]) -> None:
    assert span(tokens, start, end) == expected


@st.composite
def tokens_and_answer(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int, int]:
    """Tokens in reading order, with gaps and shared characters, and some characters."""
    tokens, start, end = [], 0, 0
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(start, end + 2))
        end = draw(st.integers(max(end, start + 1), max(end, start) + 3))
        tokens.append((start, end))
    first = draw(st.integers(0, end))
    return tokens, first, draw(st.integers(first + 1, end + 2))


@given(tokens_and_answer())
def test_no_smaller_span_covers_as_much(case: tuple[list[tuple[int, int]], int, int]) -> None:
    tokens, start, end = case

    def covered(first: int, last: int) -> set[int]:
        return {char for token in tokens[first : last + 1] for char in range(*token)} & set(range(start, end))

    everything = covered(0, len(tokens) - 1)
    first, last = span(tokens, start, end)
    if not everything:
        assert (first, last) == (-1, -1)
        return
    assert covered(first, last) == everything
    spans = [(low, high) for low in range(len(tokens)) for high in range(low, len(tokens))]
    assert last - first == min(high - low for low, high in spans if covered(low, high) == everything)


def test_the_first_gold_answer_that_tokens_can_express_is_the_label() -> None:
    text = "the halfway house"
    tokens = encoded([(0, 3), (4, 11), (12, 17)])
    golds = [
        [("half", 4), ("halfway house", 4), ("house", 12)],
        [("half", 4)],
        [],
        [("the halfway", 0)],
        [("halfway house", 4)],
    ]
    labels = label_documents(tokens, [text], [0] * len(golds), golds)
    assert labels.dtype == np.int32
    assert labels.tolist() == [[1, 2], [-1, -1], [-1, -1], [0, 1], [1, 2]]


def test_questions_without_any_answer_have_no_label() -> None:
    assert label_documents(encoded([(0, 3)]), ["the"], [0, 0], [[], []]).tolist() == [[-1, -1], [-1, -1]]


def test_articles_and_marks_do_not_make_a_label_wrong() -> None:
    labels = label_documents(encoded([(0, 3), (4, 9)]), ['the "cat"'], [0], [[("cat", 5)]])
    assert labels.tolist() == [[1, 1]]


@pytest.mark.parametrize("context", ["paragraph", "article"])
def test_labels_of_real_text_decode_to_gold(shared_folder, context: str) -> None:
    tokenizer = load_tokenizer(str(shared_folder / "xlnet-base-cased"))
    passages = as_passages(read_squad_file(shared_folder / "squad" / "dev-v2.0.json"), context)
    texts = [passage.text for passage in passages]
    asked = [(number, question) for number, passage in enumerate(passages) for question in passage.questions]
    tokens = encode_texts(tokenizer, texts)
    labels = label_documents(
        tokens, texts, [number for number, _ in asked], [question.answers for _, question in asked]
    )
    num_labeled = 0
    for (number, question), (first, last) in zip(asked, labels.tolist(), strict=True):
        assert first <= last
        if first >= 0:
            row = tokens.rows[number]
            decoded = texts[number][tokens.chars[row + first, 0] : tokens.chars[row + last, 1]]
            assert normalize_answer(decoded) in {normalize_answer(text) for text, _ in question.answers}
            num_labeled += 1
    assert num_labeled == 5928  # every answerable question

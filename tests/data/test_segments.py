"""Windows cover every context token, share the stride and never outgrow a segment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.data.segments import SegmentLayout, count_segments, make_layout, segment_bounds, segments_holding
from gmmxlnet.data.tokenizer import add_memory_tokens, scratch_tokenizer
from gmmxlnet.errors import ConfigError

TOKENS, STRIDES, STEPS = st.integers(0, 400), st.integers(0, 30), st.integers(1, 40)


def layout(**changes: int) -> SegmentLayout:
    values = {"max_seq_length": 64, "doc_stride": 8, "memory_num_tokens": 4}
    return SegmentLayout(**{**values, "vocab_size": 100, "pad_id": 5, "sep_id": 4, "cls_id": 3, **changes})


@given(TOKENS, STRIDES, STEPS)
def test_windows_cover_the_context_and_share_the_stride(num_tokens: int, stride: int, step: int) -> None:
    window = stride + step
    bounds = segment_bounds(num_tokens, window, stride)
    assert bounds[0, 0] == 0
    assert bounds[-1, 1] == num_tokens
    assert ((bounds[:, 1] - bounds[:, 0]) <= window).all()
    assert (bounds[:-1, 1] - bounds[1:, 0] == stride).all()
    assert (np.diff(bounds[:, 1]) > 0).all()  # every segment shows something new
    assert len(bounds) == count_segments(np.int64(num_tokens), np.int64(window), stride)


@given(TOKENS.filter(bool), STRIDES, STEPS, st.data())
def test_segments_that_hold_a_span_are_found(num_tokens: int, stride: int, step: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, num_tokens - 1))
    last = data.draw(st.integers(first, num_tokens - 1))
    bounds = segment_bounds(num_tokens, stride + step, stride)
    expected = [s for s, (start, end) in enumerate(bounds.tolist()) if start <= first and last < end]
    low, high = segments_holding(np.array([[first, last]]), np.array([len(bounds)]), np.array([stride + step]), stride)
    assert list(range(low[0], high[0] + 1)) == expected


def test_the_window_is_what_question_and_memory_leave() -> None:
    assert layout().windows(np.array([0, 10])).tolist() == [64 - 8 - 3, 64 - 10 - 8 - 3]


def test_too_little_room_is_refused_with_the_length_that_would_do() -> None:
    layout(doc_stride=8).check(44)
    with pytest.raises(
        ConfigError, match=r"leaves 8 tokens of context a segment, .* exceed doc_stride 8; give it 65 or more"
    ):
        layout().check(45)
    layout(max_seq_length=65).check(45)


def test_no_room_at_all_is_called_none() -> None:
    with pytest.raises(ConfigError, match="leaves 0 tokens of context a segment"):
        layout().check(64)


def test_a_layout_has_the_tokenizers_ids_and_the_lengths_that_are_asked_for() -> None:
    tokenizer = scratch_tokenizer(["The host is Anna.", "Who is the host?"])
    words = len(tokenizer)
    add_memory_tokens(tokenizer, 2)  # which are no part of the vocabulary of texts
    lengths = {"max_seq_length": 40, "doc_stride": 6, "memory_num_tokens": 5}
    made = make_layout(tokenizer, **lengths, max_question_length=9)
    assert made == SegmentLayout(
        **lengths,
        vocab_size=words,
        pad_id=tokenizer.convert_tokens_to_ids("<pad>"),
        sep_id=tokenizer.convert_tokens_to_ids("<sep>"),
        cls_id=tokenizer.convert_tokens_to_ids("<cls>"),
    )
    assert len({made.pad_id, made.sep_id, made.cls_id}) == 3
    assert made.lengths() == lengths
    make_layout(tokenizer, **lengths, max_question_length=20)
    with pytest.raises(ConfigError, match="max_question_length 21"):
        make_layout(tokenizer, **lengths, max_question_length=21)

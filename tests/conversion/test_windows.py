"""What is distilled on: the same tokens for teacher and student, the draws decided by seed and step."""

import numpy as np
import pytest
import torch

from gmmxlnet.conversion.windows import Windows, collate, corpus_digest, hold_out
from gmmxlnet.errors import DataError


@pytest.fixture(scope="module")
def windows(paragraphs, wordpiece):
    return Windows.of(paragraphs, wordpiece, text_type=1, seed=5)


def test_layouts_are_those_of_use_and_places_match():
    batch = collate([(np.array([11, 12, 13]), np.array([21, 22])), (np.array([14]), np.array([23]))], 2, 3, 1)
    assert batch.input_ids.tolist() == [[11, 12, 13, 3, 21, 22, 3, 2], [0, 0, 0, 14, 3, 23, 3, 2]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2], [3, 3, 3, 0, 0, 1, 1, 2]]
    assert batch.attention_mask.tolist() == [[1] * 8, [0, 0, 0, 1, 1, 1, 1, 1]]
    assert batch.teacher_ids.tolist() == [[2, 21, 22, 3, 11, 12, 13, 3], [2, 23, 3, 14, 3, 0, 0, 0]]
    assert batch.teacher_types.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]]
    assert batch.teacher_mask.tolist() == [[1] * 8, [1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch.place[0].tolist() == [4, 5, 6, 7, 1, 2, 3, 0]  # the text's <sep> is the teacher's last [SEP]
    assert batch.is_text.sum(1).tolist() == [3, 1]


@pytest.mark.parametrize("step", range(6))
def test_every_token_of_the_student_is_the_teachers_at_its_place(windows, step):
    batch = windows.draw(step, tokens=300, longest=64)
    there = batch.attention_mask.bool()
    assert torch.equal(batch.teacher_ids.gather(1, batch.place)[there], batch.input_ids[there])
    assert there.sum() == batch.teacher_mask.sum()
    assert there.numel() <= 300


def test_draws_depend_on_seed_and_step_alone(windows, paragraphs, wordpiece):
    again = Windows.of(paragraphs, wordpiece, text_type=1, seed=5)
    other = Windows.of(paragraphs, wordpiece, text_type=1, seed=6)
    ids = [w.draw(3, tokens=200, longest=64).input_ids for w in (windows, again, other)]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])
    assert not torch.equal(ids[0], windows.draw(4, tokens=200, longest=64).input_ids)


def test_questions_are_sentences_from_their_beginning(windows, wordpiece):
    starts = {int(windows.ids_T[start]) for start in windows.sentences_S2[:, 0]}
    batch = windows.draw(0, tokens=400, longest=64)
    for row, types in zip(batch.input_ids, batch.token_type_ids, strict=True):
        assert int(row[types == 1][0]) in starts
    last = [wordpiece.convert_ids_to_tokens(int(windows.ids_T[end - 1])) for end in windows.sentences_S2[:, 1]]
    assert set(last) <= {".", "?", "!"}
    assert windows.sentences_S2[-1, 1] == len(windows.ids_T)


def test_masks_hide_the_same_text_from_both(windows):
    batch = windows.draw(1, tokens=400, longest=64)
    hidden, chosen = batch.masked(4, 0.2, seed=0)
    assert 0 < chosen.sum() < batch.is_text.sum()
    assert not (chosen & ~batch.is_text).any()
    assert (hidden.input_ids[chosen] == 4).all()
    assert torch.equal(hidden.input_ids[~chosen], batch.input_ids[~chosen])
    there = batch.attention_mask.bool()
    assert torch.equal(hidden.teacher_ids.gather(1, batch.place)[there], hidden.input_ids[there])


def test_held_out_paragraphs_are_decided_by_text_and_seed(paragraphs):
    learned, heldout = hold_out(paragraphs, 1)
    assert sorted(learned + heldout) == sorted(paragraphs)
    assert len(heldout) == len(paragraphs) // 20
    assert set(hold_out(paragraphs[::-1], 1)[1]) == set(heldout)
    assert set(hold_out(paragraphs, 2)[1]) != set(heldout)
    assert corpus_digest(paragraphs) != corpus_digest(paragraphs[::-1])


def test_too_little_text_is_refused(wordpiece):
    with pytest.raises(DataError, match=r"1 sentences, which is too little"):
        Windows.of(["one sentence only."], wordpiece, text_type=1, seed=0)

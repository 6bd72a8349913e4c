"""What is measured: 1 for the same function, less for another, by layer, by distance and under masks."""

import pytest
import torch

from gmmxlnet.conversion.algebra import student_config, transplant
from gmmxlnet.conversion.families import read_teacher
from gmmxlnet.conversion.report import heldout_batches, measure
from gmmxlnet.conversion.windows import Windows
from gmmxlnet.models.encoder import XLNetEncoder


@pytest.fixture
def exact(bert_folder, paragraphs):
    """(teacher without positions and types, the XLNet that is the same function, constants, held-out batches)."""
    teacher = read_teacher(str(bert_folder))
    with torch.no_grad():
        teacher.model.embeddings.position_embeddings.weight.zero_()
        teacher.model.embeddings.token_type_embeddings.weight.zero_()
    config = student_config(
        teacher.config, vocab_size=teacher.config.vocab_size, clamp_len=95, pad_token_id=0, sep_token_id=3
    )
    encoder = XLNetEncoder(config).eval()
    shift_Nd = transplant(teacher.model, encoder, ridge=0.0, positions=[0], token_type=0)
    windows = Windows.of(paragraphs[:20], teacher.tokenizer, text_type=1, seed=1)
    return teacher, encoder, shift_Nd, heldout_batches(windows, 120)


@pytest.mark.parametrize("with_head", [True, False])
def test_the_same_function_has_cosine_one_and_reads_the_same_words(exact, with_head):
    teacher, encoder, shift_Nd, batches = exact
    if not with_head:
        object.__setattr__(teacher, "head", None)
    found = measure(teacher, encoder, shift_Nd, batches)
    assert found["cosine_by_layer"] == [1.0] * 4
    assert found["cosine_by_distance"] == {"<cls>": 1.0, "question": 1.0, "text 0-63": 1.0, "text 64-127": 1.0}
    words = found["masked_words"]
    assert words["same_word"] == 1.0
    assert ("teacher_right" in words) == with_head
    assert words.get("teacher_right") == words.get("student_right")
    assert words["tokens"] > 100


def test_a_difference_shows_in_its_layer_and_after_it(exact):
    teacher, encoder, shift_Nd, batches = exact
    with torch.no_grad():
        encoder.layers[1].outer.weight.mul_(3)
    found = measure(teacher, encoder, shift_Nd, batches)
    assert found["cosine_by_layer"][:2] == [1.0, 1.0]
    assert max(found["cosine_by_layer"][2:]) < 0.99
    assert found["masked_words"]["same_word"] < 1


def test_a_difference_at_a_distance_shows_there(exact):
    teacher, encoder, shift_Nd, batches = exact
    far = max(batches, key=lambda batch: batch.input_ids.shape[1])
    ids = far.input_ids.clone()
    ids[:, :8] = 1  # the first tokens of the text are others for the student
    found = measure(teacher, encoder, shift_Nd, [type(far)(**{**vars(far), "input_ids": ids})])
    by_distance = found["cosine_by_distance"]
    assert by_distance["text 64-127"] < min(by_distance["text 0-63"], by_distance["question"])

"""What is masked: contiguous spans, the share asked for, and the same of the same seed, epoch and window."""

import numpy as np
import pytest
import torch

from gmmxlnet.errors import ConfigError
from gmmxlnet.pretraining.masking import LONGEST_SPAN, MaskedSpanCollator, choose_spans

SEP, CLS, MASK, V = 1, 2, 3, 1000


def collator(**other):
    tokens = np.arange(4, 904, dtype=np.uint16)
    ids = {"vocab_size": V, "mask_id": MASK, "sep_id": SEP, "cls_id": CLS}
    return MaskedSpanCollator(**{"tokens": tokens, "length": 64, "mask_share": 0.15, "seed": 0, **ids, **other})


def test_spans_cover_the_share_and_never_overlap():
    for seed in range(50):
        spans = choose_spans(np.random.default_rng(seed), 100, 0.15)
        tokens = [token for first, end in spans for token in range(first, end)]
        assert len(tokens) == len(set(tokens)) == 15
        assert all(0 <= first < end <= 100 and end - first <= LONGEST_SPAN for first, end in spans)


def test_labels_are_the_words_that_stood_there():
    batch = collator()(range(13))
    chosen = batch["labels"] >= 0
    assert chosen.sum(1).tolist() == [round(0.15 * 61)] * 13
    structure = (batch["input_ids"] == SEP) | (batch["input_ids"] == CLS)
    truth = torch.where(chosen, batch["labels"], batch["input_ids"])
    for row, marks in zip(truth, structure & ~chosen, strict=True):
        words = row[~marks]
        assert torch.equal(words, torch.arange(int(words[0]), int(words[0]) + 61))  # a run of the corpus, whole


def test_most_spans_are_masked_some_are_random_and_some_stay():
    batch = collator(tokens=np.arange(4, 60_904, dtype=np.uint16), vocab_size=65_000)(range(900))
    shown, truth = (batch[name][batch["labels"] >= 0] for name in ("input_ids", "labels"))
    shares = [(shown == MASK).float().mean(), (shown == truth).float().mean()]
    assert shares[0] == pytest.approx(0.8, abs=0.03)
    assert shares[1] == pytest.approx(0.1, abs=0.03)


def test_a_window_ends_as_a_segment_does():
    batch = collator()(range(5))
    assert batch["input_ids"][:, -2:].tolist() == [[SEP, CLS]] * 5
    for types in batch["token_type_ids"]:
        assert torch.equal(types, types.sort().values)
        assert int(types[-1]) == 2
        assert (types == 0).sum() >= (types == 1).sum() - 1


def test_every_draw_is_a_function_of_seed_epoch_and_window():
    first = collator()([3])
    assert all(torch.equal(first[name], collator()([1, 3])[name][1:]) for name in first)
    for other in ({"seed": 1}, {"epoch": 1}):
        assert not torch.equal(first["input_ids"], collator(**other)([3])["input_ids"])


def test_too_little_text_is_refused():
    with pytest.raises(ConfigError, match="fewer than two windows of 512; give more text"):
        collator(length=512)

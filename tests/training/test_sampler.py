"""Batches of documents: each document once an epoch, like beside like, in an order that seed and epoch decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmxlnet.training.sampler import POOL_BATCHES, DocumentBatchSampler


def sampler(num_documents, batch_size=4, seed=0, epoch=0, lengths_seed=0):
    rng = np.random.default_rng(lengths_seed)
    num_segments = rng.integers(1, 9, num_documents)
    made = DocumentBatchSampler(num_segments, 50 * num_segments + rng.integers(0, 50, num_documents), batch_size, seed)
    made.set_epoch(epoch)
    return made


@given(st.integers(1, 400), st.integers(1, 7), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=30)
def test_every_document_comes_once_an_epoch(num_documents, batch_size, seed, epoch):
    made = sampler(num_documents, batch_size, seed, epoch)
    batches = list(made)
    assert sorted(index for batch in batches for index in batch) == list(range(num_documents))
    assert len(batches) == len(made) == -(-num_documents // batch_size)
    assert max(map(len, batches)) <= batch_size
    assert all(type(index) is int for batch in batches for index in batch)


@pytest.mark.parametrize("num_documents", [100, 1000, 4 * POOL_BATCHES, 4 * POOL_BATCHES + 1, 257])
def test_there_are_as_many_batches_as_it_says(num_documents):
    made = sampler(num_documents)
    assert len(list(made)) == len(made)


def test_seed_and_epoch_decide_the_order():
    first = list(sampler(200))
    assert list(sampler(200)) == first
    made = sampler(200)
    assert [list(made), list(made)] == [first, first]  # nothing is used up
    assert list(sampler(200, epoch=1)) != first
    assert list(sampler(200, seed=1)) != first
    made.set_epoch(1)
    assert list(made) == list(sampler(200, epoch=1))
    made = DocumentBatchSampler(made.num_segments, made.num_tokens, 4, seed=0)
    assert list(made) == first  # the first epoch is 0
    assert made.drop_last is False  # or accelerate would drop documents


def test_neither_mates_nor_places_are_fixed():
    mates = [{frozenset(batch) for batch in sampler(600, epoch=epoch)} for epoch in (0, 1)]
    assert len(mates[0] & mates[1]) < len(mates[0]) / 4
    made = sampler(600)
    segments = [made.num_segments[batch].mean() for batch in made]
    assert abs(np.corrcoef(segments, range(len(segments)))[0, 1]) < 0.3  # short documents do not come first


def test_documents_of_like_length_come_together():
    made = sampler(1000)
    padded = sum(len(batch) * made.num_segments[batch].max() for batch in made)
    shuffled = np.random.default_rng(0).permutation(1000).reshape(-1, 4)
    by_chance = sum(4 * made.num_segments[batch].max() for batch in shuffled)
    assert padded < 1.1 * made.num_segments.sum() < by_chance
    spread = [np.ptp(made.num_tokens[batch]) for batch in made if np.ptp(made.num_segments[batch]) == 0]
    assert np.mean(spread) < 15  # of 50

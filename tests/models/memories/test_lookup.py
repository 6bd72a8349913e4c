"""Tokens look the memory up: what a word finds, what it must not find, and that a memory with both words is enough."""

import pytest
import torch

from gmmxlnet.models.memories.lookup import MemoryLookup

NORM = torch.tensor(2.0)


@pytest.fixture
def lookup(tiny_model):
    torch.manual_seed(0)
    made = MemoryLookup(tiny_model("token", 1).config)
    made.initialize(tiny_model("token", 1).config)
    made.projection.weight.data = torch.eye(made.projection.in_features)
    return made


def axis(size, *places):
    """Equal parts of these axes, at the length NORM."""
    vector = torch.zeros(size)
    vector[list(places)] = 1.0
    return NORM * vector / vector.norm()


def test_a_word_finds_the_slot_that_holds_it_and_so_the_word_that_is_stored_with_it(lookup):
    d = lookup.projection.in_features
    slots = torch.stack([axis(d, 0, 1), axis(d, 2, 3)])[None]  # two pairs of words
    found = lookup(torch.stack([axis(d, 0), axis(d, 3), axis(d, 5)])[None], slots, NORM)[0]
    matching, other = lookup.sharpness * 0.5**0.5, 0.0
    total = sum(torch.tensor([matching, other, lookup.sharpness / 2]).exp())
    share, rest = torch.tensor(matching).exp() / total, torch.tensor(other).exp() / total
    torch.testing.assert_close(found[0], share * slots[0, 0] + rest * slots[0, 1])
    assert torch.nn.functional.cosine_similarity(found[1], slots[0, 1], dim=0) > 0.99
    assert share > 0.8
    assert found[2].norm() < 0.05 * NORM  # nothing matches: the empty slot is read


def test_a_slot_that_may_not_be_read_is_not_found(lookup):
    d = lookup.projection.in_features
    slots = torch.stack([axis(d, 0, 1), axis(d, 0, 2)])[None]
    readable = torch.tensor([[False, True]])
    both, one = (lookup(axis(d, 0)[None, None], slots, NORM, mask)[0, 0].tolist() for mask in (None, readable))
    assert both[1] == pytest.approx(both[2])
    assert one[1] == 0
    assert one[2] > both[2]
    assert not lookup(axis(d, 0)[None, None], slots, NORM, torch.zeros(1, 2, dtype=torch.bool)).any()


@pytest.mark.parametrize("kind", ["token", "gmm"])
def test_only_the_documents_words_look_up_and_not_if_the_memory_is_zeroed(tiny_model, batch_of, kind):
    model = tiny_model(kind, 3 if kind == "gmm" else 1, memory_lookup=True).eval()
    batch = batch_of([[([11, 12, 13], [55]), ([14, 11], [55])]])
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "num_segments")}
    asked = []
    model.memory_lookup.register_forward_hook(lambda _, inputs, found: asked.append((inputs[0].shape, found)))
    normal, zeroed = model(**batch), model(**batch, memory_ablation="zeroed")
    assert len(asked) == 2  # two segments of the normal reading
    with torch.no_grad():
        model.memory_lookup.projection.weight.zero_()
    blind = model(**batch)
    assert not torch.allclose(normal.start_logits, blind.start_logits)
    assert not torch.allclose(normal.start_logits, zeroed.start_logits)


def test_an_expert_that_is_left_out_is_not_looked_up(tiny_model, batch_of):
    """After the first segment, its memory can be anything."""
    model = tiny_model("gmm", 3, memory_lookup=True).eval()
    batch = batch_of([[([11, 12, 13], [55]), ([14, 11], [55]), ([12, 14], [55])]])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "num_segments")}
    seen = []
    original = model.memory_lookup.forward

    def spoiled(embedding, vectors, norm, readable):
        if len(seen):  # the first segment reads the initial memories of all
            m = model.config.memory_slots
            assert readable.tolist() == [[True] * m + [False] * m + [True] * m]
            vectors = vectors.clone()
            vectors[:, m : 2 * m] = 100.0
        seen.append(original(embedding, vectors, norm, readable))
        return seen[-1]

    plain = model(**inputs, routing_ablation="without_expert_1").start_logits
    model.memory_lookup.forward = spoiled
    torch.testing.assert_close(model(**inputs, routing_ablation="without_expert_1").start_logits, plain)
    assert len(seen) == 3

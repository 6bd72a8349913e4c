"""Each part of the loss, against values worked out by hand."""

import math

import pytest
import torch

from gmmxlnet.models.losses import (
    association_loss,
    document_span_loss,
    load_balance_loss,
    reconstruction_loss,
    routing_entropy,
    segment_span_loss,
    slot_scores,
)
from gmmxlnet.models.memory_targets import word_counts


def span_inputs(B, S, L, seed=0):
    """Random logits; the first token is padding, the last is <cls>, the one before it no candidate."""
    logits = torch.randn(B, S, L, generator=torch.Generator().manual_seed(seed))
    candidates, cls = torch.ones(B, S, L, dtype=torch.bool), torch.zeros(B, S, L, dtype=torch.bool)
    candidates[..., 0] = candidates[..., -2] = False
    cls[..., -1] = True
    return logits, candidates, cls


def test_segment_loss_is_the_mean_cross_entropy_over_candidates():
    logits, candidates, _ = span_inputs(1, 2, 5)
    expected = 0.0
    for row, position in ((logits[0, 0], 2), (logits[0, 1], 4)):
        weights = [math.exp(row[p]) for p in (1, 2, 4)]
        expected -= math.log(math.exp(row[position]) / sum(weights)) / 2
    loss = segment_span_loss(logits[0], torch.tensor([2, 4]), candidates[0])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_logits_that_may_not_be_chosen_play_no_part():
    logits, candidates, cls = span_inputs(2, 2, 6)
    positions = torch.tensor([[1, 5], [5, 5]])
    other = torch.where(candidates, logits, 50.0)
    for loss in (
        lambda x: segment_span_loss(x[0], positions[0], candidates[0]),
        lambda x: document_span_loss(x, positions, candidates, cls),
    ):
        assert loss(other).item() == loss(logits).item()


def test_document_loss_of_one_segment_is_the_segment_loss():
    logits, candidates, cls = span_inputs(4, 1, 7)
    positions = torch.tensor([[1], [4], [6], [2]])
    of_document = document_span_loss(logits, positions, candidates, cls)
    assert of_document.item() == pytest.approx(
        segment_span_loss(logits[:, 0], positions[:, 0], candidates[:, 0]).item(), rel=1e-6
    )


@pytest.mark.parametrize(
    ("positions", "share"),
    [
        ([[2, 5, 5]], 1 / 12),  # one segment holds the answer; the others' <cls> is not right
        ([[3, 1, 5]], 2 / 12),  # two windows overlap: either will do
        ([[5, 5, 5]], 3 / 12),  # no answer: any <cls>
        ([[5, 5, -100]], 2 / 12),  # only labels count
    ],
)
def test_document_loss_on_equal_logits_counts_right_candidates(positions, share):
    logits, candidates, cls = span_inputs(1, 3, 6)
    loss = document_span_loss(torch.zeros_like(logits), torch.tensor(positions), candidates, cls)
    assert loss.item() == pytest.approx(-math.log(share), rel=1e-5)


def test_document_loss_by_hand():
    logits, candidates, cls = span_inputs(2, 2, 5, seed=1)
    positions = torch.tensor([[1, 2], [4, 4]])
    expected = 0.0
    for b, right in ((0, [(0, 1), (1, 2)]), (1, [(0, 4), (1, 4)])):
        total = sum(math.exp(logits[b, s, p]) for s in range(2) for p in (1, 2, 4))
        expected -= math.log(sum(math.exp(logits[b, s, p]) for s, p in right) / total) / 2
    assert document_span_loss(logits, positions, candidates, cls).item() == pytest.approx(expected, rel=1e-5)


def test_without_candidates_losses_and_gradients_are_finite():
    logits, candidates, cls = span_inputs(1, 2, 4)
    nothing = torch.zeros_like(candidates)
    for positions in (torch.tensor([[3, 3]]), torch.tensor([[3, -100]])):
        leaf = logits.clone().requires_grad_()
        losses = document_span_loss(leaf, positions, nothing, cls), segment_span_loss(leaf[0], positions[0], nothing[0])
        sum(losses).backward()
        assert torch.stack(losses).isfinite().all()
        assert leaf.grad.isfinite().all()


def test_losses_of_half_precision_logits_are_float32():
    logits, candidates, cls = span_inputs(1, 2, 5)
    assert segment_span_loss(logits[0].bfloat16(), torch.tensor([1, 2]), candidates[0]).dtype == torch.float32
    assert document_span_loss(logits.bfloat16(), torch.tensor([[1, 2]]), candidates, cls).dtype == torch.float32


@pytest.mark.parametrize("k", [2, 4, 8])
def test_load_balance_is_1_when_balanced_and_k_when_collapsed(k):
    assert load_balance_loss([torch.eye(k)]).item() == pytest.approx(1)
    assert load_balance_loss([torch.full((5, k), 1 / k)]).item() == pytest.approx(1)
    assert load_balance_loss([torch.eye(k)[:1].expand(6, k)]).item() == pytest.approx(k)


def test_load_balance_by_hand():
    probs = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    assert load_balance_loss([probs]).item() == pytest.approx(2 * (2 / 3 * 0.5 + 1 / 3 * 0.5))
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]])
    assert load_balance_loss([probs]).item() == pytest.approx(2 * (2 / 3 * 0.7 + 1 / 3 * 0.3))


def test_load_balance_is_asked_of_every_step_by_the_number_of_its_documents():
    first, second = torch.eye(2)[:1].expand(3, 2), torch.eye(2)[1:]  # balanced together, collapsed each
    assert load_balance_loss([first, second]).item() == pytest.approx(2)
    assert load_balance_loss([first, torch.eye(2)]).item() == pytest.approx((3 * 2 + 2 * 1) / 5)


def test_load_balance_takes_the_choices_of_the_whole_batch_where_it_has_a_part():
    probs, shares = torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0.25, 0.75])
    assert load_balance_loss([probs], [shares]).item() == pytest.approx(2 * (0.25 * 0.85 + 0.75 * 0.15))


def test_load_balance_pushes_towards_the_unused_expert():
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2]], requires_grad=True)
    load_balance_loss([probs]).backward()
    assert (probs.grad[:, 0] > probs.grad[:, 1]).all()


def test_entropy_goes_from_0_to_log_k():
    probs = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]])
    assert routing_entropy(probs).tolist() == pytest.approx([0, math.log(4), math.log(2)])


def test_entropy_of_a_probability_of_zero_has_a_finite_gradient():
    probs = torch.tensor([[[1.0, 0, 0], [0.5, 0.25, 0.25]]], requires_grad=True)
    entropy = routing_entropy(probs)
    assert entropy.detach() == pytest.approx(torch.tensor([[0, 1.5 * math.log(2)]]))
    entropy.sum().backward()
    assert probs.grad.isfinite().all()


V = 6
SHARPNESS = 8.0
NORM = torch.tensor(3.0)
WORDS = NORM * torch.eye(V)  # embeddings of length `norm`, at right angles


def told(vectors, ids, content):
    return reconstruction_loss(scores_of(torch.stack(vectors)[None]), counts([ids], [content])).item()


def scores_of(vectors, words=WORDS):
    return slot_scores(vectors, words, NORM, sharpness=SHARPNESS)


def counts(ids, content):
    return word_counts(torch.tensor(ids), torch.tensor(content, dtype=torch.bool), V)


def test_reconstruction_by_hand():
    high = math.exp(SHARPNESS) / (math.exp(SHARPNESS) + V - 1)
    low = 1 / (math.exp(SHARPNESS) + V - 1)
    ids, content = [1, 2, 5], [1, 1, 0]
    assert told([WORDS[1], WORDS[2]], ids, content) == pytest.approx(-math.log((high + low) / 2), rel=1e-5)
    one_of_two = -(math.log(high) + math.log(low)) / 2
    assert told([WORDS[1], WORDS[1]], ids, content) == pytest.approx(one_of_two, rel=1e-5)
    assert told([torch.zeros(V)] * 2, ids, content) == pytest.approx(math.log(V), rel=1e-5)
    repeated = -(2 * math.log(high) + math.log(low)) / 3  # a word that stands twice counts twice
    assert told([WORDS[1], WORDS[1]], [1, 2, 1], [1, 1, 1]) == pytest.approx(repeated, rel=1e-5)


def test_reconstruction_is_lower_the_more_the_memory_tells():
    ids, content = [1, 2, 3], [1, 1, 1]
    all_, some, none = ([WORDS[i] for i in slots] for slots in ((1, 2, 3), (1, 2, 2), (4, 5, 4)))
    assert told(all_, ids, content) < told(some, ids, content) < told(none, ids, content)


def test_reconstruction_asks_for_content_alone_and_weighs_segments_alike():
    vectors = [WORDS[1] + WORDS[3], WORDS[2]]
    expected = told(vectors, [1, 2], [1, 1])
    assert told(vectors, [5, 1, 4, 2, 63], [0, 1, 0, 1, 0]) == pytest.approx(expected)  # ids beyond V are structure
    long, short = ([1, 3, 1, 3, 1], [1] * 5), ([2, 5, 5, 5, 5], [1, 0, 0, 0, 0])
    both = reconstruction_loss(
        scores_of(torch.stack(vectors).expand(2, -1, -1)),
        counts([long[0], short[0]], [long[1], short[1]]),
    )
    assert both.item() == pytest.approx((told(vectors, *long) + told(vectors, *short)) / 2)
    assert told(vectors, [5, 5], [0, 0]) == 0


def test_reconstruction_teaches_vectors_and_words_but_not_the_length():
    vectors, words, norm = torch.randn(1, 2, V, requires_grad=True), WORDS.clone().requires_grad_(), NORM.clone()
    norm.requires_grad_()
    reconstruction_loss(slot_scores(vectors, words, norm, SHARPNESS), counts([[1, 2]], [[1, 1]])).backward()
    assert vectors.grad.any()
    assert words.grad.any()
    assert norm.grad is None


def association_by_hand(scores_mV, address, word, neighbors, counts):
    """-log Σ_s softmax_s(address_s) · P_s(word | no neighbor), in plain Python."""
    given = [v for v, counted in zip(neighbors, counts, strict=True) if counted]
    total = sum(math.exp(a) for a in address)
    likelihood = 0.0
    for a, row in zip(address, scores_mV, strict=True):
        others = sum(math.exp(x) for v, x in enumerate(row) if v not in given)
        likelihood += math.exp(a) / total * math.exp(row[word]) / others
    return -math.log(likelihood)


def test_association_by_hand():
    scores = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(3))
    words = torch.tensor([[1, 2], [4, 0]])
    neighbors = torch.tensor([[[3, 5, 0], [1, 6, 0]], [[2, 5, 3], [1, 1, 1]]])
    counts = torch.tensor([[[1, 1, 0], [1, 1, 1]], [[1, 0, 1], [0, 0, 0]]]).bool()
    address = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(4))
    weight = torch.tensor([[2.0, 0.5], [1.5, 0.0]])
    each = [
        [
            association_by_hand(
                scores[b].tolist(), address[b, :, t].tolist(), words[b, t], neighbors[b, t].tolist(), counts[b, t]
            )
            for t in (0, 1)
        ]
        for b in (0, 1)
    ]
    expected = torch.tensor([(2.0 * each[0][0] + 0.5 * each[0][1]) / 2.5, each[1][0]])
    loss = association_loss(scores, address, words, weight, neighbors, counts)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert association_loss(scores, address, words, 0 * weight, neighbors, counts).tolist() == [0, 0]


def test_association_asks_for_words_that_are_stored_together():
    """Four slots with the words of two facts, (1, 2) and (3, 4); each word is the other's only neighbor."""
    words, neighbors = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[[2], [1], [4], [3]]])
    weight, counts = torch.ones(1, 4), torch.ones(1, 4, 1).bool()

    def loss(*slots):
        vectors = torch.stack([sum(WORDS[v] for v in slot) / len(slot) ** 0.5 for slot in slots])[None]
        scores, address = scores_of(vectors), scores_of(vectors, WORDS[neighbors[0, :, 0]])
        return association_loss(scores, address, words, weight, neighbors, counts).item()

    together, apart, mixed = loss((1, 2), (3, 4)), loss((1, 4), (3, 2)), loss((1,), (2,), (3,), (4,))
    assert together < 0.1
    assert min(apart, mixed) > 1.5


def test_association_of_a_word_that_only_neighbors_leave_no_room_for_is_finite():
    """All probability is the neighbors', to float's precision."""
    scores = torch.tensor([[[-60.0, 0.0, -60.0, -60.0]]], requires_grad=True)
    words, neighbors, counts = torch.tensor([[0]]), torch.tensor([[[1]]]), torch.ones(1, 1, 1).bool()
    loss = association_loss(scores, torch.zeros(1, 1, 1), words, torch.ones(1, 1), neighbors, counts)
    loss.sum().backward()
    assert 0 < loss.item() < 100
    assert scores.grad.isfinite().all()

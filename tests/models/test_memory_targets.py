"""What the memory is asked for: words that recur, and the words around them, by hand."""

import math
from dataclasses import replace

import pytest
import torch

from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.losses import slot_scores
from gmmxlnet.models.memory_targets import (
    NEIGHBOR_DISTANCE,
    Associations,
    MemoryTargets,
    RecurringWords,
    neighbors_of,
    new_content,
    word_counts,
)
from gmmxlnet.models.recurrence import Segment

SEP, CLS, WORDS, M = 0, 1, 12, 2
SETTINGS = {
    **{"vocab_size": WORDS + 2 * M, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "sep_token_id": SEP},
    **{"memory_type": "token", "memory_slots": M},
}
CONFIG = GMMXLNetConfig(**SETTINGS)


def segment(*contexts, question=9, offsets=None, number=0):
    """Documents' contexts of word ids, with structure around them, padded on the left."""
    width = max(map(len, contexts))
    ending = [WORDS + M, WORDS + M + 1, SEP, WORDS, WORDS + 1, question, SEP, CLS]
    types = [0, 0, 0, 1, 1, 1, 1, 2]
    rows = [(width - len(context), list(context)) for context in contexts]
    return Segment(
        torch.tensor([[5] * blank + context + ending for blank, context in rows]),
        torch.tensor([[0] * blank + [1] * (len(context) + len(ending)) for blank, context in rows]),
        torch.tensor([[3] * blank + [0] * len(context) + types for blank, context in rows]),
        offsets_n=None if offsets is None else torch.tensor(offsets),
        number=number,
    )


def test_counts_leave_out_what_does_not_count():
    counted = torch.tensor([[True, True, False, True]])
    assert word_counts(torch.tensor([[2, 3, 1, 2]]), counted, 4).tolist() == [[0, 0, 2, 1]]


def test_a_word_is_asked_for_from_its_first_segment_until_its_last():
    segments = [
        segment([2, 3, 4], [2, 6, 7]),
        segment([2, 5], [2, 7]),
        segment([2, 3, 3], [2, 8]),
        segment([2, 4]),
    ]
    words = RecurringWords.of(segments, CONFIG)
    weight = {2: math.log(7 / 7), 3: math.log(7 / 2), 4: math.log(7 / 2), 7: math.log(7 / 2)}
    expected = [
        ({3, 4}, {7}),  # 6 is not said again, 2 stands everywhere, 9 is a question's word
        ({3, 4}, set()),
        ({4}, set()),
        (set(),),
    ]
    for s, sets in enumerate(expected):
        targets = words.targets(s, len(sets))
        assert targets.shape == (len(sets), WORDS)
        for row, asked in zip(targets, sets, strict=True):
            assert row.tolist() == pytest.approx([weight[v] if v in asked else 0 for v in range(WORDS)], abs=1e-6)


def test_what_two_windows_share_does_not_recur():
    first, second = [2, 3, 4, 5], [4, 5, 6, 3]
    overlapping = [segment(first, [7, 8, 9], offsets=[0, 0]), segment(second, [8, 9], offsets=[2, 1], number=1)]
    assert [x.sum().item() for x in new_content(overlapping, CONFIG)] == [7, 2]
    asked = RecurringWords.of(overlapping, CONFIG).targets(0, 2) > 0
    assert asked.nonzero().tolist() == [[0, 3]]
    apart = [segment(first, number=0), segment(second, number=1)]
    assert (apart[0].number, new_content(apart, CONFIG)[1].sum().item()) == (0, 4)


def test_rarity_is_that_of_all_processes():
    segments = [segment([2, 3]), segment([2, 3])]
    doubled = RecurringWords.of(segments, CONFIG, lambda own: own + torch.tensor([0.0] * WORDS + [2.0]))
    assert doubled.weight_V[2].item() == pytest.approx(math.log(4 / 2))
    assert RecurringWords.of(segments, CONFIG).weight_V[2].item() == 0


def parts_of(*contexts, offsets=None, **settings):
    """The model's loss terms on one document."""
    torch.manual_seed(0)
    config = GMMXLNetConfig(**SETTINGS | {"memory_reconstruction_weight": 1.0} | settings)
    segments = [segment(context) for context in contexts]
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = {name: torch.stack([getattr(one, f"{name}_nL") for one in segments], 1) for name in names}
    labels = torch.full((1, len(contexts)), batch["input_ids"].shape[-1] - 1)
    offsets = None if offsets is None else torch.tensor([offsets])
    output = GMMXLNetForQA(config)(**batch, start_positions=labels, end_positions=labels, segment_offsets=offsets)
    return output.loss_parts


def reconstruction(*contexts, **how):
    """The model's reconstruction loss on one document."""
    return parts_of(*contexts, **how)["reconstruction"].item()


@pytest.mark.parametrize("kind", [{}, {"memory_type": "gmm", "num_memory_experts": 2}])
def test_the_model_asks_for_what_recurs_or_for_what_it_has_just_read(kind):
    assert reconstruction([2, 3, 4], [5, 6, 7], [8, 9, 8], **kind) == 0
    assert reconstruction([2, 3, 4], [5, 6, 7], [8, 2, 8], **kind) > 0
    assert reconstruction([2, 3, 4], [5, 6, 7], [8, 9, 8], memory_reconstruction_target="segment", **kind) > 0
    assert reconstruction([2, 3, 4], [4, 6, 7], [8, 9, 8], offsets=[0, 2, 5], **kind) == 0
    assert reconstruction([2, 3, 4], [4, 6, 7], [8, 9, 8], offsets=[0, 3, 6], **kind) > 0


def test_neighbors_are_the_other_words_nearby():
    words = torch.tensor([[7, 2, 3, 2, 4, 5, 6]])
    content = torch.tensor([[0, 1, 1, 1, 1, 1, 1]]).bool()
    neighbors, counts = neighbors_of(words, content)
    near = [row[mask].tolist() for row, mask in zip(neighbors[0], counts[0], strict=True)]
    assert NEIGHBOR_DISTANCE == 3
    assert near[1] == [3, 4]  # its own word does not count
    assert near[4] == [2, 3, 5, 6]  # equal neighbors count once
    assert near[6] == [2, 4, 5]


EMBEDDING = torch.randn(WORDS, 8, generator=torch.Generator().manual_seed(1))
NORM = torch.tensor([1.5])


def test_the_memory_is_asked_for_recurring_words_by_their_neighbors():
    segments = [
        segment([2, 3, 4, 6], [5, 7, 8, 8], number=0),
        segment([3, 9, 10, 9], [7, 2, 9, 10], number=1),
        segment([3, 2, 11, 11], number=2),
    ]
    recurring = RecurringWords.of(segments, CONFIG)
    associations = Associations.of(segments, recurring, CONFIG, EMBEDDING, NORM)
    vectors = torch.nn.functional.normalize(torch.randn(2, M, 8), dim=-1) * NORM
    scores = slot_scores(vectors, EMBEDDING, NORM, CONFIG.memory_word_sharpness)

    def by_hand(row, wanted):
        """The mean over (word, neighbors) pairs of one document, addressed by the cosine with the neighbors' sum."""
        total = mass = 0.0
        for word, near in wanted:
            sum_d = sum(recurring.weight_V[v] * EMBEDDING[v] for v in near)
            address = 8 * torch.nn.functional.cosine_similarity(vectors[row], sum_d[None], dim=-1)
            others = [v for v in range(WORDS) if v not in near]
            probs = scores[row].exp() / scores[row][:, others].exp().sum(-1, keepdim=True)
            weight = recurring.weight_V[word]
            total -= weight * (address.softmax(0) * probs[:, word]).sum().log()
            mass += weight
        return (total / mass).item()

    first = associations.loss(segments[0], vectors, scores)
    assert first[0].item() == pytest.approx(by_hand(0, [(2, [3, 4, 6]), (3, [2, 4, 6])]), rel=1e-4)
    assert first[1].item() == pytest.approx(by_hand(1, [(7, [5, 8])]), rel=1e-4)
    second = associations.loss(segments[1], vectors, scores)
    wanted = [(2, [3, 4, 6]), (3, [2, 4, 6]), (3, [9, 10])]  # of both segments read so far
    assert second[0].item() == pytest.approx(by_hand(0, wanted), rel=1e-4)
    assert second[1].item() == 0
    assert associations.loss(segments[2], vectors[:1], scores[:1]).tolist() == [0]


@pytest.mark.parametrize(("bptt_segments", "first"), [(None, 0), (1, 2), (2, 2), (3, 0)])
def test_only_what_gradients_can_reach_is_asked_for(bptt_segments, first):
    """After segment 2 of four: the words of the segments since gradients were last cut."""
    contexts = [[2, 3, 4], [5, 6, 7], [3, 8, 9], [2, 3, 5, 8]]
    segments = [segment(context + [10] * (4 - len(context)), number=s) for s, context in enumerate(contexts)]
    recurring = RecurringWords.of(segments, CONFIG)
    config = GMMXLNetConfig(**SETTINGS, bptt_segments=bptt_segments)
    associations = Associations.of(segments, recurring, config, EMBEDDING, NORM)
    vectors = torch.nn.functional.normalize(torch.randn(1, M, 8), dim=-1) * NORM
    scores = slot_scores(vectors, EMBEDDING, NORM, CONFIG.memory_word_sharpness)
    given = associations.loss(segments[2], vectors, scores)
    length = segments[0].input_ids_nL.shape[1]
    before = torch.arange(associations.new_BT.shape[1])[None] < first * length
    all_asked = Associations.of(segments, recurring, CONFIG, EMBEDDING, NORM)
    by_hand = replace(all_asked, new_BT=all_asked.new_BT & ~before).loss(segments[2], vectors, scores)
    assert given.item() == pytest.approx(by_hand.item(), rel=1e-6)
    if first:
        assert given.item() != pytest.approx(all_asked.loss(segments[2], vectors, scores).item(), rel=1e-3)


def test_each_loss_has_its_own_targets():
    """Associations ask for what recurs; reconstruction beside them for what was just read if that is its target."""
    segments = [segment([2, 3, 4]), segment([3, 5, 6], number=1), segment([7, 8, 9], number=2)]
    vectors = torch.nn.functional.normalize(torch.randn(3, M, 8), dim=-1) * NORM
    scores = slot_scores(vectors, EMBEDDING, NORM, CONFIG.memory_word_sharpness)

    def losses(**settings):
        config = GMMXLNetConfig(**SETTINGS | {"memory_reconstruction_weight": 1.0} | settings)
        targets = MemoryTargets.of(segments, config, EMBEDDING, NORM)
        return {name: loss.item() for name, loss in targets.losses(segments, vectors, scores).items()}

    read, recurring = (losses(memory_reconstruction_target=target) for target in ("segment", "recurring"))
    assert read["reconstruction"] != pytest.approx(recurring["reconstruction"], rel=1e-3)
    for target, alone in (("segment", read), ("recurring", recurring)):
        both = losses(memory_reconstruction_target=target, memory_association_weight=1.0)
        assert both["reconstruction"] == alone["reconstruction"]
        assert both["association"] > 0


def test_targets_are_of_all_processes():
    elsewhere = torch.tensor([0.0] * 2 + [9.0] + [0.0] * (WORDS - 3) + [9.0])  # word 2, in all of 9 segments
    segments = [segment([2, 3]), segment([2, 4], number=1), segment([5, 6], number=2)]
    targets = MemoryTargets.of(segments, CONFIG, EMBEDDING, NORM, lambda own: own + elsewhere)
    assert targets.recurring.weight_V[2].item() == pytest.approx(math.log(12 / 11))


def test_the_cue_has_no_gradient():
    segments = [segment([2, 3, 4]), segment([3, 5], number=1)]
    embedding, norm = EMBEDDING.clone().requires_grad_(), NORM.clone().requires_grad_()
    associations = Associations.of(segments, RecurringWords.of(segments, CONFIG), CONFIG, embedding, norm)
    assert not associations.cue_BTd.requires_grad


def association(*contexts, **settings):
    """The model's association loss on one document."""
    return parts_of(*contexts, memory_association_weight=1.0, **settings)["association"].item()


@pytest.mark.parametrize("kind", [{}, {"memory_type": "gmm", "num_memory_experts": 2}])
def test_the_model_asks_for_associations_when_they_have_a_weight(kind):
    assert association([2, 3, 4], [5, 6, 7], [8, 2, 8], **kind) > 0
    assert association([2, 3, 4], [5, 6, 7], [8, 9, 8], **kind) == 0
    parts = parts_of([2, 3, 4], [5, 2, 7], **kind)
    assert "association" not in parts
    only = parts_of([2, 3, 4], [5, 2, 7], memory_association_weight=1.0, memory_reconstruction_weight=0.0, **kind)
    assert "reconstruction" not in only

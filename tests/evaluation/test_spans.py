"""The vectorised span search against a plain enumeration of every span of every segment."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gmmxlnet.evaluation.spans import best_spans, merge_spans, null_scores


def enumerate_spans(start_SL, end_SL, mask_SL, offsets, n_best, max_answer_length):
    """[(first token, last token, segment, start logit, end logit)], best first: the slow, obvious way."""
    best = {}
    for s in range(len(start_SL)):
        context = np.flatnonzero(mask_SL[s])
        for i in context:
            for j in context[(context >= i) & (context < i + max_answer_length)]:
                span = (int(offsets[s] + i - context[0]), int(offsets[s] + j - context[0]))
                score = start_SL[s, i] + end_SL[s, j]
                if span not in best or score > best[span][0]:
                    best[span] = (score, s, float(start_SL[s, i]), float(end_SL[s, j]))
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    return [(*span, s, start, end) for span, (_, s, start, end) in ranked[:n_best]]


def random_batch(generator, levels):
    """Logits on few levels (so that ties abound), left-padded segments whose windows overlap."""
    B, S, L = generator.integers(1, 4), generator.integers(1, 5), generator.integers(6, 20)
    start, end = (generator.integers(-levels, levels, (B, S, L)).astype(np.float32) / 4 for _ in range(2))
    mask, offsets = np.zeros((B, S, L), bool), np.full((B, S), -1)
    for b in range(B):
        for s in range(generator.integers(1, S + 1)):
            left = generator.integers(0, 3)
            mask[b, s, left : left + generator.integers(1, L - 3)] = True
            offsets[b, s] = 2 * s
    return start, end, mask, offsets


@pytest.mark.parametrize("seed", range(60))
def test_same_as_enumeration(seed):
    generator = np.random.default_rng(seed)
    start, end, mask, offsets = random_batch(generator, levels=[2, 40, 4000][seed % 3])
    n_best, longest = int(generator.integers(1, 25)), int(generator.integers(1, 25))
    found = best_spans(*map(torch.from_numpy, (start, end, mask, offsets)), n_best, longest)
    for b in range(len(start)):
        kept = found.scores[b] > -torch.inf
        columns = (found.first_token, found.last_token, found.segment, found.start_logit, found.end_logit)
        rows = list(zip(*(column[b, kept].tolist() for column in columns), strict=True))
        assert rows == enumerate_spans(start[b], end[b], mask[b], offsets[b], n_best, longest)
        assert not kept[len(rows) :].any()  # the missing ones stand at the end
        for logits in (found.start_logit, found.end_logit):
            assert (logits[b] > -torch.inf).equal(kept)


def test_overlapping_windows_count_once():
    """Two windows over the same four tokens: the span appears once, from the window that scores it higher."""
    start = torch.tensor([[[5.0, 0, 0, 0, 0], [7.0, 0, 0, 0, 0]]])
    mask = torch.tensor([[[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]]).bool()
    found = best_spans(start, torch.zeros_like(start), mask, torch.tensor([[0, 0]]), n_best=3, max_answer_length=1)
    assert found.first_token.tolist() == [[0, 1, 2]]
    assert (found.segment[0, 0], found.start_logit[0, 0]) == (1, 7)


def test_null_score_is_the_lowest_of_each_documents_active_segments():
    """The sum decides: neither the lowest start, nor the lowest difference, nor a segment that is not there."""
    cls_start, cls_end = (
        torch.tensor([[3.0, 1.0, -9.0], [-4.0, 2.0, 5.0]]),
        torch.tensor([[0.0, 1.0, -9.0], [9.0, 2.5, -3.0]]),
    )
    active = torch.tensor([[True, True, False], [True, True, True]])
    start, end, segment = null_scores(cls_start, cls_end, active)
    assert start.tolist() == [1.0, 5.0]
    assert end.tolist() == [1.0, -3.0]
    assert segment.tolist() == [1, 2]


def test_twenty_spans_of_at_most_thirty_tokens_are_kept_by_default():
    start, end = torch.zeros(1, 1, 40), torch.arange(40.0)[None, None]
    found = best_spans(start, end, torch.ones(1, 1, 40, dtype=torch.bool), torch.tensor([[0]]))
    assert found.scores.shape == (1, 20)
    length = found.last_token - found.first_token + 1
    assert length.max() == 30


def test_no_context_token_gives_no_span():
    start = torch.zeros(1, 1, 4)
    found = best_spans(start, start, torch.zeros(1, 1, 4, dtype=torch.bool), torch.tensor([[0]]))
    assert found.scores.max() == -torch.inf


@pytest.mark.parametrize("seed", range(20))
def test_two_portions_have_the_spans_of_the_whole(seed):
    """Ties abound, and windows overlap where the document is cut: the earlier portion's span is the one that stays."""
    generator = np.random.default_rng(seed)
    start, end, mask, offsets = map(torch.from_numpy, random_batch(generator, levels=[2, 40][seed % 2]))
    n_best, longest = int(generator.integers(1, 25)), int(generator.integers(1, 9))
    inputs = [x.repeat_interleave(2, dim=1) for x in (start, end, mask, offsets)]  # two segments or more
    cut = int(generator.integers(1, inputs[0].shape[1]))
    one, other = (best_spans(*(x[:, part] for x in inputs), n_best, longest) for part in (slice(cut), slice(cut, None)))
    merged = merge_spans(one, replace(other, segment=other.segment + cut), n_best, longest)
    whole = best_spans(*inputs, n_best, longest)
    kept = whole.scores > -torch.inf
    assert torch.equal(merged.scores > -torch.inf, kept)
    for name, column in vars(whole).items():
        assert torch.equal(getattr(merged, name)[kept], column[kept]), name


def test_where_there_are_fewer_spans_than_asked_for_the_rest_is_missing():
    start, mask = torch.tensor([[[3.0, 1.0]]]), torch.ones(1, 1, 2, dtype=torch.bool)
    found = best_spans(start, start, mask, torch.tensor([[5]]), n_best=4, max_answer_length=1)
    assert found.first_token.tolist() == found.last_token.tolist() == [[5, 6, 0, 0]]
    assert found.start_logit.tolist() == found.end_logit.tolist() == [[3, 1, -math.inf, -math.inf]]

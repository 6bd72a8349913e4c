"""Attention in blocks is attention: against torch's fused one and against the formula, with gradients and dropout."""

import pytest
import torch

from gmmxlnet.models import attention
from gmmxlnet.models.attention import attend_fused, attend_in_blocks

CASES = {  # B, H, L, K, block of queries, scores of a block
    "one block": (2, 3, 7, 7, 96, 2**18),
    "blocks of queries": (2, 2, 11, 11, 4, 2**18),
    "blocks of documents": (5, 2, 6, 6, 96, 2 * 6 * 6 * 2),
    "blocks of both, a cache before": (3, 2, 9, 14, 4, 1),
    "a last block of one query": (2, 2, 9, 9, 4, 2**18),
    "one query": (2, 2, 1, 5, 4, 2**18),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request, monkeypatch):
    """The five inputs, float64 with gradients, some keys masked out as padding is."""
    B, H, L, K, queries, scores = request.param
    monkeypatch.setattr(attention, "QUERIES", queries)
    monkeypatch.setattr(attention, "SCORES", scores)
    torch.manual_seed(L * 100 + K)
    shapes = [(B, H, L, 6), (B, H, K, 6), (B, H, K, 4), (B, H, L, 4), (H, K + L - 1, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    inputs[0][..., -1] = 1
    inputs[1][0, :, 0, -1] = torch.finfo(torch.float64).min / 8
    return [x.requires_grad_() for x in inputs]


def by_the_formula(query, key, value, distance_query, position, *, scale, keep=None):
    L, K = query.shape[2], key.shape[2]
    scores = query @ key.transpose(2, 3)
    for i in range(L):
        for j in range(K):
            at = L - 1 - i + j
            scores[:, :, i, j] += (distance_query[:, :, i] * position[:, at]).sum(-1)
    probs = (scale * scores).softmax(-1)
    return (probs if keep is None else probs * keep) @ value


def value_and_gradients(function, inputs, **options):
    """The output and the gradients of a weighted sum of it."""
    for x in inputs:
        x.grad = None
    out = function(*inputs, **options)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    return [out.detach(), *(x.grad for x in inputs)]


@pytest.mark.parametrize("attend", [attend_fused, attend_in_blocks])
def test_the_formula_and_its_gradients(case, attend):
    expected = value_and_gradients(by_the_formula, case, scale=0.5)
    got = value_and_gradients(attend, case, scale=0.5, dropout=0.0)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_dropout_leaves_out_probabilities_in_forward_and_backward(case, monkeypatch):
    (B, H, L, _), K = case[0].shape, case[1].shape[2]
    kept = (torch.rand(B, H, L, K) > 0.4).to(torch.int8)
    monkeypatch.setattr(attention, "keep_mask", lambda shape, dropout: kept)
    got = value_and_gradients(attend_in_blocks, case, scale=0.5, dropout=0.4)
    expected = value_and_gradients(by_the_formula, case, scale=0.5, keep=kept / 0.6)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # the mask over 0.6 is float32


def test_without_gradients_the_same_numbers(case):
    with torch.inference_mode():
        free = attend_in_blocks(*case, scale=0.5, dropout=0.0)
    assert torch.equal(free, attend_in_blocks(*case, scale=0.5, dropout=0.0).detach())


def test_the_same_bits_every_time(case):
    first, second = (value_and_gradients(attend_in_blocks, case, scale=0.5, dropout=0.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

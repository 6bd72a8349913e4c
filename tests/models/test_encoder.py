"""The encoder computes what transformers' XLNet computes, gradients too; its two small functions, by plain loops."""

import math

import pytest
import torch
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.attention import relative_shift
from gmmxlnet.models.encoder import sinusoids
from gmmxlnet.models.xlnet_weights import convert_xlnet_weights, extended_config, xlnet_tensors

VOCABULARY = 50
# (layers, d_model, heads, d_inner), clamp_len, activation, segment lengths of the batch, padding
CASES = {
    "one layer": ((1, 16, 1, 32), -1, "gelu", (9, 9), "none"),
    "left padding": ((2, 16, 4, 24), -1, "gelu", (12, 7, 3), "left"),
    "right padding": ((2, 16, 4, 24), -1, "gelu", (12, 7, 3), "right"),
    "heads of one": ((1, 8, 8, 8), -1, "relu", (5, 4), "left"),
    "clamped": ((2, 24, 3, 40), 3, "relu", (11, 6), "left"),
    "clamped to one": ((1, 12, 2, 50), 1, "silu", (8,), "none"),
    "a single token": ((2, 16, 2, 32), -1, "gelu", (1,), "none"),
    "single tokens beside others": ((3, 16, 2, 16), -1, "gelu_new", (1, 2, 13), "left"),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def pair(request):
    """transformers' model and ours with its weights, both float64, and a batch with segment ids and padding."""
    (n_layer, d_model, n_head, d_inner), clamp_len, activation, lengths, padding = request.param
    torch.manual_seed(len(lengths) * 100 + d_model)
    config = XLNetConfig(
        vocab_size=VOCABULARY,
        **{"n_layer": n_layer, "d_model": d_model, "n_head": n_head, "d_inner": d_inner},
        clamp_len=clamp_len,
        ff_activation=activation,
        dropout=0.0,
        initializer_range=0.4,
    )
    theirs = XLNetForQuestionAnsweringSimple(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and norms too: zeros and ones would hide a mix-up
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = GMMXLNetForQA(extended_config(config, memory_type="none")).double().eval()
    convert_xlnet_weights(theirs, ours)
    return theirs, ours, padded_batch(lengths, padding)


def padded_batch(lengths, padding):
    L = max(lengths)
    mask_BL = torch.zeros(len(lengths), L, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask_BL[row, (L - length if padding == "left" else 0) :][:length] = 1
    types_BL = torch.randint(0, 3, mask_BL.shape).masked_fill(mask_BL == 0, 3)
    ids_BL = torch.randint(9, VOCABULARY, mask_BL.shape).masked_fill(mask_BL == 0, 5)
    return {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}


def logits_at_tokens(model, batch):
    """(N, 2) start and end logits of all tokens that are no padding."""
    output = model(**batch)
    return torch.stack([output.start_logits, output.end_logits], dim=-1)[batch["attention_mask"].bool()]


def test_same_logits_and_gradients_in_float64(pair):
    theirs, ours, batch = pair
    expected, got = logits_at_tokens(theirs, batch), logits_at_tokens(ours, batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    weight = torch.randn_like(expected)
    (weight * expected).sum().backward()
    (weight * got).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    expected_gradients = xlnet_tensors(gradients)
    assert set(expected_gradients) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], rtol=1e-9, atol=1e-9, msg=name)


def test_same_logits_in_float32(pair):
    theirs, ours, batch = pair
    expected, got = logits_at_tokens(theirs.float(), batch), logits_at_tokens(ours.float(), batch)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_same_logits_without_segment_ids_and_mask(pair):
    theirs, ours, batch = pair
    whole = {"input_ids": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"])}
    got = ours(input_ids=batch["input_ids"]).start_logits
    torch.testing.assert_close(got, theirs(**whole).start_logits, rtol=0, atol=1e-10)


def test_segment_ids_matter(pair):
    _, ours, batch = pair
    if batch["input_ids"].shape[1] > 2:
        alike = {**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])}
        assert not torch.allclose(logits_at_tokens(ours, batch), logits_at_tokens(ours, alike), atol=1e-3)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (4, 4), (5, 8), (1, 3)])
def test_relative_shift_is_a_lookup_by_distance(num_queries, num_keys):
    scores = torch.randn(2, 3, num_queries, num_queries + num_keys - 1)
    shifted = relative_shift(scores, num_keys)
    assert shifted.shape == (2, 3, num_queries, num_keys)
    for i in range(num_queries):
        for j in range(num_keys):
            assert torch.equal(shifted[..., i, j], scores[..., i, num_queries - 1 - i + j])


@pytest.mark.parametrize("clamp_len", [-1, 2])
def test_sinusoids_are_sines_and_cosines_of_the_distance(clamp_len):
    num_keys, num_queries, d = 5, 3, 6
    encoding = sinusoids(num_keys, num_queries, d, clamp_len, torch.device("cpu"))
    distances = range(num_keys - 1, -num_queries, -1)
    assert encoding.shape == (len(distances), d)
    for row, distance in zip(encoding.tolist(), distances, strict=True):
        bounded = max(-clamp_len, min(clamp_len, distance)) if clamp_len > 0 else distance
        angles = [bounded / 10000 ** (2 * n / d) for n in range(d // 2)]
        assert row == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)], abs=1e-6)

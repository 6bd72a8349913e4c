"""Dropping whole experts in training: what a document does without, and that evaluation knows nothing of it."""

import pytest
import torch

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetConfig
from gmmxlnet.models.memories.gated import draw_kept_experts


def test_experts_are_dropped_as_often_as_asked_and_never_all():
    torch.manual_seed(0)
    kept = draw_kept_experts(20_000, 4, 0.3, torch.device("cpu"))
    assert kept.any(1).all()
    # Of documents that would lose all four (0.3 ** 4) each keeps one of them.
    expected = 0.7 + 0.3**4 / 4
    assert kept.float().mean(0).tolist() == pytest.approx([expected] * 4, abs=0.01)
    assert draw_kept_experts(100, 4, 0.99, torch.device("cpu")).sum(1).min() == 1


@pytest.mark.parametrize("mode", ["write-based", "read-based"])
def test_a_document_neither_writes_nor_reads_an_expert_it_does_without(tiny_model, document, batch_of, mode):
    model = tiny_model("gmm", 4, expert_dropout=0.5, routing_mode=mode).train()
    batch = batch_of([document(seed, 3) for seed in range(8)])
    torch.manual_seed(1)
    output = model(**batch)
    probs_BSk = output.routing_probs
    torch.testing.assert_close(probs_BSk.sum(-1), torch.ones(8, 3, dtype=probs_BSk.dtype))
    dropped_BSk = probs_BSk == 0
    assert dropped_BSk.any()
    assert (dropped_BSk == dropped_BSk[:, :1]).all()  # for the whole document
    kept_BSk = output.routing_logits.masked_fill(dropped_BSk, -torch.inf).softmax(-1)
    torch.testing.assert_close(probs_BSk, kept_BSk)
    start = model.memory_mixture(8).experts_Bkmd
    untouched_Bk = (output.memory_state.experts_Bkmd == start).flatten(2).all(-1)
    assert (untouched_Bk == dropped_BSk[:, 0]).all()
    output.start_logits[:, 1:].square().sum().backward()
    reached = [bool(expert.grad.any()) for expert in model.memory_mixture.expert_memories]
    # With write-based routing an expert is read where it is written; the mean of all is only read before segment 0.
    assert reached == [bool(~dropped) for dropped in dropped_BSk[:, 0].all(0)]


def test_the_whole_loss_has_a_finite_gradient(tiny_model, document, batch_of):
    """Probabilities of exactly zero, too, have an entropy."""
    weights = {"entropy_regularization_weight": 0.1, "memory_reconstruction_weight": 0.3}
    model = tiny_model("gmm", 4, expert_dropout=0.5, **weights).train()
    output = model(**batch_of([document(seed, 3) for seed in range(8)], labels=[None] * 8))
    assert (output.routing_probs == 0).any()
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_evaluation_keeps_all_experts_and_no_dropout_draws_no_random_numbers(tiny_model, document, batch_of):
    batch = batch_of([document(0, 3)])
    plain, dropping = tiny_model("gmm", 4), tiny_model("gmm", 4, expert_dropout=0.9)
    assert torch.equal(plain(**batch).start_logits, dropping(**batch).start_logits)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    plain.train()(**batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_impossible_shares_are_refused(value):
    with pytest.raises(ConfigError, match=r"^expert_dropout must be a number in \[0, 1\), not "):
        GMMXLNetConfig(memory_type="gmm", num_memory_experts=2, memory_slots=2, expert_dropout=value)

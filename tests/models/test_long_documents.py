"""Evaluating long documents in constant memory: hidden states are let go as soon as their logits are taken."""

import weakref

import pytest
import torch

from gmmxlnet.models import gmm_xlnet_qa

MEMORIES = ["none", "mems", "words", "token", "differentiable", "gmm"]


def encoded_by(model):
    """For every call of the encoder from now on: rows encoded, and how many earlier hidden states still exist."""
    calls, outputs = [], []

    def look(_, inputs, hidden_nLd):
        calls.append((len(hidden_nLd), sum(output() is not None for output in outputs)))
        outputs.append(weakref.ref(hidden_nLd))

    model.encoder.register_forward_hook(look)
    return calls


@pytest.mark.parametrize("memory_type", MEMORIES)
def test_hidden_states_of_earlier_segments_are_let_go(tiny_model, document, batch_of, memory_type, monkeypatch):
    monkeypatch.setattr(gmm_xlnet_qa, "ROWS_TOGETHER", 2)
    model = tiny_model(memory_type, memory_reconstruction_weight=0.5)
    slots = 3 if memory_type in ("token", "gmm") else 0
    calls = encoded_by(model)
    with torch.inference_mode():
        model(**batch_of([document(0, 9), document(1, 7)], slots=slots))
    assert sum(rows for rows, _ in calls) == 16
    assert max(rows for rows, _ in calls) == 2
    assert max(alive for _, alive in calls) <= 1


def test_without_memory_segments_encoded_in_portions_give_the_same(tiny_model, document, batch_of, monkeypatch):
    model, batch = tiny_model("none"), batch_of([document(0, 5), document(1, 2)], slots=0)
    with torch.no_grad():
        together = model(**batch)
        monkeypatch.setattr(gmm_xlnet_qa, "ROWS_TOGETHER", 3)
        apart = model(**batch)
    torch.testing.assert_close(apart.start_logits, together.start_logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(apart.end_logits, together.end_logits, rtol=0, atol=1e-10)

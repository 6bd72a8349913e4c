"""Whole steps of `gmm` against plain NumPy: logits, routing, experts, what is read, and every part of the loss.

Documents of one, two and three segments whose windows overlap, experts, slots and words that all differ: whatever is
taken from a place nearby (the token before, the router beside, the memory one segment earlier) gives another number.
"""

import math

import numpy as np
import pytest
import torch

from gmmxlnet.models.memories.gated import draw_kept_experts
from tests.models.memories.reference import Reference

K, OVERLAP = 4, 2
WEIGHTS = {"load_balance": 0.3, "entropy": -0.2, "reconstruction": 0.7, "association": 0.4, "span": 1.0}
LOSS = {
    "load_balance_weight": 0.3,
    "entropy_regularization_weight": 0.2,
    "memory_reconstruction_weight": 0.7,
}
# Windows of three documents; each begins with the last OVERLAP words of the one before. Words 11 and 30 are said again
# later in their documents, 20 in every segment, 25 again, but only within the overlap. 11 is also within the first
# overlap and twice within three tokens.
DOCUMENTS = [
    [[11, 20, 12, 11], [12, 11, 20, 11, 30, 25], [30, 25, 20, 31, 30, 11, 32]],
    [[20, 40, 41, 11, 42]],
    [[50, 51, 30, 20], [30, 20, 50, 20, 52]],
]
QUESTIONS = [[55, 56], [57, 55, 58], [56]]
LABELS = [(1, 3, 4), None, (0, 1, 1)]  # (segment, first, last context token) or no answer


def fresh(windows):
    """What no window before says."""
    return [windows[0], *(window[OVERLAP:] for window in windows[1:])]


@pytest.fixture
def batch(batch_of):
    pairs = [[(w, q) for w in windows] for windows, q in zip(DOCUMENTS, QUESTIONS, strict=True)]
    made = batch_of(pairs, labels=LABELS, length=25)
    offsets = torch.full(made["start_positions"].shape, -1)
    for b, windows in enumerate(DOCUMENTS):
        starts = np.cumsum([0, *(len(window) - OVERLAP for window in windows[:-1])])
        offsets[b, : len(windows)] = torch.from_numpy(starts)
    return made | {"segment_offsets": offsets}


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def kept_experts(dropout):
    """Which experts each document keeps, drawn as the model draws them: the longest document first."""
    if dropout == 0:
        return np.ones((3, K), dtype=bool)
    kept = draw_kept_experts(3, K, dropout, torch.device("cpu")).numpy()
    assert (~kept).any(1).sum() >= 2
    order = sorted(range(3), key=lambda b: -len(DOCUMENTS[b]))
    return kept[np.argsort(order)]


@pytest.mark.parametrize("mode", ["write-based", "read-based"])
@pytest.mark.parametrize(
    "settings",
    [
        {"memory_reconstruction_target": "segment"},
        {"pooling_method": "attention", "routing_temperature": 0.5},
        {"pooling_method": "max", "expert_dropout": 0.5, "span_loss": "document"},
        {"memory_reconstruction_target": "segment", "expert_dropout": 0.3},
        {"memory_association_weight": 0.4},
        {"routing_top_k": 2, "routing_temperature": 0.5},
        {"router": "uniform", "expert_dropout": 0.3},
        {"memory_lookup": True, "memory_association_weight": 0.4, "expert_dropout": 0.3, "memory_word_sharpness": 3.5},
    ],
    ids=lambda settings: ", ".join(map(str, settings.values())),
)
def test_every_number_of_a_training_step(tiny_model, batch, mode, settings):
    model = tiny_model("gmm", K, routing_mode=mode, **LOSS, **settings).train()
    torch.manual_seed(8)  # a seed with which documents lose experts
    output = model(**batch)
    torch.manual_seed(8)
    kept = kept_experts(settings.get("expert_dropout", 0))

    reference = Reference(model.config, weights_of(model))
    steps = [
        reference.read_document(windows, question, kept[b])
        for b, (windows, question) in enumerate(zip(DOCUMENTS, QUESTIONS, strict=True))
    ]
    close = {"rtol": 1e-5, "atol": 1e-6}  # position encodings are of float32
    for b, read in enumerate(steps):
        for s, step in enumerate(read):
            tokens = batch["attention_mask"][b, s].bool()
            logits = torch.stack([output.start_logits[b, s][tokens], output.end_logits[b, s][tokens]], -1)
            np.testing.assert_allclose(logits.detach(), step.logits_L2, **close)
            np.testing.assert_allclose(output.routing_probs[b, s].detach(), step.write_probs_k, **close)
        np.testing.assert_allclose(output.memory_state.experts_Bkmd[b].detach(), read[-1].experts_kmd, **close)
        np.testing.assert_allclose(output.memory_state.read_Bmd[b].detach(), read[-1].read_md, **close)

    parts = {
        "span": reference.span_loss(DOCUMENTS, steps, LABELS),
        "load_balance": reference.load_balance(steps),
        "entropy": reference.entropy(steps),
        "reconstruction": reference.reconstruction(steps, reference.targets(DOCUMENTS, list(map(fresh, DOCUMENTS)))),
    }
    if "memory_association_weight" in settings:
        parts["association"] = reference.association(DOCUMENTS, list(map(fresh, DOCUMENTS)), steps)
    assert {name: part.item() for name, part in output.loss_parts.items()} == pytest.approx(parts, rel=1e-5)
    assert output.loss.item() == pytest.approx(sum(WEIGHTS[name] * part for name, part in parts.items()), rel=1e-5)


def test_the_targets_of_these_documents_by_hand(tiny_model):
    """All six segments say 20, four say 11, three 30, two 50; the rest is not said again."""
    reference = Reference(tiny_model("gmm", K).config, {})
    (first, second, third), (alone,), (early, late) = reference.targets(DOCUMENTS, list(map(fresh, DOCUMENTS)))
    weight = {11: math.log(6 / 4), 20: 0.0, 30: math.log(6 / 3), 50: math.log(6 / 2)}
    assert first == {11: weight[11], 20: weight[20]}
    assert second == {11: weight[11], 20: weight[20], 30: weight[30]}
    assert early == {50: weight[50], 20: weight[20]}
    assert third == alone == late == {}

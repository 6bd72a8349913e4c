"""Ablations that are read together give the bits of those that are read one by one, in fewer readings."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from gmmxlnet.evaluation.evaluator import Ablation, QAEvaluator, longest_first
from gmmxlnet.models.memories.routing_ablation import routing_ablations

KINDS = [
    ("gmm", {"routing_mode": "write-based"}),
    ("gmm", {"routing_mode": "read-based"}),
    ("gmm", {"memory_lookup": True}),
    ("token", {}),
    ("differentiable", {"memory_heads": 2}),
    ("mems", {"mem_len": 30}),
    ("words", {"mem_len": 30}),
]


def separately(evaluator, normal):
    """Each ablation with the model's own `memory_ablation` and `routing_ablation`, document after document."""
    order = longest_first(normal.documents)
    several = order[normal.documents.num_segments()[order] > 1]
    rows = {"zeroed": order, "shuffled": several, "reset": several}
    memory = {name: evaluator._read(normal, rows[name], Ablation(name, memory_ablation=name)) for name in rows}
    names = routing_ablations(3)[1:] if evaluator.model.config.has_router else ()
    routing = {name: evaluator._read(normal, several, Ablation(name, routing_ablation=name)) for name in names}
    return memory, routing


def encodings(evaluator, read):
    """What `read()` returns, and how many segments of documents the encoder read for it."""
    counts = []
    hook = evaluator.model.encoder.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    try:
        return read(), sum(counts)
    finally:
        hook.remove()


@pytest.mark.parametrize("batch_size", [2, 7])  # in batches of 2 all documents share a context at times
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_all_columns_have_the_same_bits(make_model, sample_tokenizer, dev_documents, kind, options, batch_size):
    model = make_model(kind, **options)
    if kind == "differentiable":
        torch.nn.init.normal_(model.memory_bank.projection.weight)  # zero at first, which hides what is read
    evaluator = QAEvaluator(model, sample_tokenizer, n_best_size=5, max_answer_length=6, batch_size=batch_size)
    normal = evaluator.predict(dev_documents)
    together, fewer = encodings(evaluator, lambda: evaluator.ablate_both(normal))
    one_by_one, more = encodings(evaluator, lambda: separately(evaluator, normal))
    assert fewer < (0.9 if batch_size == 7 else 1) * more
    for left, right in zip(together, one_by_one, strict=True):
        assert list(left) == list(right)
        for name in right:
            for field in fields(normal):
                if field.name != "documents":
                    values = getattr(left[name], field.name), getattr(right[name], field.name)
                    assert np.array_equal(*values), (name, field.name)
    read = [one for group in together for one in group.values()]
    distinct = {one.start_logit.tobytes() for one in [normal, *read]}
    assert len(distinct) == 1 + len(read) if model.config.has_memory_tokens else len(distinct) > 1
    assert max(dev_documents.num_segments()) >= 3


def test_either_kind_alone_is_the_same(make_model, sample_tokenizer, dev_documents):
    evaluator = QAEvaluator(make_model(), sample_tokenizer, n_best_size=5, max_answer_length=6, batch_size=7)
    normal = evaluator.predict(dev_documents)
    memory, routing = evaluator.ablate_both(normal)
    for alone, both in ((evaluator.ablate(normal), memory), (evaluator.ablate_routing(normal), routing)):
        assert list(alone) == list(both)
        assert all(np.array_equal(alone[name].start_logit, both[name].start_logit) for name in both)

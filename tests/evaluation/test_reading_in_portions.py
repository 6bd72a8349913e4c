"""A long document read in portions has the answers of the document read at once."""

import numpy as np
import pytest

from gmmxlnet.evaluation import evaluator as evaluators
from gmmxlnet.evaluation.evaluator import QAEvaluator

COLUMNS = ("first_token", "last_token", "segment", "null_segment")
LOGITS = ("start_logit", "end_logit", "null_start_logit", "null_end_logit")


@pytest.mark.parametrize("memory_type", ["none", "mems", "words", "token", "differentiable", "gmm"])
@pytest.mark.parametrize("portion", [1, 3])
def test_portions_change_nothing(make_model, sample_tokenizer, dev_documents, monkeypatch, memory_type, portion):
    model = make_model(memory_type, **({"mem_len": 48} if memory_type in ("mems", "words") else {}))
    evaluator = QAEvaluator(model, sample_tokenizer, n_best_size=7, max_answer_length=5, batch_size=4)
    whole = evaluator.predict(dev_documents)
    assert dev_documents.num_segments().max() >= 4
    monkeypatch.setattr(evaluators, "SEGMENTS_AT_ONCE", portion)
    portions = evaluator.predict(dev_documents)
    for name in COLUMNS:
        assert np.array_equal(getattr(portions, name), getattr(whole, name)), name
    for name in LOGITS:
        np.testing.assert_allclose(getattr(portions, name), getattr(whole, name), atol=1e-5)


def test_the_memory_is_carried_from_portion_to_portion(make_model, sample_tokenizer, dev_documents, monkeypatch):
    model = make_model("gmm")
    evaluator = QAEvaluator(model, sample_tokenizer)
    whole = evaluator.predict(dev_documents)
    monkeypatch.setattr(evaluators, "SEGMENTS_AT_ONCE", 1)
    forward = model.forward
    states = []

    def look(*args, memory_state=None, **kwargs):
        states.append(memory_state)
        return forward(*args, memory_state=memory_state, **kwargs)

    monkeypatch.setattr(model, "forward", look)
    evaluator.predict(dev_documents)
    several = dev_documents.num_segments()[dev_documents.num_segments() > 1]
    assert sum(state is not None for state in states) == (several - 1).sum()
    monkeypatch.setattr(model, "forward", lambda *args, memory_state=None, **kwargs: forward(*args, **kwargs))
    without = evaluator.predict(dev_documents)
    assert np.abs(without.start_logit[:, 0] - whole.start_logit[:, 0]).max() > 1e-3


def test_ablations_read_a_document_at_once(make_model, sample_tokenizer, dev_documents, monkeypatch):
    evaluator = QAEvaluator(make_model("gmm"), sample_tokenizer)
    whole = evaluator.ablate(evaluator.predict(dev_documents))
    monkeypatch.setattr(evaluators, "SEGMENTS_AT_ONCE", 2)
    again = evaluator.ablate(evaluator.predict(dev_documents))
    for name in ("zeroed", "shuffled", "reset"):
        np.testing.assert_allclose(again[name].start_logit, whole[name].start_logit, atol=1e-5)

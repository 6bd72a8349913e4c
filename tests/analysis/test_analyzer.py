"""`GMMAnalyzer` on a real model: what it counts is what the model did."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.errors import ConfigError
from gmmxlnet.utils import GMMAnalyzer


@pytest.fixture(scope="module")
def loader(dev_documents):
    collate = DocumentCollator(layout=dev_documents.layout, memory_tokens=True)
    return DataLoader(dev_documents, batch_size=5, collate_fn=collate)


@pytest.fixture(scope="module")
def tracked(make_model, loader):
    analyzer = GMMAnalyzer(make_model())
    return analyzer, analyzer.track_routing(loader)


def test_counts_every_segment_once(tracked, dev_documents):
    analyzer, stats = tracked
    assert stats["total_segments"] == dev_documents.num_segments().sum()
    table = analyzer.table
    expected = [(i, s) for i, count in enumerate(dev_documents.num_segments()) for s in range(count)]
    assert list(zip(table.document.tolist(), table.segment.tolist(), strict=True)) == expected


def test_statistics_are_those_of_the_models_routing(tracked, loader):
    analyzer, stats = tracked
    rows = []
    with torch.no_grad():
        for batch in loader:
            probs = analyzer.model(**batch).routing_probs
            rows += [probs[i, :n] for i, n in enumerate(batch["num_segments"].tolist())]
    probs_Nk = torch.cat(rows).double()
    entropy = -(probs_Nk * probs_Nk.log()).sum(-1)
    assert stats["expert_utilization"] == pytest.approx(probs_Nk.mean(0).tolist(), abs=1e-6)
    assert stats["mean_entropy"] == pytest.approx(entropy.mean().item(), abs=1e-6)
    assert stats["std_entropy"] == pytest.approx(entropy.std(correction=0).item(), abs=1e-6)
    assert analyzer.load_balance_variance() == pytest.approx(probs_Nk.mean(0).var(correction=0).item(), abs=1e-6)


def test_stops_after_max_segments_and_starts_anew(make_model, loader):
    analyzer = GMMAnalyzer(make_model())
    for limit in (7, 1, 23):
        assert analyzer.track_routing(loader, max_segments=limit)["total_segments"] == limit
        assert len(analyzer.table) == limit


def test_records_obey_the_schema(tracked):
    for record in tracked[0].routing_data:
        B, k = record.routing_probs.shape
        assert k == 3
        assert record.entropy.shape == record.top_expert_idx.shape == (B,)
        torch.testing.assert_close(record.routing_logits.softmax(-1), record.routing_probs)


def test_diversity_is_the_cosine_of_flattened_memories(tracked):
    similarity = tracked[0].compute_expert_diversity()
    first, second = (memory.detach().flatten() for memory in tracked[0].model.memory_mixture.expert_memories[:2])
    assert similarity.shape == (3, 3)
    assert similarity[0, 1] == pytest.approx(torch.cosine_similarity(first, second, dim=0).item(), abs=1e-6)
    assert np.diag(similarity) == pytest.approx(1)


def test_experts_and_their_use(tracked):
    analyzer, stats = tracked
    states = analyzer.expert_states()
    assert [state.expert_id for state in states] == [0, 1, 2]
    assert [state.usage_stats["mean_probability"] for state in states] == stats["expert_utilization"]
    assert sum(state.usage_stats["top_share"] for state in states) == pytest.approx(1)
    assert {state.initialization_strategy for state in states} == {"learned"}


def test_by_question_type_counts_the_documents_that_carry_one(tracked, dev_documents):
    types = [dev_documents.question_type(i) for i in range(len(dev_documents))]
    by_type = tracked[0].by_label(types)
    assert list(by_type) == ["cross", "local", "unanswerable"]
    marked = np.array([kind is not None for kind in types])
    total = sum(stats["total_segments"] for stats in by_type.values())
    assert total == dev_documents.num_segments()[marked].sum()


def test_information_about_the_condition(tracked, dev_documents):
    everything = range(len(dev_documents))
    contexts = [dev_documents.context_index(i) for i in everything]
    conditions = [dev_documents.condition(i) for i in everything]
    found = tracked[0].information_about(conditions, contexts)
    marked = [i for i in everything if conditions[i] is not None]
    assert found["segments"] == dev_documents.num_segments()[marked].sum()
    assert 0 <= found["bits"] <= found["label_bits"] <= np.log2(3)
    assert next(iter(found["by_segment"])) == "0"
    assert tracked[0].information_about([None] * len(dev_documents), contexts) is None


def test_pattern_uses_the_tracked_routing(tracked):
    assert tracked[0].pattern().name in {"specialized", "collapse", "diffuse", "context-dependent", "mixed"}


@pytest.mark.parametrize("memory_type", ["none", "token"])
def test_model_without_experts_is_refused(make_model, memory_type):
    with pytest.raises(ConfigError, match=f"^Model does not have memory_mixture attribute.*{memory_type}"):
        GMMAnalyzer(make_model(memory_type))

"""Routing statistics by hand, and the guide's four example patterns."""

import math

import numpy as np
import pytest
import torch

from gmmxlnet.analysis.records import RoutingProbabilities
from gmmxlnet.analysis.routing import (
    RoutingSettings,
    RoutingTable,
    mutual_information,
    pattern_advice,
    routing_consistency,
    routing_pattern,
)

SETTINGS = RoutingSettings(temperature=0.9, load_balance_weight=0.2, entropy_weight=0.0)


def record(segment_id, tops, documents=None, k=3):
    """Segments that are routed with probability 0.8 to the given experts."""
    probs = torch.full((len(tops), k), 0.2 / (k - 1))
    probs[torch.arange(len(tops)), torch.tensor(tops)] = 0.8
    return RoutingProbabilities(
        segment_id=segment_id,
        routing_logits=probs.log(),
        routing_probs=probs,
        entropy=torch.special.entr(probs).sum(-1),
        top_expert_idx=probs.argmax(-1),
        document_index=None if documents is None else torch.tensor(documents),
    )


def test_table_is_in_reading_order():
    table = RoutingTable.of([record(0, [2, 0], [5, 1]), record(1, [1], [5])])
    assert table.document.tolist() == [1, 5, 5]
    assert table.segment.tolist() == [0, 0, 1]
    assert table.top_expert.tolist() == [0, 2, 1]


def test_consistency_is_averaged_over_documents():
    """Document 0 keeps its expert in one step of two, document 1 in one of one, document 2 has no step."""
    records = [record(0, [1, 2, 0], [0, 1, 2]), record(1, [1, 2], [0, 1]), record(2, [0], [0])]
    assert routing_consistency(RoutingTable.of(records)) == pytest.approx((1 / 2 + 1) / 2)


def test_consistency_of_single_segments_is_not_a_number():
    assert math.isnan(routing_consistency(RoutingTable.of([record(0, [1, 1])])))


def test_information_of_a_router_that_knows_the_label():
    top, context = np.array([0, 1, 2, 3] * 10), np.arange(40)
    found = mutual_information(top, np.array(["red", "blue", "green", "white"])[top], context)
    assert found["bits"] == pytest.approx(2)
    assert found["label_bits"] == pytest.approx(2)
    assert found["chance_bits_95"] < 0.6
    assert found["p_value"] == pytest.approx(1 / 1001)


def test_information_of_a_router_that_knows_nothing_is_what_chance_gives():
    generator = np.random.default_rng(0)
    found = mutual_information(generator.integers(0, 4, 100), generator.integers(0, 4, 100), np.arange(100))
    assert found["bits"] > 0.01  # a small sample always seems to tell something
    assert found["bits"] < found["chance_bits_95"]
    assert found["p_value"] > 0.05


def test_copies_of_a_context_are_no_new_evidence():
    """Four contexts that happen to be routed by their label: told often by chance, however many questions each has."""
    context = np.repeat(np.arange(4), 50)
    assert mutual_information(context % 2, context % 2, context)["p_value"] > 0.3


SIMILAR, DIVERSE = np.full((4, 4), 0.85), np.full((4, 4), 0.42)


@pytest.mark.parametrize(
    ("utilization", "mean_entropy", "std_entropy", "similarity", "consistency", "name"),
    [
        ([0.25, 0.26, 0.24, 0.25], 1.05, 0.2, DIVERSE, 0.6, "specialized"),
        ([0.85, 0.05, 0.05, 0.05], 0.25, 0.2, DIVERSE, 0.9, "collapse"),
        ([0.25, 0.25, 0.25, 0.25], 1.38, 0.01, SIMILAR, 0.6, "diffuse"),
        ([0.35, 0.15, 0.3, 0.2], 0.9, 0.45, DIVERSE, 0.45, "context-dependent"),
        ([0.35, 0.15, 0.3, 0.2], 0.9, 0.1, DIVERSE, math.nan, "mixed"),
    ],
)
def test_the_guides_patterns(utilization, mean_entropy, std_entropy, similarity, consistency, name):
    pattern = routing_pattern(np.array(utilization), mean_entropy, std_entropy, similarity, consistency, SETTINGS)
    assert pattern.name == name
    assert pattern.advice
    assert "nan" not in pattern.observation


def test_two_even_experts_are_no_collapse():
    pattern = routing_pattern(np.array([0.52, 0.48]), 0.5, 0.1, np.full((2, 2), 0.1), 0.6, SETTINGS)
    assert pattern.name == "specialized"
    assert routing_pattern(np.array([0.7, 0.3]), 0.3, 0.1, np.full((2, 2), 0.1), 0.6, SETTINGS).name == "collapse"


def test_advice_names_the_values_in_use_and_asks_to_lower_none_that_is_zero():
    assert "load_balance_weight, now 0.2" in pattern_advice("collapse", SETTINGS)
    said = pattern_advice("diffuse", SETTINGS)
    assert "routing_temperature, now 0.9" in said
    assert "load_balance_weight, now 0.2" in said
    assert "entropy_regularization_weight" not in said
    free = RoutingSettings(temperature=0.5, load_balance_weight=0.0, entropy_weight=0.3)
    said = pattern_advice("diffuse", free)
    assert "load_balance_weight" not in said
    assert "entropy_regularization_weight 0, now 0.3" in said

"""The summary and the ablation table: every figure from its own place (no two of the fixture's are equal)."""

from gmmxlnet.analysis.summary import ablation_table, summarize_experiment


def row(exact, **types):
    by_type = {kind: {"exact_match": value, "exact_match_interval": None} for kind, value in types.items()}
    return {"exact_match": exact, "exact_match_interval": [exact - 2, exact + 1], "by_question_type": by_type}


METRICS = {
    "exact_match": 91.0,
    "f1": 92.00004,
    "always_no_answer": {"exact_match": 28.0},
    "by_question_type": {"cross": {"exact_match": 81.0}, "local": {"exact_match": 82.0}},
    "memory_ablation": {
        "normal": row(91.0, cross=81.0, local=82.0),
        "zeroed": row(61.0, cross=11.0, local=71.0),
        "shuffled": dict.fromkeys(row(0.0)),
        "reset": row(63.0, cross=13.0, local=73.0),
    },
}


def test_every_figure_stands_under_its_name():
    routing = {"expert_utilization": [0.3, 0.15, 0.55], "mean_entropy": 0.9}
    assert summarize_experiment(METRICS, routing) == {
        "exact_match": 91.0,
        "f1": 92.0,
        "always_no_answer": 28.0,
        "exact_match_memory_zeroed": 61.0,
        "exact_match_memory_shuffled": None,
        "exact_match_memory_reset": 63.0,
        "exact_match_cross": 81.0,
        "exact_match_local": 82.0,
        "routing_entropy": 0.9,
        "least_used_expert": 0.15,
        "most_used_expert": 0.55,
    }


def test_without_experts_there_is_no_routing():
    assert "routing_entropy" not in summarize_experiment(METRICS, {"expert_utilization": None})


def test_a_row_for_each_memory_and_group():
    table = ablation_table(METRICS)
    assert list(table.itertuples(index=False, name=None)) == [
        ("normal", "all", "all: normal", 91.0, 89.0, 92.0),
        ("normal", "cross", "cross: normal", 81.0, 81.0, 81.0),
        ("normal", "local", "local: normal", 82.0, 82.0, 82.0),
        ("zeroed", "all", "all: zeroed", 61.0, 59.0, 62.0),
        ("zeroed", "cross", "cross: zeroed", 11.0, 11.0, 11.0),
        ("zeroed", "local", "local: zeroed", 71.0, 71.0, 71.0),
        ("reset", "all", "all: reset", 63.0, 61.0, 64.0),
        ("reset", "cross", "cross: reset", 13.0, 13.0, 13.0),
        ("reset", "local", "local: reset", 73.0, 73.0, 73.0),
    ]
    assert list(table.columns) == ["memory", "questions", "memory_questions", "exact_match", "low", "high"]

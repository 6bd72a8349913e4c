"""Results made by hand: what the evaluate and analyze stages would have written, in small."""

import pytest

from gmmxlnet.comparison import Result

SHIFTS = {"zeroed": 0.0, "shuffled": 1.25, "reset": 0.5}  # points of exact match above those of an empty memory


def summary(value, width=2.0):
    """Scores around `value`: F1 differs from exact match, and no interval is symmetric."""
    f1 = min(value + 0.75, 100.0)
    return {
        "exact_match": value, "exact_match_interval": [max(value - width, 0.0), min(value + width / 2, 100.0)],
        "f1": f1, "f1_interval": [max(f1 - width / 2, 0.0), min(f1 + width, 100.0)], "total": 100,
    }  # fmt: skip


def scored(overall, **types):
    return {**summary(overall), "by_question_type": {kind: summary(value) for kind, value in types.items()}}


@pytest.fixture
def make_result():
    """A function to a result: `all` and `cross` EM with memory and without, use of the experts, cost.

    `zeroed` are the scores with an empty memory, to which the other ablations add `SHIFTS`; without it the memory
    makes no difference.
    """

    def make(variant, seed=13, *, normal=(90, 90), zeroed=None, floor=28.6, shares=None, p=0.5, typed=True, **cost):
        def table(pair):
            return scored(pair[0], **({"cross": pair[1], "local": 99.0} if typed else {}))

        def ablated(shift):
            without = normal if zeroed is None else tuple(value + shift for value in zeroed)
            loss = float(normal[0] - without[0])
            return {**table(without), "exact_match_loss": loss, "exact_match_loss_interval": [loss - 1.0, loss + 2.0]}

        metrics = {
            **summary(normal[0]),
            **{"HasAns_exact": 60.0, "HasAns_f1": 61.0, "HasAns_total": 70},
            **{"NoAns_exact": 40.0, "NoAns_f1": 41.0, "NoAns_total": 30},
            "null_score_diff_threshold": -0.5,
            "null_score_diff_threshold_choice": {"method": "by hand"},
            "intervals": {"exact_match": [1.0, 2.0], "f1": None, "contexts": 24},
            "always_no_answer": {"exact_match": floor, "f1": floor},
            "by_segments": {"1": summary(normal[0])},
            "by_question_type": table(normal)["by_question_type"],
            "memory_ablation": {"normal": table(normal), **{name: ablated(shift) for name, shift in SHIFTS.items()}},
        }
        information = {"bits": 0.2, "chance_bits": 0.1, "chance_bits_95": 0.15, "p_value": p}
        routing = {
            "expert_utilization": shares,
            "mean_entropy": 0.9 if shares else None,
            "condition_information": information if shares else None,
            **dict.fromkeys(("expert_diversity", "routing_consistency", "pattern", "note")),
        }
        return Result(variant=variant, seed=seed, metrics=metrics, routing=routing, cost=cost)

    return make

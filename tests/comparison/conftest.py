"""Results made by hand: what the evaluate and analyze stages would have written, in small."""

import pytest

from gmmxlnet.comparison import Result


def summary(value, width=2.0):
    interval = [max(value - width, 0.0), min(value + width, 100.0)]
    return {
        "exact_match": value, "exact_match_interval": interval, "f1": value, "f1_interval": interval, "total": 100
    }  # fmt: skip


def scored(overall, **types):
    return {**summary(overall), "by_question_type": {kind: summary(value) for kind, value in types.items()}}


@pytest.fixture
def make_result():
    """A function to a result: `all` and `cross` EM with memory and without, use of the experts, cost."""

    def make(variant, seed=13, *, normal=(90, 90), zeroed=None, floor=28.6, shares=None, p=0.5, typed=True, **cost):
        def table(pair):
            return scored(pair[0], **({"cross": pair[1], "local": 99.0} if typed else {}))

        without = zeroed or normal
        low = normal[0] - without[0] - 1.0
        loss = {"exact_match_loss": float(normal[0] - without[0]), "exact_match_loss_interval": [low, low + 2.0]}
        ablated = {**table(without), **loss}
        metrics = {
            **summary(normal[0]),
            "always_no_answer": {"exact_match": floor, "f1": floor},
            "by_question_type": table(normal)["by_question_type"],
            "memory_ablation": {"normal": table(normal), "zeroed": ablated, "shuffled": ablated, "reset": ablated},
        }
        information = {"bits": 0.2, "chance_bits": 0.1, "chance_bits_95": 0.15, "p_value": p}
        routing = {
            "expert_utilization": shares,
            "mean_entropy": 0.9 if shares else None,
            "condition_information": information if shares else None,
        }
        return Result(variant=variant, seed=seed, metrics=metrics, routing=routing, cost=cost)

    return make

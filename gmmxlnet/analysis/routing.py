"""Statistics of routing: how even, how sharp, how steady, and what it knows.

Shapes: N segments of all documents together, k experts. The pattern's thresholds are the guide's, which it states for
k = 4; for other k they are scaled (entropy by log k, shares by 1/k).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmmxlnet.analysis.records import RoutingProbabilities

GUIDE_EXPERTS = 4  # the guide's figures below are for this k
DIFFUSE_ENTROPY, BALANCED_ENTROPY, VARIED_ENTROPY_STD = 1.3, 1.2, 0.4  # nats
COLLAPSE_SHARE, LOWEST_SHARE, HIGHEST_SHARE = 0.5, 0.2, 0.3
DIVERSE_SIMILARITY, VARIED_CONSISTENCY = 0.5, 0.5


@dataclass(frozen=True)
class RoutingTable:
    """Every segment's routing, in the order of documents and of the segments in them."""

    document: np.ndarray  # (N,) int64, index in the dataset
    segment: np.ndarray  # (N,) int64, index in the document
    probs: np.ndarray  # (N,k) float64
    entropy: np.ndarray  # (N,) nats
    top_expert: np.ndarray  # (N,) int64

    @classmethod
    def of(cls, routing_data: Sequence[RoutingProbabilities]) -> "RoutingTable":
        """The table of these records; those that name no documents keep their order, as documents of their own."""
        anonymous = np.cumsum([0] + [len(record.entropy) for record in routing_data])
        document = [
            np.arange(first, first + len(record.entropy))
            if record.document_index is None
            else record.document_index.numpy()
            for first, record in zip(anonymous, routing_data, strict=False)
        ]
        segment = [np.full(len(record.entropy), record.segment_id) for record in routing_data]
        order = np.lexsort((np.concatenate(segment), np.concatenate(document)))
        return cls(
            np.concatenate(document)[order],
            np.concatenate(segment)[order],
            np.concatenate([record.routing_probs.double().numpy() for record in routing_data])[order],
            np.concatenate([record.entropy.double().numpy() for record in routing_data])[order],
            np.concatenate([record.top_expert_idx.numpy() for record in routing_data])[order],
        )

    def __len__(self) -> int:
        return len(self.document)

    def rows(self, chosen: np.ndarray | slice) -> "RoutingTable":
        """Some of the segments."""
        return RoutingTable(*(column[chosen] for column in vars(self).values()))


def routing_consistency(table: RoutingTable) -> float:
    """How steady the top expert is: the share of neighboring segments that have the same one, averaged over documents.

    Documents of a single segment have no neighbors and do not count; NaN if there are no others.
    """
    neighbors = table.document[1:] == table.document[:-1]
    if not neighbors.any():
        return math.nan
    same = (table.top_expert[1:] == table.top_expert[:-1])[neighbors]
    _, document = np.unique(table.document[1:][neighbors], return_inverse=True)
    return float((np.bincount(document, weights=same) / np.bincount(document)).mean())


def _mutual_information_bits(left: np.ndarray, right: np.ndarray) -> float:
    """I(left; right) of two arrays of small integers: Σ p(a,b) log2 p(a,b) / (p(a) p(b))."""
    width = right.max() + 1
    counts = np.bincount(left * width + right, minlength=(left.max() + 1) * width)
    joint = counts.reshape(-1, width) / len(left)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log2(joint[there] / independent[there])).sum())


def mutual_information(
    top_expert_N: np.ndarray,
    label_N: np.ndarray,
    context_N: np.ndarray,
    num_permutations: int = 1000,
    seed: int = 0,
) -> dict[str, float | int]:
    """How many bits the top expert tells about a label, and how many it would seem to tell by chance.

    Few segments make any two columns look related, so the labels are also dealt out at random, among contexts: all
    questions about a context are routed alike, and single questions dealt out would set the bar too low.

    Returns:
        `bits`; `chance_bits`, the mean over permutations, and `chance_bits_95`, their 95th percentile; `p_value`, the
        share of permutations that tell as much; `label_bits`, the label's entropy, which is the most there is to tell;
        `segments`, how many were counted.
    """
    _, label_N = np.unique(label_N, return_inverse=True)
    units, unit_N = np.unique(np.stack([context_N, label_N]), axis=1, return_inverse=True)
    bits = _mutual_information_bits(top_expert_N, label_N)
    generator = np.random.default_rng(seed)
    by_chance = np.array(
        [
            _mutual_information_bits(top_expert_N, generator.permutation(units[1])[unit_N])
            for _ in range(num_permutations)
        ]
    )
    shares = np.bincount(label_N) / len(label_N)
    return {
        "bits": bits,
        "chance_bits": float(by_chance.mean()),
        "chance_bits_95": float(np.quantile(by_chance, 0.95)),
        "p_value": float((1 + (by_chance >= bits - 1e-12).sum()) / (1 + num_permutations)),
        "label_bits": float(-(shares * np.log2(shares)).sum()),
        "segments": len(label_N),
    }


@dataclass(frozen=True)
class RoutingPattern:
    """One of the guide's four patterns, or `mixed`; what was seen, and what to do about it."""

    name: str
    observation: str
    advice: str


def routing_pattern(
    utilization_k: np.ndarray, mean_entropy: float, std_entropy: float, similarity_kk: np.ndarray, consistency: float
) -> RoutingPattern:
    """The first that fits: collapse, diffuse, specialized, context-dependent, else mixed.

    With the guide's figures (k = 4): collapse, one expert has more than 50% of the routing; diffuse, mean entropy above
    1.3; specialized, every expert has 20 to 30%, entropy at most 1.2, similarity of any two experts below 0.5;
    context-dependent, the top expert stays in fewer than half of the steps and entropy varies by 0.4 or more.
    """
    k = len(utilization_k)
    entropy_scale = math.log(k) / math.log(GUIDE_EXPERTS)
    share_scale = GUIDE_EXPERTS / k
    # as far on the way from an even share to all of it as 50% is at k = 4
    collapse_share = 1 / k + (1 - 1 / k) * (COLLAPSE_SHARE - 1 / GUIDE_EXPERTS) / (1 - 1 / GUIDE_EXPERTS)
    similarity = float(similarity_kk[~np.eye(k, dtype=bool)].max())
    balanced = np.all((utilization_k >= LOWEST_SHARE * share_scale) & (utilization_k <= HIGHEST_SHARE * share_scale))
    seen = (
        f"utilization {100 * utilization_k.min():.0f}% to {100 * utilization_k.max():.0f}% (even: {100 / k:.0f}%), "
        f"mean entropy {mean_entropy:.2f} of at most {math.log(k):.2f} nats (standard deviation {std_entropy:.2f}), "
        f"largest similarity of two experts {similarity:.2f}"
    )
    if not math.isnan(consistency):
        seen += f", consistency {consistency:.2f}"
    if utilization_k.max() > collapse_share:
        name, advice = (
            "collapse",
            (
                "The model relies primarily on one expert. Increase load_balance_weight (0.01 to 0.05 or 0.1) or "
                "routing_temperature (1.0 to 1.5)."
            ),
        )
    elif mean_entropy > DIFFUSE_ENTROPY * entropy_scale:
        name, advice = (
            "diffuse",
            ("Routing is too soft. Decrease routing_temperature (1.0 to 0.7) or reduce entropy_regularization_weight."),
        )
    elif balanced and mean_entropy <= BALANCED_ENTROPY * entropy_scale and similarity < DIVERSE_SIMILARITY:
        name, advice = (
            "specialized",
            ("Experts have learned distinct specializations with balanced utilization. This is the ideal: leave it."),
        )
    elif consistency < VARIED_CONSISTENCY and std_entropy >= VARIED_ENTROPY_STD * entropy_scale:
        name, advice = (
            "context-dependent",
            ("The model adapts routing to the context, which is good. See by_question_type for what it follows."),
        )
    else:
        name, advice = (
            "mixed",
            (
                "None of the guide's four patterns fits. If scores are low, see which of expert_utilization (even?), "
                "mean_entropy (moderate?) and expert_diversity (below 0.5?) is furthest from the specialized pattern."
            ),
        )
    return RoutingPattern(name, seen, advice)

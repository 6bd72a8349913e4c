"""Statistics of the routing: how even, sharp and consistent it is, and what it tells about a document.

Shapes: N segments of all documents together, k experts. docs/guide.md explains the patterns and their thresholds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmmxlnet.analysis.records import RoutingProbabilities

REFERENCE_EXPERTS = 4  # the thresholds below are for this k
DIFFUSE_ENTROPY, BALANCED_ENTROPY, VARIED_ENTROPY_STD = 1.3, 1.2, 0.4  # nats
COLLAPSE_SHARE, LOWEST_SHARE, HIGHEST_SHARE = 0.5, 0.2, 0.3
DIVERSE_SIMILARITY, VARIED_CONSISTENCY = 0.5, 0.5


@dataclass(frozen=True)
class RoutingTable:
    """Every segment's routing, sorted by document and segment."""

    document: np.ndarray  # (N,) int64, index in the dataset
    segment: np.ndarray  # (N,) int64, index in the document
    probs: np.ndarray  # (N,k) float64
    entropy: np.ndarray  # (N,) nats
    top_expert: np.ndarray  # (N,) int64

    @classmethod
    def of(cls, routing_data: Sequence[RoutingProbabilities]) -> "RoutingTable":
        """The table of these records; without a `document_index`, every row of a record is a document of its own."""
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
    """The share of neighboring segments with the same top expert, averaged over documents.

    Documents of a single segment are left out; NaN if there are no others.
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
    """Mutual information of top expert and label, with a permutation test.

    On a small sample any two columns share some information. The null distribution comes from permuting labels among
    contexts, not among segments: all questions about a context are routed alike, so they are no independent evidence.

    Returns:
        `bits`; `chance_bits`, the mean over permutations, and `chance_bits_95`, their 95th percentile; `p_value`, the
        share of permutations with at least as many bits; `label_bits`, the label's entropy, which is the upper bound;
        `segments`, the number counted.
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


@dataclass(frozen=True, kw_only=True)
class RoutingSettings:
    """What a model's routing was trained with, for advice on what to change."""

    temperature: float
    load_balance_weight: float
    entropy_weight: float


def pattern_advice(pattern: str, settings: RoutingSettings) -> str:
    """What to try next, given the values in use."""
    if pattern == "collapse":
        return (
            f"One expert takes most of the routing. Raise load_balance_weight, now {settings.load_balance_weight:g} "
            f"(0.05 or 0.1 are usual), or routing_temperature, now {settings.temperature:g}."
        )
    if pattern == "diffuse":
        tries = [f"a lower routing_temperature, now {settings.temperature:g}"]
        if settings.load_balance_weight > 0:
            tries.append(f"a lower load_balance_weight, now {settings.load_balance_weight:g}")
        if settings.entropy_weight > 0:
            tries.append(f"entropy_regularization_weight 0, now {settings.entropy_weight:g}")
        return f"The routing hardly distinguishes the experts. Try {', or '.join(tries)}."
    if pattern == "specialized":
        return "The experts are used evenly and differ: the routing needs no change."
    if pattern == "context-dependent":
        return "The routing follows the context, which is good; by_question_type may show what it follows."
    return (
        "The routing fits none of the other patterns. If scores are low, see which of expert_utilization, mean_entropy "
        "and expert_diversity is furthest from the thresholds of the specialized pattern (docs/guide.md)."
    )


@dataclass(frozen=True)
class RoutingPattern:
    """A pattern of docs/guide.md: its name, the figures that it follows from, and what to do about it."""

    name: str
    observation: str
    advice: str


def routing_pattern(
    utilization_k: np.ndarray,
    mean_entropy: float,
    std_entropy: float,
    similarity_kk: np.ndarray,
    consistency: float,
    settings: RoutingSettings,
) -> RoutingPattern:
    """The first pattern that fits: collapse, diffuse, specialized, context-dependent, else mixed.

    Thresholds for k = 4: collapse, one expert has more than 50% of the routing; diffuse, mean entropy above 1.3 nats;
    specialized, every expert has 20 to 30%, entropy is at most 1.2 and no two experts are more similar than 0.5;
    context-dependent, the top expert stays the same in fewer than half of the steps and the standard deviation of the
    entropy is at least 0.4. For another k, entropy scales with log k, shares with 1/k, and the collapse threshold lies
    as far between an even share and 100% as 50% does for k = 4.
    """
    k = len(utilization_k)
    entropy_scale, share_scale = math.log(k) / math.log(REFERENCE_EXPERTS), REFERENCE_EXPERTS / k
    even, reference_even = 1 / k, 1 / REFERENCE_EXPERTS
    collapse_share = even + (1 - even) * (COLLAPSE_SHARE - reference_even) / (1 - reference_even)
    similarity = float(similarity_kk[~np.eye(k, dtype=bool)].max())
    balanced = np.all((utilization_k >= LOWEST_SHARE * share_scale) & (utilization_k <= HIGHEST_SHARE * share_scale))
    if utilization_k.max() > collapse_share:
        name = "collapse"
    elif mean_entropy > DIFFUSE_ENTROPY * entropy_scale:
        name = "diffuse"
    elif balanced and mean_entropy <= BALANCED_ENTROPY * entropy_scale and similarity < DIVERSE_SIMILARITY:
        name = "specialized"
    elif consistency < VARIED_CONSISTENCY and std_entropy >= VARIED_ENTROPY_STD * entropy_scale:
        name = "context-dependent"
    else:
        name = "mixed"
    observation = (
        f"utilization {100 * utilization_k.min():.0f}% to {100 * utilization_k.max():.0f}% (even: {100 * even:.0f}%), "
        f"mean entropy {mean_entropy:.2f} of at most {math.log(k):.2f} nats (standard deviation {std_entropy:.2f}), "
        f"largest similarity of two experts {similarity:z.2f}"
    )
    if not math.isnan(consistency):
        observation += f", consistency {consistency:.2f}"
    return RoutingPattern(name, observation, pattern_advice(name, settings))

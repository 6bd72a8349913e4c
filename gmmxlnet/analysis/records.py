"""Records of what the memory did. Shapes: B documents, k experts, m slots, d hidden size."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RoutingProbabilities:
    """How one segment of each of B documents was routed."""

    segment_id: int  # index of the segment in its document
    routing_logits: Tensor  # (B,k) float32, temperature applied
    routing_probs: Tensor  # (B,k) float32, softmax of the logits
    entropy: Tensor  # (B,) nats, 0 to log k
    top_expert_idx: Tensor  # (B,) int64
    document_index: Tensor | None = None  # (B,) int64, index in the dataset, where it is known


@dataclass(frozen=True)
class ExpertMemoryState:
    """One expert's initial memory and its usage."""

    expert_id: int
    memory_state: Tensor  # (m,d)
    usage_stats: dict[str, float]
    initialization_strategy: str  # learned, zeros, uniform or orthogonal

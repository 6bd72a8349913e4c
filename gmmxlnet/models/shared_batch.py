"""A batch that several processes share: each reads some of its documents, and adds its share of the loss.

Gradients are averaged over the processes afterwards (DDP, FSDP). That average is the whole batch's gradient because a
mean over a process's own segments is weighed by how many of all segments they are, and because the load balance
counts over all processes which expert is chosen how often, a count through which no gradient flows.

Shapes: S segments of the longest document of all processes, n own documents that have a segment, k experts.
"""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gmmxlnet.models.recurrence import Segment
from gmmxlnet.utils.processes import Processes


def choices_of_all(probs: list[Tensor], active_S: Tensor) -> list[Tensor]:
    """For each own segment the share of all processes' documents that choose each expert, (k,).

    Args:
        probs: for each segment the own documents' routing probabilities (n, k).
        active_S: how many documents of all processes have each segment.
    """
    counts_Sk = probs[0].new_zeros(len(active_S), probs[0].shape[1])
    for s, probs_nk in enumerate(probs):
        counts_Sk[s] = F.one_hot(probs_nk.argmax(-1), probs_nk.shape[1]).sum(0)
    shares_Sk = Processes.current().sum(counts_Sk) / active_S[:, None]
    return list(shares_Sk[: len(probs)])


def share_of_loss(
    parts: dict[str, Tensor], segments: list[Segment], active_S: Tensor, span_loss: str
) -> dict[str, Tensor]:
    """The parts, means over the own segments, as what the mean over all processes takes them for."""
    count, active_S = Processes.current().count, active_S.to(parts["span"].dtype)
    of_segments = count * sum(segment.num_documents for segment in segments) / active_S.sum()
    weight = dict.fromkeys(parts, of_segments)
    if span_loss == "document":
        weight["span"] = count * segments[0].num_documents / active_S[0]
    return {name: weight[name] * part for name, part in parts.items()}

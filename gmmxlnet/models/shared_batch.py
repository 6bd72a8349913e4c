"""The loss of a batch shared by several processes, each of which reads some of its documents.

DDP and FSDP average the gradients over the processes. This average equals the gradient of the whole batch because each
process weights the mean over its own segments by their share of all segments, and because the load balance counts each
expert's choices over all processes (no gradient flows through these counts).

Shapes: S segments of the longest document of all processes, n own documents that have a segment, k experts.
"""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gmmxlnet.models.recurrence import Segment
from gmmxlnet.utils.processes import Processes


def choices_of_all(probs: list[Tensor], active_S: Tensor) -> list[Tensor]:
    """Return for each segment of this process the shares (k,) of all processes' documents that choose each expert.

    Args:
        probs: routing probabilities (n, k) of this process's documents, for each segment.
        active_S: number of documents of all processes that have each segment.
    """
    counts_Sk = probs[0].new_zeros(len(active_S), probs[0].shape[1])
    for s, probs_nk in enumerate(probs):
        counts_Sk[s] = F.one_hot(probs_nk.argmax(-1), probs_nk.shape[1]).sum(0)
    shares_Sk = Processes.current().sum(counts_Sk) / active_S[:, None]
    return list(shares_Sk[: len(probs)])


def share_of_loss(
    parts: dict[str, Tensor], segments: list[Segment], active_S: Tensor, span_loss: str
) -> dict[str, Tensor]:
    """Scale loss terms that are means over this process's segments, so that their mean over all processes is right."""
    count, active_S = Processes.current().count, active_S.to(parts["span"].dtype)
    of_segments = count * sum(segment.num_documents for segment in segments) / active_S.sum()
    weight = dict.fromkeys(parts, of_segments)
    if span_loss == "document":
        weight["span"] = count * segments[0].num_documents / active_S[0]
    return {name: weight[name] * part for name, part in parts.items()}

"""Reading documents segment by segment: the loop, and what a memory has to offer to travel through it.

The loop knows no kind of memory by name. Each kind is a `Recurrence` in its own file: `memory.py` (token, gmm),
`mems.py`, `differentiable.py`.

Shapes: B documents, S segments, n documents that have a segment, L tokens, m slots, k experts, d hidden size.
Documents are sorted by their number of segments, so that those still being read are always the first rows.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

MEMORY_ABLATIONS = ("normal", "zeroed", "shuffled", "reset")


@dataclass
class Segment:
    """One segment of the n documents that have it."""

    input_ids_nL: Tensor
    attention_mask_nL: Tensor
    token_type_ids_nL: Tensor

    @property
    def num_documents(self) -> int:
        """n."""
        return self.input_ids_nL.shape[0]


@dataclass
class Routing:
    """How the active documents' segment was written: logits and probabilities (B, k), both float32."""

    logits_Bk: Tensor
    probs_Bk: Tensor


@dataclass
class Reading:
    """What reading a segment gave.

    hidden_nLd: the encoder's last hidden states. routing: None without router.
    read_nmd: the memory as it stands afterwards, for those kinds that can tell of it what was read.
    """

    hidden_nLd: Tensor
    routing: Routing | None = None
    read_nmd: Tensor | None = None


@dataclass
class State:
    """What travels from segment to segment: tensors with one row a document."""

    def rows(self, index: Tensor | slice) -> Self:
        """The state of some documents."""
        return type(self)(*(x[index] for x in vars(self).values()))

    def followed_by(self, rest: Self) -> Self:
        """These documents' state, then the rest's."""
        pairs = zip(vars(self).values(), vars(rest).values(), strict=True)
        return type(self)(*(torch.cat(pair) for pair in pairs))

    def detach(self) -> Self:
        """The same values, through which no gradient flows."""
        return type(self)(*(x.detach() for x in vars(self).values()))


class Recurrence(Protocol):
    """One kind of memory during one call of the model."""

    def start(self, num_documents: int) -> State:
        """The state before the first segment, the same for every document."""

    def read(self, segment: Segment, state: State, *, zeroed: bool = False) -> tuple[Reading, State]:
        """Encode a segment with what the state holds, or with nothing when `zeroed`; and the state after it."""


def active_segments(num_segments_B: Tensor, ids_BSL: Tensor, mask_BSL: Tensor, types_BSL: Tensor) -> list[Segment]:
    """Each segment of the documents that have it; documents sorted by falling number of segments."""
    counts = num_segments_B.tolist()
    active = [sum(count > s for count in counts) for s in range(max(counts))]
    return [Segment(ids_BSL[:n, s], mask_BSL[:n, s], types_BSL[:n, s]) for s, n in enumerate(active)]


def read_in_turn(
    recurrence: Recurrence,
    segments: list[Segment],
    start: State,
    *,
    ablation: str = "normal",
    donor_B: Tensor | None = None,
    bptt_segments: int | None = None,
) -> tuple[list[Reading], State]:
    """Read all segments; a document that has ended keeps its state.

    Args:
        ablation: one of `MEMORY_ABLATIONS`.
        donor_B: for `shuffled`, the row whose memory each document is handed before every segment. What comes of it is
            in the reading alone: each goes on with its own.
        bptt_segments: gradients cross at most this many segments, less one; None for no limit.
    """
    state, readings = start, []
    for s, segment in enumerate(segments):
        n = segment.num_documents
        if ablation == "reset":
            state = start
        if bptt_segments and s % bptt_segments == 0 and s > 0:
            state = state.detach()
        reading, new = recurrence.read(segment, state.rows(slice(n)), zeroed=ablation == "zeroed")
        if ablation == "shuffled":
            reading, _ = recurrence.read(segment, state.rows(donor_B[:n]))
        readings.append(reading)
        state = new.followed_by(state.rows(slice(n, None)))
    return readings, state


def padded(per_segment: list[Tensor], shape: tuple[int, int]) -> Tensor:
    """Values (n, ...) of each segment's n documents as one tensor (B, S, ...), zeros where there is none."""
    B, S = shape
    rows = [torch.cat([x, x.new_zeros(B - len(x), *x.shape[1:])]) for x in per_segment]
    return torch.stack(rows + [torch.zeros_like(rows[0])] * (S - len(rows)), dim=1)

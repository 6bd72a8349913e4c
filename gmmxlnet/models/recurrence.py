"""The loop that reads documents segment by segment, and the `Recurrence` protocol that a memory implements for it.

The loop is the same for all kinds of memory. Each kind defines its `Recurrence` in its file in `memories/`.

Shapes: B documents, S segments, n documents that have a segment, L tokens, m slots, k experts, d hidden size.
Documents are sorted by their number of segments, so that those still being read are always the first rows of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

MEMORY_ABLATIONS = ("normal", "zeroed", "shuffled", "reset")
T = TypeVar("T")
S = TypeVar("S", bound="State")


@dataclass
class Segment:
    """One segment of the n documents that have it.

    labels_n2: first and last token of the answer, if known. offsets_n: index in the context of the segment's first
    context token, if known. number: index of the segment in its documents, from 0.
    """

    input_ids_nL: Tensor
    attention_mask_nL: Tensor
    token_type_ids_nL: Tensor
    labels_n2: Tensor | None = None
    offsets_n: Tensor | None = None
    number: int = 0

    @property
    def num_documents(self) -> int:
        """Number of documents that have this segment, n."""
        return self.input_ids_nL.shape[0]


@dataclass
class Routing:
    """Routing of one segment's write: logits and probabilities (B, k) of the active documents, at least float32."""

    logits_Bk: Tensor
    probs_Bk: Tensor


@dataclass
class Reading:
    """The result of reading a segment.

    hidden_nLd: the encoder's last hidden states. routing: None without a router.
    read_nmd: the slots that can be read after the segment, for kinds with a speaker
        (`gmmxlnet.models.memories.Speaker`).
    """

    hidden_nLd: Tensor
    routing: Routing | None = None
    read_nmd: Tensor | None = None


@dataclass
class Kept:
    """The part of a `Reading` that is kept until the document ends: logits instead of the far larger hidden states.

    logits_nL2: start and end logits. routing, read_nmd: as in `Reading`; read_nmd only if the loss needs it.
    """

    logits_nL2: Tensor
    routing: Routing | None = None
    read_nmd: Tensor | None = None

    def detach(self) -> Self:
        """Return logits and routing detached from the graph, without `read_nmd`."""
        routing = self.routing and Routing(self.routing.logits_Bk.detach(), self.routing.probs_Bk.detach())
        return type(self)(self.logits_nL2.detach(), routing)


@dataclass
class State:
    """The state passed from segment to segment: tensors with one row per document."""

    def rows(self, index: Tensor | slice) -> Self:
        """Return the state of some documents."""
        return type(self)(*(x[index] for x in vars(self).values()))

    def followed_by(self, rest: Self) -> Self:
        """Concatenate these documents' state and the rest's."""
        pairs = zip(vars(self).values(), vars(rest).values(), strict=True)
        return type(self)(*(torch.cat(pair) for pair in pairs))

    def detach(self) -> Self:
        """Return the state detached from the graph."""
        return type(self)(*(x.detach() for x in vars(self).values()))


@dataclass
class PaddedState(State):
    """A state of M tokens (B, M, ...), padded on the left, where M grows while a document is read."""

    def followed_by(self, rest: Self) -> Self:
        """Concatenate these documents' state and the rest's, which is padded to the same length."""
        own, other = (next(iter(vars(state).values())).shape[1] for state in (self, rest))
        return super().followed_by(type(rest)(*(padded_left(x, own - other) for x in vars(rest).values())))


class Recurrence(Protocol[S]):
    """One kind of memory during one call of the model."""

    def start(self, num_documents: int) -> S:
        """Return the state before the first segment, the same for every document."""

    def read(self, segment: Segment, state: S, *, zeroed: bool = False) -> tuple[Reading, S]:
        """Encode a segment with the memory of `state` (an empty memory if `zeroed`); return the result and new state.

        Gradient checkpointing calls it a second time with the same arguments and expects the same result, so it must
        not store anything in the recurrence; what all segments share is computed in the constructor.
        """


@dataclass
class SortedDocuments:
    """A batch in reading order: sorted by number of segments, descending.

    segments: each segment of the documents that have it. order_B: the batch's row of each document in reading order;
    rank_B: the inverse permutation. shape: (B, S) of the batch.
    """

    segments: list[Segment]
    order_B: Tensor
    rank_B: Tensor
    shape: tuple[int, int]


def sort_documents(
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor,
    num_segments: Tensor,
    labels: tuple[Tensor, Tensor] | None = None,
    segment_offsets: Tensor | None = None,
) -> SortedDocuments:
    """Sort documents (B, S, L) with numbers of segments (B,), labels and offsets (B, S) each into reading order."""
    order_B = num_segments.argsort(descending=True, stable=True)
    counts = num_segments.tolist()
    active = [sum(count > s for count in counts) for s in range(max(counts))]
    ids_BSL, mask_BSL, types_BSL = (x[order_B] for x in (input_ids, attention_mask, token_type_ids))
    labels_BS2 = None if labels is None else torch.stack(labels, dim=-1)[order_B]
    offsets_BS = None if segment_offsets is None else segment_offsets[order_B]
    segments = [
        Segment(
            ids_BSL[:n, s],
            mask_BSL[:n, s],
            types_BSL[:n, s],
            None if labels_BS2 is None else labels_BS2[:n, s],
            None if offsets_BS is None else offsets_BS[:n, s],
            s,
        )
        for s, n in enumerate(active)
    ]
    return SortedDocuments(segments, order_B, order_B.argsort(), (input_ids.shape[0], input_ids.shape[1]))


def read_in_turn(
    recurrence: Recurrence[S],
    segments: list[Segment],
    start: S,
    *,
    head: Callable[[Tensor], Tensor],
    keep_memory: bool,
    ablation: str = "normal",
    donor_B: Tensor | None = None,
    bptt_segments: int | None = None,
    recompute: bool = False,
) -> tuple[list[Kept], S]:
    """Read all segments in order; a document that has ended keeps its state.

    Args:
        head: maps hidden states (n, L, d) to logits (n, L, 2).
        keep_memory: whether to keep the memory after each segment, for a loss.
        ablation: one of `MEMORY_ABLATIONS`.
        donor_B: for `shuffled`, the row whose memory each document reads instead of its own; its own state is still
            updated from its own memory.
        bptt_segments: gradients flow through at most this many consecutive segments; None for no limit.
        recompute: save only the state before each segment, and recompute the segment in the backward pass.
    """

    def read(segment: Segment, state: S, donors: S | None) -> tuple[Kept, S]:
        reading, new = recurrence.read(segment, state, zeroed=ablation == "zeroed")
        if donors is not None:
            reading, _ = recurrence.read(segment, donors)
        return Kept(head(reading.hidden_nLd), reading.routing, reading.read_nmd if keep_memory else None), new

    state, kept = start, []
    for s, segment in enumerate(segments):
        n = segment.num_documents
        if ablation == "reset":
            state = start
        if bptt_segments and s % bptt_segments == 0 and s > 0:
            state = state.detach()
        donors = state.rows(donor_B[:n]) if ablation == "shuffled" else None
        reading = partial(read, segment, state.rows(slice(n)), donors)
        result, new = computed_again(reading, segment.input_ids_nL) if recompute else reading()
        kept.append(result)
        state = new.followed_by(state.rows(slice(n, None)))
    return kept, state


def computed_again(compute: Callable[[], T], device_of: Tensor) -> T:
    """Call `compute()` with gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174).

    The backward pass calls it again with the same random numbers. `device_of` is any tensor on the device whose random
    generator is restored for this.
    """
    return checkpoint(lambda _: compute(), device_of, use_reentrant=False)


def padded_left(x_BM: Tensor, count: int) -> Tensor:
    """Prepend `count` zeros to (B, M, ...) along dimension 1."""
    return F.pad(x_BM, (0, 0) * (x_BM.dim() - 2) + (count, 0))


def padded(per_segment: list[Tensor], shape: tuple[int, int], fill: int = 0) -> Tensor:
    """Stack values (n, ...) of each segment's n documents into one tensor (B, S, ...), padded with `fill`."""
    B, S = shape
    rows = [torch.cat([x, x.new_full((B - len(x), *x.shape[1:]), fill)]) for x in per_segment]
    return torch.stack(rows + [torch.full_like(rows[0], fill)] * (S - len(rows)), dim=1)

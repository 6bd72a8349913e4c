"""Reads a batch in several ways at once: with other memories, with other routing. What the readings share is read once.

Each result equals that of `GMMXLNetForQA.forward` with that `memory_ablation` or `routing_ablation`. All readings have
the first segment in common, since every document starts from the same state. `shuffled` memory is that of the
documents' own readings, which are read once and not again for it.

Shapes: B documents, n documents that have a segment.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.memories.routing_ablation import RoutingAblation
from gmmxlnet.models.outputs import GMMXLNetOutput
from gmmxlnet.models.recurrence import Kept, Reading, Segment, SortedDocuments, sort_documents

SHARING = ("shuffled", "reset")  # the memory ablations that start as the normal reading does


def read_ablated(
    model: GMMXLNetForQA,
    inputs: Mapping[str, Tensor],
    *,
    memory: Sequence[str] = (),
    routing: Sequence[str] = (),
    memory_permutation: Tensor | None = None,
) -> tuple[list[GMMXLNetOutput], list[GMMXLNetOutput]]:
    """Return the outputs for each of these memory ablations and for each of these routing ablations.

    Args:
        inputs: `input_ids`, `attention_mask`, `token_type_ids` (B, S, L) and `num_segments` (B,).
        memory: of `SHARING`. routing: of `routing_ablations`, for a model with a router.
        memory_permutation: (B,) as in `GMMXLNetForQA.forward`; required for `shuffled`.
    """
    documents = sort_documents(**inputs)
    donor_B = None
    if memory_permutation is not None:
        donor_B = documents.rank_B[memory_permutation[documents.order_B]]
    readers: list[_Reader] = [_Reader(name, None) for name in memory]
    for name in routing:
        readers.append(_Reader("", RoutingAblation(name, model.config.num_memory_experts, donor_B)))
    _read(model, documents, donor_B, readers)
    outputs = [model.output_of(documents, reader.kept, None) for reader in readers]
    return outputs[: len(memory)], outputs[len(memory) :]


class _Reader:
    """One ablation: its state, where it has one of its own, and what it kept of each segment."""

    def __init__(self, memory: str, reroute: RoutingAblation | None) -> None:
        self.memory, self.reroute = memory, reroute
        self.kept: list[Kept] = []
        self.recurrence: Any = None
        self.state: Any = None


def _read(model: GMMXLNetForQA, documents: SortedDocuments, donor_B: Tensor | None, readers: list[_Reader]) -> None:
    """Read segment by segment, all ablations in step, so that no more than one state of each is held."""
    recurrence, start = model.start_reading(documents)
    assert recurrence is not None  # a model without memory has no ablations
    assert start is not None

    def keep(reader: _Reader, reading: Reading) -> None:
        reader.kept.append(Kept(model.qa_head(reading.hidden_nLd), reading.routing))

    first, *others = documents.segments
    own = _first(model, recurrence, first, start, readers)
    needs_own = any(reader.memory == "shuffled" for reader in readers)
    for s, segment in enumerate(others, 1):
        rows = slice(segment.num_documents)
        for reader in readers:
            if reader.memory == "reset":
                reading, _ = recurrence.read(segment, start.rows(rows))
            elif reader.memory == "shuffled":
                assert donor_B is not None
                reading, _ = recurrence.read(segment, own.rows(donor_B[rows]))
            else:
                reading, new = reader.recurrence.read(segment, reader.state.rows(rows))
                reader.state = new.followed_by(reader.state.rows(slice(segment.num_documents, None)))
            keep(reader, reading)
        if needs_own and s < len(others):  # nobody asks for what comes after the last segment
            _, new = recurrence.read(segment, own.rows(rows))
            own = new.followed_by(own.rows(slice(segment.num_documents, None)))


def _first(model: GMMXLNetForQA, recurrence: Any, segment: Segment, start: Any, readers: list[_Reader]) -> Any:
    """Read the first segment once for all ablations; return the documents' own state after it."""
    rerouted = [reader for reader in readers if reader.reroute is not None]
    if rerouted:
        encoded = recurrence.encode(segment, start)
        reading, own = recurrence.update(encoded, start)
    else:
        reading, own = recurrence.read(segment, start)
    logits_nL2 = model.qa_head(reading.hidden_nLd)
    for reader in readers:
        routing = reading.routing
        if reader.reroute is not None:
            reader.recurrence = recurrence.rerouted(reader.reroute)
            other, reader.state = reader.recurrence.update(encoded, start)
            routing = other.routing
        reader.kept.append(Kept(logits_nL2, routing))
    return own

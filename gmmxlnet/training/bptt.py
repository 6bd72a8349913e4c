"""Training on long documents in constant memory: one backward pass for every `bptt_segments` segments.

Loss and gradients equal those of `model(**batch).loss.backward()`, for every kind of memory: with `bptt_segments` set
no gradient flows between chunks of segments, so the backward pass of a chunk can run, and its graph be freed, before
the next chunk is read. Only inputs, logits and routing grow with the length of a document.

All loss terms are means over segments, so that each chunk contributes its share: span, load balance (for each step of
the recurrence), entropy and reconstruction. The exception is `span_loss: document`, whose softmax spans all segments.
For it the documents are read twice, as in gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983): first
to compute all logits and the gradient of the loss with respect to them; then chunk by chunk, to backpropagate these
gradients. This costs one more forward pass, about a third of a step. Both passes use the same dropout masks.

Shapes: B documents, S segments, n documents that have a segment, L tokens, k experts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.losses import at_least_float32
from gmmxlnet.models.memory_targets import MEMORY_LOSSES
from gmmxlnet.models.outputs import GMMXLNetOutput
from gmmxlnet.models.recurrence import Kept, Segment, SortedDocuments, sort_documents

Context = Callable[[], AbstractContextManager]


def backward_in_chunks(
    model: GMMXLNetForQA,
    batch: dict[str, Tensor],
    *,
    backward: Callable[[Tensor], None] = lambda loss: loss.backward(retain_graph=True),
    autocast: Context = nullcontext,
) -> GMMXLNetOutput:
    """Add the gradients of a batch's loss to the parameters, `config.bptt_segments` segments at a time.

    Args:
        batch: the model's inputs in training, (B, S, L) with labels and `num_segments`.
        backward: runs the backward pass of a chunk's loss. It must retain the graph, since the chunks share part of it
            (position keys, stacked weights). The chunks' own graphs are freed all the same.
        autocast: creates the context in which the forward passes run.

    Returns: the output of `model(**batch)`, without gradients.
    """
    documents = sort_documents(
        batch["input_ids"],
        batch["attention_mask"],
        batch["token_type_ids"],
        batch["num_segments"],
        labels=(batch["start_positions"], batch["end_positions"]),
        segment_offsets=batch.get("segment_offsets"),
    )
    step = model.config.bptt_segments
    chunks = [documents.segments[first : first + step] for first in range(0, len(documents.segments), step)]
    pulls = _pulls(model, documents, chunks, autocast) if model.config.span_loss == "document" else None
    reader = _Reader(model, documents, autocast)
    num_segments = sum(segment.num_documents for segment in documents.segments)
    kept: list[Kept] = []
    of_memory: dict[str, Tensor] = {}
    for chunk in chunks:
        share = sum(segment.num_documents for segment in chunk) / num_segments
        pulls_of_chunk = None if pulls is None else pulls[len(kept) : len(kept) + len(chunk)]
        own, parts = _learn(reader, chunk, share, pulls_of_chunk, backward)
        kept += own
        of_memory |= {name: of_memory.get(name, 0) + parts[name] for name in MEMORY_LOSSES if name in parts}
    with torch.no_grad(), autocast():
        output = model.output_of(documents, kept, reader.state)
        output.loss_parts = model.loss_parts(documents.segments, kept, reader.targets)
        output.loss_parts |= of_memory
        output.loss = model.weighted(output.loss_parts)
    return output


class _Reader:
    """Reads chunks one after the other; no gradient flows between them."""

    def __init__(self, model: GMMXLNetForQA, documents: SortedDocuments, autocast: Context) -> None:
        self.model, self.autocast = model, autocast
        with autocast():
            self.recurrence, self.state = model.start_reading(documents)
        self.targets = model.memory_targets(documents.segments)

    def read(self, chunk: list[Segment]) -> list[Kept]:
        with self.autocast():
            kept, state = self.model.read_segments(chunk, self.recurrence, self.state)
        self.state = None if state is None else state.detach()
        return kept


def _learn(
    reader: _Reader,
    chunk: list[Segment],
    share: float,
    pulls: list[Tensor] | None,
    backward: Callable[[Tensor], None],
) -> tuple[list[Kept], dict[str, Tensor]]:
    """Run the forward and backward pass of a chunk; its graph is freed when this function returns.

    Args: `share`: the chunk's share of all segments. `pulls`: `_pulls` of its segments, for `span_loss: document`.

    Returns: the chunk's results and its share of the unweighted loss terms, both detached.
    """
    model = reader.model
    kept = reader.read(chunk)
    with reader.autocast():
        parts = {name: share * part for name, part in model.loss_parts(chunk, kept, reader.targets).items()}
        if pulls is not None:
            logits = [at_least_float32(one.logits_nL2) for one in kept]
            parts["span"] = sum((pull * x).sum() for pull, x in zip(pulls, logits, strict=True))
        loss = model.weighted(parts)
    backward(loss)
    return [one.detach() for one in kept], {name: part.detach() for name, part in parts.items()}


def _pulls(
    model: GMMXLNetForQA, documents: SortedDocuments, chunks: list[list[Segment]], autocast: Context
) -> list[Tensor]:
    """Compute the gradient of the span loss with respect to each segment's logits (n, L, 2).

    Gradients are enabled, so that the second pass runs the same kernels, but each chunk's graph is freed at once.
    16-bit logits are cast to float32, so that small gradients do not underflow.
    """
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        reader = _Reader(model, documents, autocast)
        leaves: list[Kept] = []
        for chunk in chunks:
            leaves += [one.detach() for one in reader.read(chunk)]
    for leaf in leaves:
        leaf.logits_nL2 = at_least_float32(leaf.logits_nL2).requires_grad_()
    with autocast():
        span = model.loss_parts(documents.segments, leaves, None)["span"]
    return list(torch.autograd.grad(span, [leaf.logits_nL2 for leaf in leaves]))

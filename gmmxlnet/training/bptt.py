"""Training on long documents in constant memory: the backward pass of `bptt_segments` segments at a time.

The same loss and the same gradients as `model(**batch).loss.backward()` gives, for every kind of memory: with
`bptt_segments` set no gradient crosses from one chunk of segments to the next, so each chunk's graph can be walked
back, and let go, before the next chunk is read. What grows with a document is its input, its logits and its routing.

The loss is a mean over segments, of which a chunk has a share: span, load balance (of each step of the recurrence),
entropy and reconstruction alike. Only `span_loss: document`, one softmax over all segments, couples them. With it the
documents are read twice, as Gao et al. 2021 (https://arxiv.org/abs/2101.06983) read batches for a contrastive loss:
first to know all logits, and with them the exact gradient of the softmax with respect to each; then again, chunk by
chunk, to hand these gradients on. That costs one more forward pass, about a third of a step. Both passes draw the same
dropout.

Shapes: B documents, S segments, n documents that have a segment, L tokens, k experts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.losses import at_least_float32
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
        batch: what the model takes to train, (B, S, L) with labels and `num_segments`.
        backward: what is done with each chunk's loss. It must retain the graph: what all segments share (position keys,
            stacked weights) is walked once for each chunk. The chunks' own graphs are let go all the same.
        autocast: makes the context in which the forward passes run.

    Returns: what `model(**batch)` does, without gradients.
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
    reconstruction = []
    for chunk in chunks:
        share = sum(segment.num_documents for segment in chunk) / num_segments
        pulls_of_chunk = None if pulls is None else pulls[len(kept) : len(kept) + len(chunk)]
        own, parts = _learn(reader, chunk, share, pulls_of_chunk, backward)
        kept += own
        reconstruction += [parts["reconstruction"]] if "reconstruction" in parts else []
    with torch.no_grad(), autocast():
        output = model.output_of(documents, kept, reader.state)
        output.loss_parts = model.loss_parts(documents.segments, kept, reader.recurring)
        if reconstruction:
            output.loss_parts["reconstruction"] = torch.stack(reconstruction).sum()
        output.loss = model.weighted(output.loss_parts)
    return output


class _Reader:
    """Reads chunks one after the other; no gradient goes back from one to the one before."""

    def __init__(self, model: GMMXLNetForQA, documents: SortedDocuments, autocast: Context) -> None:
        self.model, self.autocast = model, autocast
        with autocast():
            self.recurrence, self.state = model.start_reading(documents)
        self.recurring = model.recurring_words(documents.segments)

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
    """Read a chunk and walk back through it; a function of its own, so that its graph ends with it.

    Args: `share`: the chunk's part of all segments. `pulls`: of each segment, for a span loss that couples them.

    Returns: what is kept of it, and its share of the unweighted parts; without gradients.
    """
    model = reader.model
    kept = reader.read(chunk)
    with reader.autocast():
        parts = {name: share * part for name, part in model.loss_parts(chunk, kept, reader.recurring).items()}
        if pulls is not None:
            logits = [at_least_float32(one.logits_nL2) for one in kept]
            parts["span"] = sum((pull * x).sum() for pull, x in zip(pulls, logits, strict=True))
        loss = model.weighted(parts)
    backward(loss)
    return [one.detach() for one in kept], {name: part.detach() for name, part in parts.items()}


def _pulls(
    model: GMMXLNetForQA, documents: SortedDocuments, chunks: list[list[Segment]], autocast: Context
) -> list[Tensor]:
    """The gradient of the span loss with respect to each segment's logits (n, L, 2).

    The documents are read with graphs, which are dropped at once: so the second pass runs the same kernels. Logits of
    16 bits are seen in 32, in which small gradients do not vanish.
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

"""Targets of the losses on the memory: the words that it has to predict, and the words around them that address it.

Shapes: B documents, n documents that have a segment, L tokens, V words, R neighbors, T tokens of all segments so far,
m slots, d hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.losses import association_loss, reconstruction_loss, slot_scores
from gmmxlnet.models.recurrence import Segment

MEMORY_LOSSES = ("reconstruction", "association")  # names among the model's loss terms
NEIGHBOR_DISTANCE = 3  # tokens to either side of a word that are its cue
NEIGHBOR_OFFSETS = tuple(d for d in range(-NEIGHBOR_DISTANCE, NEIGHBOR_DISTANCE + 1) if d)


def content_of(segment: Segment, config: GMMXLNetConfig) -> Tensor:
    """Return a mask (n, L) bool of the document's own tokens: no special, question or memory token, no padding."""
    return (
        segment.attention_mask_nL.bool()
        & (segment.token_type_ids_nL == 0)
        & (segment.input_ids_nL < config.read_token_id)
        & (segment.input_ids_nL != config.sep_token_id)
    )


def new_content(segments: list[Segment], config: GMMXLNetConfig) -> list[Tensor]:
    """Return for each segment a mask (n, L) bool of the content tokens that the previous window did not contain.

    Windows overlap, so otherwise every word at the end of a window would count as recurring. Segments without offsets
    are assumed not to overlap.
    """
    end_n, new = None, []
    for segment in segments:
        content_nL, offsets_n = content_of(segment, config), segment.offsets_n
        new.append(content_nL)
        if offsets_n is None:
            continue
        if end_n is not None:
            repeated_n1 = (end_n[: len(offsets_n)] - offsets_n)[:, None]
            new[-1] = content_nL & (content_nL.cumsum(-1) > repeated_n1)
        end_n = offsets_n + content_nL.sum(-1)
    return new


def word_counts(token_ids_nL: Tensor, counted_nL: Tensor, num_words: int) -> Tensor:
    """Count the words 0 to `num_words` - 1 among the tokens selected by `counted_nL` (bool): (n, V) float32."""
    counts_nV = counted_nL.new_zeros(len(token_ids_nL), num_words, dtype=torch.float32)
    return counts_nV.scatter_add_(1, token_ids_nL.masked_fill(~counted_nL, 0), counted_nL.float())


@dataclass(frozen=True)
class RecurringWords:
    """The words that recur in later segments of a document, which are the targets until their last occurrence.

    Words that recur are those that a memory could have provided. The targets are computed from the text alone.

    first_BV, last_BV: int64, the first and last segment of a document with a word; last < first if it never occurs.
    weight_V: float32, inverse segment frequency, log(segments / segments with the word), which is 0 for function words
        that occur in every segment.
    """

    first_BV: Tensor
    last_BV: Tensor
    weight_V: Tensor

    @classmethod
    def of(
        cls,
        segments: list[Segment],
        config: GMMXLNetConfig,
        sum_over_processes: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> Self:
        """Compute from all segments of a batch's documents.

        `sum_over_processes` sums the counts of segments and of segments with each word, for a batch that is shared.
        """
        B, V = segments[0].num_documents, config.read_token_id
        first_BV = torch.full((B, V), len(segments), device=segments[0].input_ids_nL.device)
        last_BV = torch.full_like(first_BV, -1)
        having_V, num_segments = first_BV.new_zeros(V), first_BV.new_zeros(1)
        for s, (segment, new_nL) in enumerate(zip(segments, new_content(segments, config), strict=True)):
            n, said_nV = segment.num_documents, word_counts(segment.input_ids_nL, new_nL, V) > 0
            first_BV[:n] = torch.where(said_nV, first_BV[:n].clamp(max=s), first_BV[:n])
            last_BV[:n] = torch.where(said_nV, s, last_BV[:n])
            having_V, num_segments = having_V + said_nV.sum(0), num_segments + n
        totals = sum_over_processes(torch.cat([having_V, num_segments]).float())
        return cls(first_BV, last_BV, (totals[-1] / totals[:-1].clamp(min=1)).log())

    def targets(self, segment: int, num_documents: int) -> Tensor:
        """Return targets (n, V) after a segment: the weights of words that have occurred and will occur again."""
        first_nV, last_nV = self.first_BV[:num_documents], self.last_BV[:num_documents]
        return self.weight_V * ((first_nV <= segment) & (segment < last_nV))


@dataclass(frozen=True)
class Associations:
    """The recurring words of documents, with the words around them as the cue by which the memory is asked for them.

    A segment's tokens may be asked for as long as they recur, or until gradients are cut (`bptt_segments`). All
    segments' tensors are concatenated along T.

    recurring: which words, until which segment, with which weight. words_BT: int64, 0 for other than content tokens.
    new_BT: bool, tokens that count (`new_content`). neighbors_BTR: int64, the words at most NEIGHBOR_DISTANCE tokens
    away. counts_BTR: bool, which of them are part of the cue. cue_BTd: float32, the sum of their embeddings weighted by
    rarity, scaled to the length of `norm`. It has no gradient, since embeddings that move to where they are asked for
    leave nothing for the memory to learn (`reports/experiments.md`). norm, length (L), bptt_segments, sharpness
    (`memory_word_sharpness`): as in `of`.
    """

    recurring: RecurringWords
    words_BT: Tensor
    new_BT: Tensor
    neighbors_BTR: Tensor
    counts_BTR: Tensor
    cue_BTd: Tensor
    norm: Tensor
    length: int
    bptt_segments: int | None
    sharpness: float

    @classmethod
    def of(
        cls,
        segments: list[Segment],
        recurring: RecurringWords,
        config: GMMXLNetConfig,
        embedding_Vd: Tensor,
        norm: Tensor,
    ) -> Self:
        """Collect the words of all segments of a batch's documents.

        `embedding_Vd` are the word embeddings and `norm` the length of the memory's vectors, as in
        `losses.slot_scores`.
        """
        parts = []
        for segment, new_nL in zip(segments, new_content(segments, config), strict=True):
            content_nL = content_of(segment, config)
            words_nL = segment.input_ids_nL.where(content_nL, 0)
            neighbors_nLR, counts_nLR = neighbors_of(words_nL, content_nL)
            rarity_nLR = recurring.weight_V[neighbors_nLR] * counts_nLR
            with torch.no_grad():
                vectors_nLRd = embedding_Vd[neighbors_nLR].to(rarity_nLR.dtype)
                sum_nLd = torch.einsum("nlr,nlrd->nld", rarity_nLR, vectors_nLRd)
                cue_nLd = F.normalize(sum_nLd, dim=-1) * norm
            rows = segments[0].num_documents - segment.num_documents
            own = (words_nL, new_nL, neighbors_nLR, rarity_nLR > 0, cue_nLd)
            parts.append([F.pad(x, (0, 0) * (x.dim() - 1) + (0, rows)) for x in own])
        words_BT, new_BT, neighbors_BTR, counts_BTR, cue_BTd = (
            torch.cat(part, dim=1) for part in zip(*parts, strict=True)
        )
        L = segments[0].input_ids_nL.shape[1]
        return cls(
            *(recurring, words_BT, new_BT, neighbors_BTR, counts_BTR, cue_BTd, norm, L),
            bptt_segments=config.bptt_segments,
            sharpness=config.memory_word_sharpness,
        )

    def loss(self, segment: Segment, vectors_nmd: Tensor, scores_nmV: Tensor) -> Tensor:
        """Return the loss (n,) of the memory after a segment: its vectors and their `losses.slot_scores`."""
        n, first = segment.num_documents, 0
        if self.bptt_segments:  # only what gradients can reach, so that a long document needs no more room
            first = segment.number - segment.number % self.bptt_segments
        asked = slice(first * self.length, (segment.number + 1) * self.length)
        words_nT, new_nT, neighbors_nTR, counts_nTR, cue_nTd = (
            x[:n, asked] for x in (self.words_BT, self.new_BT, self.neighbors_BTR, self.counts_BTR, self.cue_BTd)
        )
        address_nmT = slot_scores(vectors_nmd, cue_nTd.to(vectors_nmd.dtype), self.norm, self.sharpness)
        weight_nT = self.recurring.targets(segment.number, n).gather(1, words_nT) * new_nT
        return association_loss(scores_nmV, address_nmT, words_nT, weight_nT, neighbors_nTR, counts_nTR)


def neighbors_of(words_nL: Tensor, content_nL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the words around each token, (n, L, R) int64, and a mask (n, L, R) of those that count.

    A neighbor is a content token at most NEIGHBOR_DISTANCE away with another word than the token's; of several equal
    neighbors the first counts.
    """
    L = words_nL.shape[1]
    distance_R = torch.tensor(NEIGHBOR_OFFSETS, device=words_nL.device)
    place_LR = torch.arange(L, device=words_nL.device)[:, None] + distance_R
    inside_LR = (place_LR >= 0) & (place_LR < L)
    place_LR = place_LR.clamp(0, L - 1)
    neighbors_nLR = words_nL[:, place_LR]
    counts_nLR = inside_LR & content_nL[:, place_LR] & (neighbors_nLR != words_nL[..., None])
    equal_nLRR = (neighbors_nLR[..., None] == neighbors_nLR[..., None, :]) & counts_nLR[..., None, :]
    return neighbors_nLR, counts_nLR & ~equal_nLRR.tril(-1).any(-1)


@dataclass(frozen=True)
class MemoryTargets:
    """What the losses ask of the memory after each segment of a batch; a part that no loss uses is None."""

    config: GMMXLNetConfig
    recurring: RecurringWords | None
    associations: Associations | None

    @classmethod
    def of(
        cls,
        segments: list[Segment],
        config: GMMXLNetConfig,
        embedding_Vd: Tensor,
        norm: Tensor,
        sum_over_processes: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> Self:
        """Compute from all segments of a batch's documents; the arguments are those of the two classes."""
        associates = config.memory_association_weight > 0
        if not associates and config.memory_reconstruction_target != "recurring":
            return cls(config, None, None)
        recurring = RecurringWords.of(segments, config, sum_over_processes)
        associations = Associations.of(segments, recurring, config, embedding_Vd, norm) if associates else None
        return cls(config, recurring, associations)

    def losses(self, segments: list[Segment], vectors_Nmd: Tensor, scores_NmV: Tensor) -> dict[str, Tensor]:
        """Return the losses after these segments, each a mean over all rows: vectors and their `losses.slot_scores`."""
        parts, config = {}, self.config
        if config.memory_reconstruction_weight > 0:
            targets = [self._words_after(segment) for segment in segments]
            parts["reconstruction"] = reconstruction_loss(scores_NmV, torch.cat(targets))
        if self.associations is not None:
            rows = [segment.num_documents for segment in segments]
            after = zip(segments, vectors_Nmd.split(rows), scores_NmV.split(rows), strict=True)
            asked = [self.associations.loss(*each) for each in after]
            parts["association"] = torch.cat(asked).mean()
        return parts

    def _words_after(self, segment: Segment) -> Tensor:
        """Return the reconstruction's targets (n, V) after a segment."""
        if self.recurring is not None and self.config.memory_reconstruction_target == "recurring":
            return self.recurring.targets(segment.number, segment.num_documents)
        return word_counts(segment.input_ids_nL, content_of(segment, self.config), self.config.read_token_id)

"""A memory that stores words, not vectors: each token is told what stood beside the same word before.

A cache that is looked up by content (Grave et al. 2017, https://arxiv.org/abs/1612.04426), with the word itself as the
key and the words around it as the value. A fact that was stated near a word is thus at hand wherever the word comes
again, in the question too. The memory is the last `mem_len` tokens of a document: three integers for each, where `mems`
keeps d numbers for each layer.

Shapes: B documents, n documents that have a segment, L tokens, M cached tokens, R neighbors, d hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import initialization as init

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.models.memories.interface import Memory, MemoryModule
from gmmxlnet.models.memory_targets import NEIGHBOR_OFFSETS, content_of
from gmmxlnet.models.recurrence import PaddedState, Reading, Segment

GATE_BIAS = -1.0  # initial: a neighbor's embedding is added with weight σ(-1) = 0.27


class WordMemory(Memory):
    """Memory type `words`."""

    description = "the words before, looked up: each token sees what stood beside the same word"

    def modules(self) -> dict[str, nn.Module]:
        """Return the module that adds what was found to the embeddings."""
        return {"word_reader": WordReader(self.config)}

    def recurrence(self, model: Any, num_documents: int, length: int) -> "WordRecurrence":
        """Return the recurrence with the cache of words."""
        return WordRecurrence(self.config, model.encoder, model.word_reader, length=length)


@dataclass
class WordState(PaddedState):
    """A document's last M <= `mem_len` tokens, padded on the left.

    words_BM: int64. readable_BM: int64, 1 for words of the document; 0 for question, special tokens and padding.
    attention_mask_BM: int64, 0 for padding.
    """

    words_BM: Tensor
    readable_BM: Tensor
    attention_mask_BM: Tensor


class WordReader(MemoryModule):
    """Adds g · Σ_r P_r v_r to a token's embedding e.

    v_r is the embedding of the word r places after an earlier occurrence of the same word, averaged over these, and
    zero where there is none. P_r are matrices, one for each r from -3 to 3 but 0, and g = σ(w · e + b) is the token's
    gate, by which frequent words can be left alone.
    """

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(len(NEIGHBOR_OFFSETS) * config.d_model, config.d_model, bias=False)
        self.gate = nn.Linear(config.d_model, 1)

    def initialize(self, config: GMMXLNetConfig) -> None:
        """Initialize every P_r to the identity, w to 0 and b to -1."""
        init.copy_(self.projection.weight, torch.eye(config.d_model).repeat(1, len(NEIGHBOR_OFFSETS)))
        init.zeros_(self.gate.weight)
        init.constant_(self.gate.bias, GATE_BIAS)

    def forward(self, embedding_nLd: Tensor, same_nLM: Tensor, cached_nMd: Tensor) -> Tensor:
        """Return what is added to the embeddings (n, L, d).

        Args:
            same_nLM: bool, which cached tokens are the same word as a token.
            cached_nMd: embeddings of the cached tokens, zero where none may be read.
        """
        weight_nLM = same_nLM.to(cached_nMd.dtype)
        weight_nLM = weight_nLM / weight_nLM.sum(-1, keepdim=True).clamp(min=1)
        neighbors_nMRd = torch.stack([shifted(cached_nMd, r) for r in NEIGHBOR_OFFSETS], dim=2)
        found_nLRd = weight_nLM @ neighbors_nMRd.flatten(2)
        return self.gate(embedding_nLd).sigmoid() * self.projection(found_nLRd)


class WordRecurrence:
    """For each segment: (1) its tokens are looked up in the cache; (2) it is encoded; (3) its words are cached."""

    def __init__(self, config: GMMXLNetConfig, encoder: XLNetEncoder, reader: WordReader, *, length: int) -> None:
        self.config, self.encoder, self.reader = config, encoder, reader
        self.position_keys = encoder.position_keys(length, length)

    def start(self, num_documents: int) -> WordState:
        """Return an empty cache, M = 0."""
        nothing_B0 = torch.zeros(num_documents, 0, dtype=torch.int64, device=self.encoder.word_embedding.weight.device)
        return WordState(nothing_B0, nothing_B0, nothing_B0)

    def read(self, segment: Segment, state: WordState, *, zeroed: bool = False) -> tuple[Reading, WordState]:
        """Read one segment; if `zeroed`, with an empty cache."""
        if zeroed:
            state = self.start(segment.num_documents)
        embedding_nLd = self.encoder.word_embedding(segment.input_ids_nL)
        readable_nM = state.readable_BM.bool()
        same_nLM = (segment.input_ids_nL[:, :, None] == state.words_BM[:, None]) & readable_nM[:, None]
        cached_nMd = self.encoder.word_embedding(state.words_BM) * readable_nM[..., None]
        embedding_nLd = embedding_nLd + self.reader(embedding_nLd, same_nLM, cached_nMd)
        mask_nL = segment.attention_mask_nL
        hidden_nLd = self.encoder(embedding_nLd, mask_nL, segment.token_type_ids_nL, self.position_keys)
        return Reading(hidden_nLd), self._with(segment, state)

    def _with(self, segment: Segment, state: WordState) -> WordState:
        """Append a segment's tokens, of which those of the context may be read; padding goes to the left."""
        readable_nL = content_of(segment, self.config).long()
        own = (segment.input_ids_nL * readable_nL, readable_nL, segment.attention_mask_nL)
        joined = [torch.cat(pair, dim=1) for pair in zip(vars(state).values(), own, strict=True)]
        order_nM = joined[-1].argsort(dim=1, stable=True)[:, -self.config.mem_len :]
        return WordState(*(x.gather(1, order_nM) for x in joined))


def shifted(x_nMd: Tensor, offset: int) -> Tensor:
    """Return what stands `offset` places after each of M places; zero beyond the ends."""
    M = x_nMd.shape[1]
    return F.pad(x_nMd, (0, 0, max(-offset, 0), max(offset, 0)))[:, max(offset, 0) :][:, :M]

"""Looking a memory up by content: every token reads the slots that match its word.

Shapes: n documents, L tokens, M slots of all memories, k experts, d hidden size.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.losses import slot_scores
from gmmxlnet.models.memories.interface import MemoryModule, near_identity


class MemoryLookup(MemoryModule):
    """Adds P · Σ_s w_s v_s to a token's embedding e, with w = softmax([β · v_s · e / norm², …, b]).

    β is `memory_word_sharpness`. v are the memory's slots as vectors of the embedding space. This is content-based
    addressing (Graves et al. 2014, https://arxiv.org/abs/1410.5401, section 3.3.1) with the scores by which
    `losses.association_loss` addresses the slots in training. The last score, b, belongs to an empty slot, so that a
    word that matches nothing reads nothing.
    """

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.sharpness = config.memory_word_sharpness
        self.projection = nn.Linear(config.d_model, config.d_model, bias=False)
        self.empty_score = nn.Parameter(torch.empty(1))

    def initialize(self, config: GMMXLNetConfig) -> None:
        """Initialize P near the identity, and b to the score of a slot that matches by half."""
        near_identity(self.projection)
        init.constant_(self.empty_score, self.sharpness / 2)

    def forward(
        self, embedding_nLd: Tensor, vectors_nMd: Tensor, norm: Tensor, readable_nM: Tensor | None = None
    ) -> Tensor:
        """Return what is added to the embeddings (n, L, d).

        Args:
            vectors_nMd: `Speaker.as_embeddings` of the slots. norm: scalar, their length.
            readable_nM: bool, the slots that may be read; None for all.
        """
        scores_nML = slot_scores(vectors_nMd, embedding_nLd, norm, self.sharpness)
        if readable_nM is not None:
            scores_nML = scores_nML.masked_fill(~readable_nM[..., None], -torch.inf)
        empty_n1L = self.empty_score.to(scores_nML.dtype).expand(len(scores_nML), 1, scores_nML.shape[-1])
        weight_nML = torch.cat([scores_nML, empty_n1L], dim=1).softmax(1)[:, :-1]
        return self.projection(weight_nML.mT.to(vectors_nMd.dtype) @ vectors_nMd)

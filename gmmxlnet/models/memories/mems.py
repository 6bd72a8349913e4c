"""XLNet's own segment recurrence: each layer also attends to its cached inputs of the previous segments.

From Dai et al. 2019 (https://arxiv.org/abs/1901.02860) and Yang et al. 2019 (https://arxiv.org/abs/1906.08237). The
cache holds every layer's inputs at a document's last `mem_len` tokens, including the question and special tokens of
each segment. It has no parameters and no gradient flows into it.

Unlike in `transformers`, padding in the cache is masked, and cached tokens keep their segment ids. The cache is placed
directly before the first token of the next segment, whatever its padding, so that distances are those of consecutive
tokens.

Shapes: B documents, n documents that have a segment, L tokens, M cached tokens, K = M + L, l layers, d hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.models.memories.interface import Memory
from gmmxlnet.models.recurrence import PaddedState, Reading, Segment, padded_left


class SegmentCache(Memory):
    """Memory type `mems`."""

    description = "XLNet's own recurrence: each layer sees its inputs of the tokens before"

    def recurrence(self, model: Any, num_documents: int, length: int) -> "CacheRecurrence":
        """Return the recurrence with the cache."""
        return CacheRecurrence(self.config, model.encoder, length=length)


@dataclass
class CacheState(PaddedState):
    """Each layer's input at the last M <= `mem_len` tokens, one row per document, padded on the left.

    inputs_BMld: the layers' inputs. attention_mask_BM: 0 for padding. token_type_ids_BM: segment ids.
    """

    inputs_BMld: Tensor
    attention_mask_BM: Tensor
    token_type_ids_BM: Tensor


class CacheRecurrence:
    """The recurrence of `mems`.

    For each segment: (1) the cache is moved to directly before the segment's first token; (2) each layer attends to its
    cached and its current inputs; (3) the last `mem_len` of both are the new cache.
    """

    def __init__(self, config: GMMXLNetConfig, encoder: XLNetEncoder, *, length: int) -> None:
        self.encoder, self.length = encoder, length
        self.mem_len, self.num_layers = config.mem_len, config.n_layer
        self.position_keys = encoder.position_keys(length, config.mem_len + length)

    def start(self, num_documents: int) -> CacheState:
        """Return an empty cache, M = 0."""
        weight = self.encoder.word_embedding.weight
        nothing_B0 = torch.zeros(num_documents, 0, dtype=torch.int64, device=weight.device)
        return CacheState(weight.new_zeros(num_documents, 0, self.num_layers, weight.shape[1]), nothing_B0, nothing_B0)

    def read(self, segment: Segment, state: CacheState, *, zeroed: bool = False) -> tuple[Reading, CacheState]:
        """Read one segment; if `zeroed`, with an empty cache."""
        if zeroed:
            state = self.start(segment.num_documents)
        joint = _Joint(segment.attention_mask_nL, state)
        mask_nK = joint.of(state.attention_mask_BM, segment.attention_mask_nL)
        types_nK = joint.of(state.token_type_ids_BM, segment.token_type_ids_nL)
        inputs: list[Tensor] = []

        def context(i: int, hidden_nLd: Tensor) -> Tensor:
            joined_nKd = joint.of(state.inputs_BMld[:, :, i], hidden_nLd)
            inputs.append(joined_nKd[:, -self.mem_len :].detach())
            return joined_nKd

        hidden_nLd = self.encoder(
            self.encoder.word_embedding(segment.input_ids_nL), mask_nK, types_nK, self._keys(mask_nK.shape[1]), context
        )
        new = CacheState(torch.stack(inputs, dim=2), mask_nK[:, -self.mem_len :], types_nK[:, -self.mem_len :])
        return Reading(hidden_nLd), new

    def _keys(self, num_keys: int) -> list[Tensor]:
        """Select the position keys for this many keys: the cache grows until it holds mem_len tokens."""
        return [keys_HPh[:, -(num_keys + self.length - 1) :] for keys_HPh in self.position_keys]


class _Joint:
    """Joins cached and current tokens into one sequence: padding, then the cache, then the segment."""

    def __init__(self, attention_mask_nL: Tensor, state: CacheState) -> None:
        self.M, self.L = state.attention_mask_BM.shape[1], attention_mask_nL.shape[1]
        padding_n1 = (attention_mask_nL.cumsum(-1) == 0).sum(-1, keepdim=True)
        column_K = torch.arange(self.M + self.L, device=attention_mask_nL.device)
        self.is_segment_nK = column_K >= self.M + padding_n1
        self.source_nK = (column_K - padding_n1) % (self.M + self.L)  # rotates (cache, L zeros) right

    def of(self, cached_nM: Tensor, segment_nL: Tensor) -> Tensor:
        """Join (n, M, ...) and (n, L, ...) to (n, K, ...); no gradient flows into the cached part."""
        shape = self.source_nK.shape + (1,) * (segment_nL.dim() - 2)
        cached_nK = F.pad(cached_nM, (0, 0) * (segment_nL.dim() - 2) + (0, self.L))
        moved_nK = cached_nK.take_along_dim(self.source_nK.view(shape), dim=1)
        return torch.where(self.is_segment_nK.view(shape), padded_left(segment_nL, self.M), moved_nK)

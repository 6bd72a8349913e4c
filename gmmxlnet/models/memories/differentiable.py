"""A bank of slots per document that every token reads: MemXLNet's second kind of memory, without special tokens.

Content-based addressing and writing with erase and add vectors follow Neural Turing Machines (Graves et al. 2014,
https://arxiv.org/abs/1410.5401, sections 3.1 to 3.3). Before a segment is encoded, each token's embedding queries the
bank; afterwards one vector, pooled from the hidden states, is written to it. The heads are like those of attention:
each addresses, reads and writes its own slice of every slot.

Shapes: B documents, L tokens, N slots, H heads, h = d / H size of a slice, d hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import initialization as init

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.models.memories.interface import Memory, MemoryModule, near_identity
from gmmxlnet.models.recurrence import Reading, Segment, State
from gmmxlnet.options import check_heads


class BankMemory(Memory):
    """Memory type `differentiable`."""

    description = "a bank of {memory_num_tokens} slots that every token reads, {memory_heads} heads"

    def check(self) -> None:
        """Raise ConfigError if the number of heads does not divide the hidden size."""
        check_heads("memory_heads", self.config.memory_heads, self.config.d_model)

    def modules(self) -> dict[str, nn.Module]:
        """Return the bank."""
        return {"memory_bank": MemoryBank(self.config)}

    def recurrence(self, model: Any, num_documents: int, length: int) -> "BankRecurrence":
        """Return the recurrence that reads and writes the bank."""
        return BankRecurrence(model.encoder, model.memory_bank, length=length)

    def speaker(self, model: Any) -> "MemoryBank":
        """Return the bank: tokens read the values of its slots."""
        bank: MemoryBank = model.memory_bank
        return bank

    @staticmethod
    def sizes(size: Callable[[str, int], int | None], count: Callable[[str], int]) -> dict[str, int | None]:
        """Return the number of slots."""
        return {"memory_slots": size("memory_bank.initial_slots", 0)}


@dataclass
class BankState(State):
    """The state passed from segment to segment, one row per document.

    slots_BNd: the bank. usage_BHN: how much each head has written to each slot, 0 to 1; zeros if it is not tracked.
    """

    slots_BNd: Tensor
    usage_BHN: Tensor


class TokenPooling(nn.Module):
    """Pools hidden states (B, L, d) to (B, d) without padding: mean, maximum, or a learned weighted mean."""

    def __init__(self, method: str, d_model: int) -> None:
        super().__init__()
        self.method = method
        if method == "attention":
            self.query = nn.Linear(d_model, 1, bias=False)

    def forward(self, hidden_BLd: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Pool over the tokens whose mask is 1."""
        mask_BL1 = attention_mask_BL[..., None].bool()
        if self.method == "mean":
            return hidden_BLd.masked_fill(~mask_BL1, 0).sum(1) / mask_BL1.sum(1)
        if self.method == "max":
            return hidden_BLd.masked_fill(~mask_BL1, -torch.inf).amax(1)
        return (self.query(hidden_BLd).masked_fill(~mask_BL1, -torch.inf).softmax(1) * hidden_BLd).sum(1)


class MemoryBank(MemoryModule):
    """The initial slots, and how they are read by tokens and written after a segment.

    Reading: w_i = softmax_i(β cos(query, slot_i)) for each token and head; Σ_i w_i value_i is added to the token's
    embedding through `projection`, which starts at zero, so that a new bank does not change a trained encoder's output.
    The values are the slots projected to the space of word embeddings, all of length `norm`.

    Writing: w_i = softmax_i(β (cos(key, slot_i) - usage_i)); slot_i <- slot_i (1 - w_i erase) + w_i add, with erase in
    (0, 1) and add in (-1, 1). With `usage_tracking`, usage_i <- usage_i + (1 - usage_i) w_i, so that empty slots are
    preferred; without it usage stays 0.
    """

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        d = config.d_model
        self.num_heads, self.sharpness, self.usage_tracking = (
            config.memory_heads,
            config.memory_sharpness,
            config.usage_tracking,
        )
        self.initial_slots = nn.Parameter(torch.empty(config.memory_slots, d))
        self.query = nn.Linear(d, d)
        self.value = nn.Linear(d, d, bias=False)  # no bias, so that an empty bank is read as zero
        self.norm = nn.Parameter(torch.empty(1))
        self.projection = nn.Linear(d, d, bias=False)
        self.pooling = TokenPooling(config.pooling_method, d)
        self.key = nn.Linear(d, d)
        self.erase = nn.Linear(d, d)
        self.add = nn.Linear(d, d)

    def initialize(self, config: GMMXLNetConfig) -> None:
        """Draw slots from N(0, std) and start `add` and `value` near the identity.

        `projection` starts at zero, the values with the length of a newly initialized word embedding.
        """
        init.normal_(self.initial_slots, std=config.initializer_range)
        near_identity(self.add)
        near_identity(self.value)
        init.zeros_(self.projection.weight)
        init.constant_(self.norm, config.initializer_range * config.d_model**0.5)

    def forward(self, num_documents: int) -> BankState:
        """Return the state before the first segment: every document starts from the same unused slots."""
        N = len(self.initial_slots)
        return BankState(
            self.initial_slots.expand(num_documents, -1, -1),
            self.initial_slots.new_zeros(num_documents, self.num_heads, N),
        )

    def as_embeddings(self, slots_BNd: Tensor) -> Tensor:
        """Project slots to the space of word embeddings, all of length `norm`; zero vectors stay zero."""
        return F.normalize(self.value(slots_BNd), dim=-1) * self.norm

    def read(self, embedding_BLd: Tensor, slots_BNd: Tensor) -> Tensor:
        """Return what is added to the embeddings, (B, L, d)."""
        weight_BHLN = self._scores(self.query(embedding_BLd), slots_BNd).softmax(-1)
        value_BHNh = self._by_head(self.as_embeddings(slots_BNd))
        return self.projection((weight_BHLN @ value_BHNh).transpose(1, 2).flatten(2))

    def write(self, hidden_BLd: Tensor, attention_mask_BL: Tensor, state: BankState) -> BankState:
        """Return the state after a segment with these hidden states."""
        pooled_B1d = self.pooling(hidden_BLd, attention_mask_BL)[:, None]
        scores_BHN = self._scores(self.key(pooled_B1d), state.slots_BNd)[:, :, 0]
        weight_BHN = (scores_BHN - self.sharpness * state.usage_BHN).softmax(-1)
        weight_BHN1 = weight_BHN[..., None]
        erase_BH1h, add_BH1h = self._by_head(self.erase(pooled_B1d)), self._by_head(self.add(pooled_B1d))
        slots_BHNh = self._by_head(state.slots_BNd) * (1 - weight_BHN1 * erase_BH1h.sigmoid())
        slots_BHNh = slots_BHNh + weight_BHN1 * add_BH1h.tanh()
        usage_BHN = state.usage_BHN
        if self.usage_tracking:
            usage_BHN = usage_BHN + (1 - usage_BHN) * weight_BHN
        return BankState(slots_BHNh.transpose(1, 2).flatten(2), usage_BHN)

    def _scores(self, queries_BLd: Tensor, slots_BNd: Tensor) -> Tensor:
        """Return β cos(query, slot) for each head, (B, H, L, N)."""
        queries_BHLh = F.normalize(self._by_head(queries_BLd), dim=-1)
        return self.sharpness * (queries_BHLh @ F.normalize(self._by_head(slots_BNd), dim=-1).transpose(2, 3))

    def _by_head(self, x_BNd: Tensor) -> Tensor:
        """Reshape (B, N, d) to (B, H, N, h)."""
        return x_BNd.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class BankRecurrence:
    """For each segment: (1) its tokens read the bank; (2) it is encoded; (3) the bank is written."""

    def __init__(self, encoder: XLNetEncoder, bank: MemoryBank, *, length: int) -> None:
        self.encoder, self.bank = encoder, bank
        self.position_keys = encoder.position_keys(length, length)

    def start(self, num_documents: int) -> BankState:
        """Return the learned initial slots."""
        return self.bank(num_documents)

    def read(self, segment: Segment, state: BankState, *, zeroed: bool = False) -> tuple[Reading, BankState]:
        """Read one segment; if `zeroed`, tokens read nothing from the bank."""
        embedding_nLd = self.encoder.word_embedding(segment.input_ids_nL)
        if not zeroed:
            embedding_nLd = embedding_nLd + self.bank.read(embedding_nLd, state.slots_BNd)
        mask_nL = segment.attention_mask_nL
        hidden_nLd = self.encoder(embedding_nLd, mask_nL, segment.token_type_ids_nL, self.position_keys)
        new = self.bank.write(hidden_nLd, mask_nL, state)
        return Reading(hidden_nLd, read_nmd=new.slots_BNd), new

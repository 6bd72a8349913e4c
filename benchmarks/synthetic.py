"""Models from scratch and batches of random words, for benchmarks that need no dataset.

Shapes: B documents, S segments, L tokens of a segment, m memory slots.
"""

import torch
from torch import Tensor

from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA

SEP, CLS, WORDS, QUESTION = 4, 3, 8000, 12


def random_model(memory_type: str, *, slots: int, k: int = 4, **other: object) -> GMMXLNetForQA:
    """A model of `WORDS` words with the losses of the sample profile; `other` are keys of `GMMXLNetConfig`."""
    torch.manual_seed(0)
    config = GMMXLNetConfig(
        **{"dropout": 0.0, "initializer_range": 0.05, "memory_reconstruction_weight": 1.0, **other},
        vocab_size=WORDS + KINDS[memory_type].num_token_ids(slots),
        sep_token_id=SEP,
        memory_type=memory_type,
        num_memory_experts=k,
        memory_slots=slots,
    )
    return GMMXLNetForQA(config)


def random_batch(config: GMMXLNetConfig, *, B: int, S: int, L: int) -> dict[str, Tensor]:
    """B documents of S full segments, each with the answer in its first segment."""
    generator = torch.Generator().manual_seed(0)
    m = config.memory_num_tokens
    writes, reads = (torch.arange(m) + first for first in (config.write_token_id, config.read_token_id))
    length = L - 2 * m - QUESTION - 3
    context = torch.randint(9, WORDS, (B, S, length), generator=generator)
    question = torch.randint(9, WORDS, (B, 1, QUESTION), generator=generator)
    parts = [writes, torch.tensor([SEP]), reads, question, torch.tensor([SEP]), torch.tensor([CLS])]
    ids = torch.cat([context, *(part.expand(B, S, -1) for part in parts)], dim=-1)
    types = torch.tensor([0] * (length + m + 1) + [1] * (m + QUESTION + 1) + [2]).expand(B, S, L)
    labels = torch.full((2, B, S), L - 1)
    labels[:, :, 0] = torch.tensor([3, 5])[:, None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": types.contiguous(),
        "num_segments": torch.full((B,), S),
        "start_positions": labels[0],
        "end_positions": labels[1],
    }

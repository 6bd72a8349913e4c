"""Models from scratch and batches of random words, for benchmarks that need no dataset.

Shapes: B documents, S segments, L tokens of a segment, m memory slots.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.xlnet_weights import extended_config

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


def xlnet_config(*, d_model: int, n_layer: int, vocab_size: int = 32_000) -> XLNetConfig:
    """XLNet's proportions: heads of 64, a feed-forward network four times as wide, dropout 0.1."""
    return XLNetConfig(
        vocab_size=vocab_size, d_model=d_model, n_layer=n_layer, n_head=max(1, d_model // 64), d_inner=4 * d_model
    )


def pair(config: XLNetConfig, **memory: Any) -> tuple[XLNetForQuestionAnsweringSimple, GMMXLNetForQA]:
    """transformers' model and ours of the same size, both training."""
    torch.manual_seed(0)
    theirs = XLNetForQuestionAnsweringSimple(config)
    ours = GMMXLNetForQA(extended_config(config, **({"memory_type": "none"} | memory)))
    return theirs.train(), ours.train()


def document_batch(*, B: int, S: int, L: int, slots: int, vocab_size: int, memory_tokens: bool) -> dict[str, Tensor]:
    """Random documents; `slots` memory tokens of each kind, or as many tokens of text in their places."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, vocab_size, (B, S, L), generator=generator)
    types = torch.zeros_like(ids)
    question = L // 8
    types[..., -question - slots :], types[..., -1] = 1, 2
    if memory_tokens:
        reads = torch.arange(slots) + vocab_size
        ids[..., L - question - slots : L - question] = reads
        ids[..., L - question - 2 * slots : L - question - slots] = reads + slots
    start = torch.randint(0, L // 2, (B, S), generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": types,
        "num_segments": torch.full((B,), S),
        "start_positions": start,
        "end_positions": start + 2,
    }

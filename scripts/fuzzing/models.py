"""Small random models, for targets that need one."""

from pathlib import Path
from typing import Any

import torch

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA

SIZE: dict[str, Any] = {"d_model": 8, "n_head": 2, "n_layer": 1, "d_inner": 8, "initializer_range": 0.3}
MIXTURE: dict[str, Any] = {"memory_type": "gmm", "num_memory_experts": 2, "memory_slots": 2}


def make_model(chunks: Path, **settings: Any) -> tuple[GMMXLNetForQA, Any]:
    """A mixture of two experts for these chunks, and their tokenizer."""
    torch.manual_seed(0)
    layout = Documents.open(chunks, "dev").layout
    size = layout.vocab_size + 2 * MIXTURE["memory_slots"]
    config = GMMXLNetConfig(**SIZE, **MIXTURE, vocab_size=size, sep_token_id=layout.sep_id, **settings)
    return GMMXLNetForQA(config).eval(), load_tokenizer(str(chunks / "tokenizer"))

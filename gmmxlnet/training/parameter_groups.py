"""Which parameters are trained at which learning rate and weight decay.

The encoder, with a LoRA adapter where it has one, is trained at `learning_rate`; what no base model brings along is
trained at `learning_rate_memory`: memory, router, embeddings of the memory tokens, and head.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapters import WORD_EMBEDDING


def is_new(name: str) -> bool:
    """Whether a parameter of this name is no part of a base model, nor of an adapter in its place."""
    return not name.startswith("encoder.") or name == f"{WORD_EMBEDDING}.memory_tokens"


def parameter_groups(
    model: nn.Module,
    decayed: Collection[str],
    *,
    learning_rate: float,
    learning_rate_memory: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """The optimizer's groups, the encoder's first; empty ones are left out.

    Args:
        decayed: names of the parameters that weight decay applies to.
    """
    groups = []
    for new, rate in ((False, learning_rate), (True, learning_rate_memory)):
        for decay in (True, False):
            parameters = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad and is_new(name) == new and (name in decayed) == decay
            ]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay if decay else 0.0})
    return groups


def step_memory_tokens_at(rate: float, model: GMMXLNetForQA, optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer step the memory tokens' word embeddings at `rate` times the encoder's learning rate.

    They are rows of one parameter, and an optimizer has one learning rate for each. AdamW's step is proportional to it,
    decay included, so that the rows' step is made at the encoder's rate and then multiplied.
    """
    first = model.config.read_token_id  # the memory tokens come after all words
    before: list[Tensor] = []

    def keep(*_: Any) -> None:
        before[:] = [_rows(model, first).clone()]

    def lengthen(*_: Any) -> None:
        rows_nd, before_nd = _rows(model, first), before.pop()
        rows_nd.copy_(before_nd + rate * (rows_nd - before_nd))

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(lengthen)


def _rows(model: GMMXLNetForQA, first: int) -> Tensor:
    return model.get_input_embeddings().weight.detach()[first:]

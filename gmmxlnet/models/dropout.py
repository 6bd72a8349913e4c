"""Dropout that does not dominate a training step on a CPU, where torch draws a random number for every element.

Here one draw of 64 bits decides for four elements, and a byte for each is all that backward keeps. On other devices it
is torch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 (the field's name for it)


def keep_mask(shape: tuple[int, ...], dropout: float) -> Tensor:
    """int8 on the CPU: 0 with probability `dropout`, rounded to 1/65536, else 1."""
    count = torch.Size(shape).numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (draws[:count] >= round(dropout * 2**16) - 2**15).view(torch.int8).view(shape)


class _MaskedScale(torch.autograd.Function):
    """x · mask · scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * scale).mul_(mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return (grad * ctx.scale).mul_(mask), None, None


class Dropout(nn.Module):
    """In training, zero with probability p and the rest scaled by 1/(1 - p); 0 <= p < 1."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, from the same generator though not the same draws."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        return _MaskedScale.apply(x, keep_mask(x.shape, self.p), 1 / (1 - self.p))

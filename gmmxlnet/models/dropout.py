"""Faster dropout on CPUs, where torch draws a random number for every element.

One 64-bit draw decides for four elements, and only one byte per element is saved for the backward pass. Other devices
use torch's dropout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 (the field's name for it)


def keep_mask(shape: tuple[int, ...], dropout: float) -> Tensor:
    """Draw an int8 mask on the CPU: 0 with probability `dropout` (rounded to 1/65536), else 1."""
    count = torch.Size(shape).numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (draws[:count] >= round(dropout * 2**16) - 2**15).view(torch.int8).view(shape)


class _MaskedScale(torch.autograd.Function):
    """Computes x · mask · scale."""

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
    """In training, zeroes elements with probability p and scales the others by 1/(1 - p); 0 <= p < 1."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout; uses torch's generator, but other draws than torch's dropout."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        return _MaskedScale.apply(x, keep_mask(x.shape, self.p), 1 / (1 - self.p))

"""What tensors hold, in bits."""

import hashlib
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

# What torch.load raises for a file that is no model's weights, or that would run code.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    pickle.UnpicklingError,
)


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity; None where all are numbers."""
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and hashes of all tensors, whatever their order and their files."""
    lines = "".join(f"{name} {tensor_hash(tensors[name])}\n" for name in sorted(tensors))
    return hashlib.sha256(lines.encode()).hexdigest()

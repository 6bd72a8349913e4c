"""Hashes of tensors and checks for non-finite values."""

import hashlib
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

# Raised by torch.load for files that are not model weights or that would execute code.
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
    """Returns the name of a tensor that contains NaN or infinity; None if all are finite."""
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and hashes of all tensors, independent of their order and files."""
    lines = "".join(f"{name} {tensor_hash(tensors[name])}\n" for name in sorted(tensors))
    return hashlib.sha256(lines.encode()).hexdigest()

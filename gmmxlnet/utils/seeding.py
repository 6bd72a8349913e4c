"""Seeds all random number generators and enables deterministic algorithms."""

import os

import torch
from transformers import set_seed


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch, and makes torch raise an error for nondeterministic algorithms.

    cuBLAS is deterministic only with a fixed workspace, which is read when CUDA starts: call this first.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # of every new tensor: 5% of a training step

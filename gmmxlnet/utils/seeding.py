"""One seed for everything that draws, and algorithms that give the same bits again."""

import os

import torch
from transformers import set_seed


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and let torch refuse algorithms that are not deterministic.

    cuBLAS is deterministic only with a fixed workspace, which is read when CUDA starts: call this first.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_seed(seed)
    torch.use_deterministic_algorithms(True)

"""Resolves the settings `device` and `precision`."""

import torch

from gmmxlnet.errors import ConfigError


def choose_device(device: str) -> torch.device:
    """Returns the device for `auto` (a GPU if available, else the CPU), `cpu` or `cuda` (ConfigError without one)."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Returns bfloat16 or None (float32) for `torch.autocast`; `auto`: bfloat16 on a GPU and on a CPU with AMX."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu.get_capabilities().get("amx_bf16")
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and fast) else None

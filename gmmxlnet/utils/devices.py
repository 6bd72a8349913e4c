"""Resolves the `device` setting."""

import torch

from gmmxlnet.errors import ConfigError


def choose_device(device: str) -> torch.device:
    """Returns the device for `auto` (a GPU if available, else the CPU), `cpu` or `cuda` (ConfigError without one)."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")

"""The device that a `device` setting means."""

import torch

from gmmxlnet.errors import ConfigError


def choose_device(device: str) -> torch.device:
    """`auto`: a GPU where torch sees one, else the CPU; `cpu`; `cuda`, which raises ConfigError where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")

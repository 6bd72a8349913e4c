"""Resolves the settings `device` and `precision`."""

import torch

from gmmxlnet.errors import ConfigError

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str) -> torch.device:
    """Returns the device for `auto` (a GPU if available, else the CPU), `cpu` or `cuda` (ConfigError without one)."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def processor_kind() -> str:
    """Returns the instructions that torch computes with on the CPU: `AVX2`, say, or `AVX512 with AMX`."""
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{kind} with AMX" if _has_amx() else kind


def choose_precision(precision: str, device: torch.device) -> str:
    """Returns `precision`; for `auto` bfloat16 on a GPU that has it and on a CPU with AMX, float32 elsewhere."""
    if precision != "auto":
        return precision
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _has_amx()
    return "bfloat16" if fast else "float32"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Returns the dtype for `torch.autocast`, None for float32; `auto` as in `choose_precision`."""
    return DTYPES[choose_precision(precision, device)]


def _has_amx() -> bool:
    # Torch names the hardware's instructions even where the environment has it compute with fewer.
    capable = torch.cpu.get_capabilities().get("amx_bf16", False)
    return capable and torch.backends.cpu.get_cpu_capability() == "AVX512"

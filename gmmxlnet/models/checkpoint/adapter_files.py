"""The files of an adapter's checkpoint: PEFT's two files, and one with the memory and the head.

    config.json                 the model; `adapter` has the name, commit and weights' hash of the base model
    adapter_config.json         PEFT's configuration
    adapter_model.safetensors   PEFT's weights: LoRA's A and B of every projection
    memory_and_head.safetensors memory, router, head and the memory tokens' embeddings
    checkpoint.json             the manifest, as in every checkpoint

The base model is not included. Loading fetches it by name and checks its hash.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from gmmxlnet.errors import CheckpointError
from gmmxlnet.messages import said
from gmmxlnet.models.adapter_settings import BASE_VARIABLE, AdapterSettings
from gmmxlnet.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    OWN_WEIGHTS,
    is_frozen,
    is_lora,
    lora_config,
    name_in_adapted_model,
    name_in_file,
)
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.pretrained import read_base
from gmmxlnet.utils.files import read_object
from gmmxlnet.utils.tensors import weights_hash

# Keys that determine the adapter's outputs; the others may differ between versions of peft.
NEEDED_KEYS = ("base_model_name_or_path", "lora_alpha", "lora_dropout", "peft_type", "r", "revision", "target_modules")

Value = TypeVar("Value")


def saved_part(config: GMMXLNetConfig, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Return the tensors that a checkpoint contains: all, or with an adapter all except those of the base model."""
    return {name: x for name, x in tensors.items() if config.adapter is None or not is_frozen(name)}


def write_adapter(folder: Path, config: GMMXLNetConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter and the other trained tensors."""
    lora_config(config).save_pretrained(str(folder))
    lora = {name_in_file(name): tensor for name, tensor in tensors.items() if is_lora(name)}
    own = {name: tensor for name, tensor in tensors.items() if not is_lora(name)}
    save_file(lora, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    save_file(own, folder / OWN_WEIGHTS, metadata={"format": "pt"})


def check_adapter_config(folder: Path, config: GMMXLNetConfig) -> None:
    """Raise CheckpointError if `adapter_config.json` contradicts `config.json`."""
    file = folder / ADAPTER_CONFIG
    found = read_object(file, missing="an adapter's checkpoint has it")
    expected = json.loads(json.dumps(lora_config(config).to_dict()))
    for key in sorted({*NEEDED_KEYS, *(set(expected) & set(found))} - {"peft_version"}):
        if key not in found or found[key] != expected[key]:
            shown = said(repr(found[key]), 80) if key in found else "missing"
            raise CheckpointError(
                f"{file}: {key} is {shown}, but config.json says {expected[key]!r}; they belong to different "
                "checkpoints: get both from one"
            )


def base_tensors(
    folder: Path, config: GMMXLNetConfig, base_model: str | None = None, *, dtype: torch.dtype, **download: Any
) -> dict[str, Tensor]:
    """Read the frozen tensors, by their names in the model, from the base model that the adapter was trained on.

    Empty for a model without an adapter.

    Args:
        base_model: the base model's folder or Hub id; defaults to the environment variable GMMXLNET_BASE_MODEL, then to
            the checkpoint's entry.
        dtype: of the model.
        download: cache_dir, token and local_files_only, as in transformers' `from_pretrained`.

    Raises CheckpointError if the base model cannot be read or has other weights.
    """
    if config.adapter is None:
        return {}
    settings = AdapterSettings.from_dict(config.adapter)
    where = base_model or os.environ.get(BASE_VARIABLE) or settings.base_model
    revision = settings.base_revision if where == settings.base_model else None
    try:
        with torch.random.fork_rng(devices=[]):  # a missing head is initialized at random, but not used
            tensors = read_base(where, revision, **download).encoder_tensors()
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: needs its base model, and {error}; or say where it is: base_model=… or {BASE_VARIABLE}"
        ) from None
    if weights_hash(tensors) != settings.base_sha256:
        raise CheckpointError(
            f"{folder}: the base model {where!r} has other weights than the one trained on, {settings.base_model!r} at "
            f"{settings.base_revision or 'no revision'} (SHA-256 {settings.base_sha256[:12]}…); give that one: "
            f"base_model=… or {BASE_VARIABLE}"
        )
    return {
        name_in_adapted_model(name, has_memory_tokens=config.has_memory_tokens): tensor.to(dtype).contiguous()
        for name, tensor in tensors.items()
    }

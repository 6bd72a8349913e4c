"""A checkpoint with an adapter: PEFT's two files, memory and head beside them, and the name of the base it needs.

    config.json                 the model, and under `adapter` the base: its name, its commit, the hash of its weights
    adapter_config.json         PEFT's
    adapter_model.safetensors   PEFT's: LoRA's A and B of every projection
    memory_and_head.safetensors memory, router, head and the memory tokens' embeddings

The base itself is not in it. Loading fetches it by name, and takes no other than the one that was trained on.
"""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from gmmxlnet.errors import CheckpointError, ConfigError
from gmmxlnet.models.adapter_settings import BASE_VARIABLE, AdapterSettings
from gmmxlnet.models.adapters import (
    ADAPTER_NAME,
    import_peft,
    is_frozen,
    is_lora,
    lora_config,
    name_in_adapted_model,
)
from gmmxlnet.models.base import read_base
from gmmxlnet.utils.hashing import weights_hash

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN_WEIGHTS = "memory_and_head.safetensors"
PEFT_PREFIX = "base_model.model."
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")
IGNORED_OPTIONS = ("_from_auto", "adapter_kwargs", "trust_remote_code")  # transformers' Auto classes pass them on

Model = TypeVar("Model", bound=PreTrainedModel)


def save_adapter_checkpoint(model: PreTrainedModel, folder: Path) -> None:
    """Write the four files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    lora_config(model).save_pretrained(str(folder))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    lora = {_name_in_file(name): tensor for name, tensor in state.items() if is_lora(name)}
    own = {name: tensor for name, tensor in state.items() if not is_lora(name) and not is_frozen(name)}
    save_file(lora, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    save_file(own, folder / OWN_WEIGHTS, metadata={"format": "pt"})


def load_adapter_checkpoint(
    model_class: type[Model],
    name: str,
    config: Any,
    *,
    base_model: str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    subfolder: str = "",
    **options: Any,
) -> Model:
    """The model, on its base.

    Args:
        name: a folder or a Hub id. config: its `GMMXLNetConfig`.
        base_model: where the base is now: a folder or a Hub id; by default the environment variable
            GMMXLNET_BASE_MODEL, or else what the checkpoint says.
        dtype: other than the checkpoint's own.
        options: of the Hub, as for transformers' `from_pretrained`: cache_dir, force_download, local_files_only, token.

    Raises:
        CheckpointError: a file is missing, damaged or of another size, the base cannot be had or is another one than
            was trained on, or peft is not installed.
        ConfigError: an option is not known.
    """
    unknown = sorted(set(options) - {*HUB_OPTIONS, *IGNORED_OPTIONS})
    if unknown:
        raise ConfigError(f"from_pretrained of an adapter's checkpoint does not know {unknown[0]}; leave it out")
    import_peft()
    stored = _torch_dtype(config.dtype)
    hub = {option: value for option, value in options.items() if option in HUB_OPTIONS}
    files = {
        file: _fetch(name, file, revision=revision, subfolder=subfolder, **hub)
        for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, OWN_WEIGHTS)
    }
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
        model = model_class(config)
        _check_adapter_config(files[ADAPTER_CONFIG], model)
        expected = model.state_dict()
        lora_names = {_name_in_file(key): key for key in expected if is_lora(key)}
        own_names = {key: key for key in expected if not is_lora(key) and not is_frozen(key)}
        tensors = _base_tensors(name, config, base_model, **hub)
        tensors |= _tensors(files[ADAPTER_WEIGHTS], lora_names, expected, stored)
        tensors |= _tensors(files[OWN_WEIGHTS], own_names, expected, stored)
    _refuse_other_names(f"{name}: the base model", set(tensors), set(expected))
    model.load_state_dict(tensors)
    model = model.to(stored if dtype in (None, "auto") else _torch_dtype(dtype))
    model.config.name_or_path = name
    return model.eval()


def _torch_dtype(dtype: torch.dtype | str) -> torch.dtype:
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _fetch(name: str, file: str, **hub: Any) -> Path:
    try:
        return Path(cached_file(name, file, **hub))
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{name}: {file} cannot be had ({reason}); an adapter's checkpoint needs it") from None


def _check_adapter_config(file: Path, model: PreTrainedModel) -> None:
    """Refuse an `adapter_config.json` that says otherwise than `config.json`; keys of other versions of peft may be."""
    expected = json.loads(json.dumps(lora_config(model).to_dict()))
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); fetch or save the checkpoint again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: must hold an object; fetch or save the checkpoint again")
    needed = {"base_model_name_or_path", "lora_alpha", "lora_dropout", "peft_type", "r", "revision", "target_modules"}
    for key in sorted(needed | (set(expected) & set(found)) - {"peft_version"}):
        if key not in found or found[key] != expected[key]:
            shown = repr(found[key]) if key in found else "missing"
            raise CheckpointError(
                f"{file}: {key} is {shown}, but config.json says {expected[key]!r}; they are of two checkpoints"
            )


def _base_tensors(name: str, config: Any, base_model: str | None, **hub: Any) -> dict[str, Tensor]:
    """The frozen tensors by their names in the model, from the base that was trained on and no other."""
    settings = AdapterSettings.from_dict(config.adapter)
    where = base_model or os.environ.get(BASE_VARIABLE) or settings.base_model
    revision = settings.base_revision if where == settings.base_model else None
    try:
        tensors = read_base(where, revision, **hub).encoder_tensors()
    except CheckpointError as error:
        raise CheckpointError(
            f"{name}: needs its base model, and {error}; or say where it is: base_model=… or {BASE_VARIABLE}"
        ) from None
    if weights_hash(tensors) != settings.base_sha256:
        raise CheckpointError(
            f"{name}: the base model {where!r} has other weights than the one trained on, "
            f"{settings.base_model!r} at {settings.base_revision or 'no revision'} (SHA-256 "
            f"{settings.base_sha256[:12]}…); give that one: base_model=… or {BASE_VARIABLE}"
        )
    return {
        name_in_adapted_model(key, has_memory_tokens=config.has_memory_tokens): tensor
        for key, tensor in tensors.items()
    }


def _tensors(
    file: Path, names: Mapping[str, str], expected: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """A file's tensors by their names in the model; exactly those of `names` (in the file, in the model)."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); fetch or save the checkpoint again") from None
    _refuse_other_names(str(file), set(tensors), set(names))
    for key, tensor in tensors.items():
        shape = expected[names[key]].shape
        if tensor.shape != shape:
            raise CheckpointError(
                f"{file}: {key} has shape {tuple(tensor.shape)}, but config.json makes it {tuple(shape)}"
            )
        if tensor.dtype != dtype:
            raise CheckpointError(f"{file}: {key} is of dtype {tensor.dtype}, but config.json says {dtype}")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{file}: {key} holds values that are no finite numbers")
    return {names[key]: tensor for key, tensor in tensors.items()}


def _refuse_other_names(where: str, found: set[str], expected: set[str]) -> None:
    if found - expected:
        raise CheckpointError(f"{where}: holds {min(found - expected)}, which the model does not have")
    if expected - found:
        raise CheckpointError(f"{where}: lacks {min(expected - found)} and {len(expected - found) - 1} more")


def _name_in_file(name: str) -> str:
    return PEFT_PREFIX + name.replace(f".{ADAPTER_NAME}.", ".")

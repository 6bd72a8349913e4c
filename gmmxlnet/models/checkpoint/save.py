"""Save a model atomically: config.json, safetensors (one file or shards) and the manifest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from gmmxlnet.errors import CheckpointError, reason_of
from gmmxlnet.models.checkpoint.adapter_files import base_tensors, check_adapter_config, saved_part, write_adapter
from gmmxlnet.models.checkpoint.load import (
    check_headers,
    check_names,
    check_sizes,
    config_values,
    dtype_of,
    empty_model,
    filled,
    read_config,
    with_shared,
)
from gmmxlnet.models.checkpoint.manifest import CONFIG, MANIFEST, Manifest, file_record, listed_files, seal
from gmmxlnet.models.checkpoint.tokenizer_files import copy_tokenizer
from gmmxlnet.models.checkpoint.weights import DTYPE_NAMES, is_weights, read_headers, read_tensors, write_tensors
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.utils.files import files_at_once, read_json
from gmmxlnet.utils.tensors import first_not_finite, tensor_hash


def save_model(
    model: nn.Module, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, max_shard_size: int | str
) -> None:
    """Save a `GMMXLNetForQA`; an existing checkpoint is replaced once the new one is complete.

    The tokenizer of the checkpoint that the model was loaded from is saved too, unless the folder has one.

    Args:
        state_dict: the tensors to save instead of the model's own, under the same names.
        max_shard_size: largest size of a file, in bytes or as "5GB".

    Raises CheckpointError if tensors contain NaN, differ in dtype or are not the model's, or if writing fails.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach() for name, tensor in (state_dict or model.state_dict()).items()}
    check_names(tensors, model.state_dict(), "the tensors to be saved", "")
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1 or not dtypes <= set(DTYPE_NAMES):
        raise CheckpointError(
            f"{folder}: the model's tensors are {', '.join(sorted(map(str, dtypes)))}; cast them to one of "
            f"{', '.join(map(str, DTYPE_NAMES))} with model.to(dtype) before it is saved"
        )
    bad = first_not_finite(tensors)
    if bad is not None:
        raise CheckpointError(
            f"{folder}: {bad} holds NaN or infinity, so the model is not saved; its training diverged: lower "
            "learning_rate or max_grad_norm, or use precision float32"
        )
    config = model.config
    config.dtype, config.architectures = dtypes.pop(), [type(model).__name__]
    shared = _shared_names(model)
    own = {name: x.cpu().contiguous() for name, x in saved_part(config, tensors).items() if name not in shared}
    try:
        _write(folder, config, own, shared, max_shard_size)
        copy_tokenizer(model, folder)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else reason_of(error)
        raise CheckpointError(
            f"{folder}: cannot be written ({reason}); make room there or make it writable, and save again"
        ) from None


def _write(
    folder: Path, config: GMMXLNetConfig, tensors: dict[str, Tensor], shared: dict[str, str], max_shard_size: int | str
) -> None:
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file, expected a folder to save into")
    # safetensors refuses tensors that share storage, such as views of one tensor.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    with files_at_once(folder, last=MANIFEST, stale=is_weights) as scratch:
        (scratch / CONFIG).write_text(config.to_json_string(use_diff=True), encoding="utf-8")
        if config.adapter is None:
            write_tensors(scratch, tensors, max_shard_size)
        else:
            write_adapter(scratch, config, tensors)
        Manifest(
            version=config.version,
            config=read_json(scratch / CONFIG),
            tensors={name: _record(tensor) for name, tensor in tensors.items()},
            shared=shared,
            files=listed_files(scratch),
        ).write(scratch)


def adopt(cls: type, folder: str | Path, *, base_model: str | None = None) -> None:
    """Write a new manifest for a checkpoint that was edited on purpose; inconsistent files are refused.

    Args:
        base_model: as in `load_model`.
    """
    folder = Path(folder)
    config, stored = read_config(folder), read_headers(folder)
    shared: dict[str, str] = Manifest.read(folder).shared if (folder / MANIFEST).exists() else {}
    check_sizes(folder, config, with_shared(stored, shared))
    model = empty_model(cls, config)
    check_headers(folder, config, stored, shared, model.state_dict())
    if config.adapter is not None:
        check_adapter_config(folder, config)
    tensors = read_tensors(stored)
    filled(folder, model, tensors | base_tensors(folder, config, base_model, dtype=dtype_of(tensors)), shared)
    (folder / MANIFEST).unlink(missing_ok=True)
    Manifest(
        version=config.version,
        config=config_values(folder),
        tensors={name: _record(tensor) for name, tensor in sorted(tensors.items())},
        shared=shared,
        files={CONFIG: file_record(folder / CONFIG)},
    ).write(folder)
    seal(folder)


def _record(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "sha256": tensor_hash(tensor)}


def _shared_names(model: nn.Module) -> dict[str, str]:
    """Map each further name of a shared parameter to its first name."""
    first: dict[int, str] = {}
    names = model.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in names if first.setdefault(id(p), name) != name}

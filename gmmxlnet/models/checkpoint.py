"""Save and load a model, strictly both ways: what was saved is what is loaded, or a CheckpointError says why not.

    save_model(model, folder)                  config.json, model.safetensors (or shards), checkpoint.json
    load_model(GMMXLNetForQA, folder_or_hub_id)

`GMMXLNetForQA.save_pretrained` and `.from_pretrained` are these. Loading checks, in this order: the folder, its
config.json, what the caller asked for, the tensors' names, shapes and dtypes in the files' headers, then hashes, then
values. A folder of transformers' own XLNet for question answering loads as a model without memory (`older.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.utils.hub import extract_commit_hash

from gmmxlnet.errors import CheckpointError, ConfigError, reason_of
from gmmxlnet.models.adapter_files import base_tensors, check_adapter_config, saved_part, write_adapter
from gmmxlnet.models.asked import apply_asked
from gmmxlnet.models.configuration import BOOKKEEPING, GMMXLNetConfig
from gmmxlnet.models.manifest import CONFIG, MANIFEST, Manifest, file_record, listed_files, seal
from gmmxlnet.models.older import load_xlnet
from gmmxlnet.models.source import locate
from gmmxlnet.models.weights import (
    DTYPE_NAMES,
    DTYPES,
    OLD_WEIGHTS,
    Stored,
    is_weights,
    read_headers,
    read_old_weights,
    read_tensors,
    write_tensors,
)
from gmmxlnet.utils.files import files_at_once, read_json, read_object
from gmmxlnet.utils.tensors import first_not_finite, tensor_hash

__all__ = ["MANIFEST", "Manifest", "adopt", "load_model", "save_model", "seal"]


# Saving


def save_model(
    model: nn.Module, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, max_shard_size: int | str
) -> None:
    """Write a `GMMXLNetForQA`; a checkpoint that lies there is replaced once the new one is complete.

    Args:
        state_dict: the tensors to save instead of the model's own, under the same names.
        max_shard_size: of a file, in bytes or as "5GB".

    Raises CheckpointError where tensors hold NaN, differ in dtype or are not the model's, or where writing fails.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach() for name, tensor in (state_dict or model.state_dict()).items()}
    _check_names(tensors, model.state_dict(), "the tensors to be saved", "")
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
    # A view of a larger tensor, or two views of one, are saved as tensors of their own.
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


def adopt(folder: str | Path, *, base_model: str | None = None) -> None:
    """Write the manifest of a folder as it stands: for a checkpoint edited on purpose. What does not fit is refused.

    Args:
        base_model: as in `load_model`.
    """
    folder = Path(folder)
    config, stored = read_config(folder), read_headers(folder)
    shared: dict[str, str] = Manifest.read(folder).shared if (folder / MANIFEST).exists() else {}
    check_sizes(folder, config, _with_shared(stored, shared))
    model = empty_model(config)
    _check_headers(folder, config, stored, shared, model.state_dict())
    if config.adapter is not None:
        check_adapter_config(folder, config)
    tensors = read_tensors(stored)
    _filled(folder, model, tensors | base_tensors(folder, config, base_model, dtype=_dtype(tensors)), shared)
    (folder / MANIFEST).unlink(missing_ok=True)
    Manifest(
        version=config.version,
        config=_config_values(folder),
        tensors={name: _record(tensor) for name, tensor in sorted(tensors.items())},
        shared=shared,
        files={CONFIG: file_record(folder / CONFIG)},
    ).write(folder)
    seal(folder)


def _record(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "sha256": tensor_hash(tensor)}


def _dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    return next(iter(tensors.values())).dtype


def _shared_names(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are a parameter of an earlier name, and that name."""
    first: dict[int, str] = {}
    names = model.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in names if first.setdefault(id(p), name) != name}


# Loading


def load_model(
    cls: type,
    name: str | Path,
    *,
    asked: dict[str, Any],
    dtype: torch.dtype | str | None = None,
    use_safetensors: bool = True,
    base_model: str | None = None,
    **source: Any,
) -> Any:
    """A `GMMXLNetForQA` from a folder or the Hub, in evaluation mode.

    Args:
        asked: what the model is to be, by the names of `GMMXLNetConfig` and of the model's constructor; `apply_asked`.
        dtype: to cast to; None for the one it is stored in.
        use_safetensors: False reads `pytorch_model.bin`, which older versions of transformers wrote.
        base_model: where an adapter's base is, if not where the checkpoint says; a folder or a Hub id.
        source: `locate`'s.
    """
    folder = locate(name, use_safetensors=use_safetensors, **source)
    values = _config_values(folder)
    if values.get("model_type") == "xlnet":
        model = load_xlnet(cls, folder, values, asked=asked, use_safetensors=use_safetensors)
    else:
        download = {key: source[key] for key in ("cache_dir", "token", "local_files_only") if key in source}
        model = _load_own(folder, asked, use_safetensors, base_model, **download)
    model.name_or_path = model.config.name_or_path = str(name)
    model.config._commit_hash = extract_commit_hash(str(folder / CONFIG), None)  # as transformers notes it
    if dtype not in (None, "auto"):
        model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return model.eval()


def _load_own(
    folder: Path, asked: dict[str, Any], use_safetensors: bool, base_model: str | None, **download: Any
) -> nn.Module:
    config = read_config(folder)
    wanted = apply_asked(config, asked, folder)
    if not use_safetensors:
        tensors = read_old_weights(folder)
        check_sizes(folder, config, tensors)
        model = empty_model(wanted)
        _check_names(tensors, model.state_dict(), str(folder / OLD_WEIGHTS), "get the checkpoint again")
        _check_shapes(tensors, model.state_dict(), folder / OLD_WEIGHTS)
        _check_dtypes(folder, {name: DTYPE_NAMES.get(x.dtype, str(x.dtype)) for name, x in tensors.items()})
        return _filled(folder, model, tensors, {})
    opened = open_checkpoint(folder)
    opened.manifest.check_files(folder)
    model = empty_model(wanted)
    tensors = read_tensors(opened.stored)
    tensors |= base_tensors(folder, opened.config, base_model, dtype=_dtype(tensors), **download)
    return _filled(folder, model, tensors, opened.manifest.shared)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A checkpoint of which everything was checked but the bytes of its files."""

    config: GMMXLNetConfig
    stored: dict[str, Stored]
    manifest: Manifest


def open_checkpoint(folder: Path) -> Opened:
    """Check config.json, headers and manifest against each other; reads no weights. Raises CheckpointError."""
    config, stored, manifest = read_config(folder), read_headers(folder), Manifest.read(folder)
    check_sizes(folder, config, _with_shared(stored, manifest.shared))
    _check_headers(folder, config, stored, manifest.shared, empty_model(config).state_dict())
    _check_config(folder, config, manifest)
    if config.adapter is not None:
        check_adapter_config(folder, config)
    return Opened(config=config, stored=stored, manifest=manifest)


def _with_shared(held: Mapping[str, Any], shared: Mapping[str, str]) -> dict[str, Any]:
    """What is held by name, under the names that share it too."""
    return {**held, **{name: held[first] for name, first in shared.items() if first in held}}


def _config_values(folder: Path) -> dict[str, Any]:
    """What `config.json` says. Raises CheckpointError."""
    return read_object(folder / CONFIG, missing="a checkpoint has config.json and weights")


def read_config(folder: Path) -> GMMXLNetConfig:
    """The configuration of a checkpoint of ours. Raises CheckpointError."""
    values = _config_values(folder)
    kind = values.get("model_type")
    if kind != GMMXLNetConfig.model_type:
        raise CheckpointError(
            f"{folder}: is of model_type {str(kind)[:40]!r}, expected {GMMXLNetConfig.model_type!r}, or 'xlnet' for a "
            "model without memory; load it with transformers' AutoModelForQuestionAnswering"
        )
    try:
        return GMMXLNetConfig.from_dict(values)
    except ConfigError as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from None


def _check_config(folder: Path, config: GMMXLNetConfig, manifest: Manifest) -> None:
    """`config.json` must mean what was saved; `memory_type` may be left out or `standard` where that is `none`."""
    found = _config_values(folder)
    if found.get("memory_type") == "standard":
        found["memory_type"] = "none"
    manifest.check_config(folder, found)
    own, saved = (x.to_dict() for x in (config, GMMXLNetConfig.from_dict(manifest.config)))
    for key in sorted({*own, *saved} - set(BOOKKEEPING)):
        if own.get(key) != saved.get(key):
            raise CheckpointError(
                f"{folder / CONFIG}: {key} is left out, which means {own.get(key)!r}, but was saved as "
                f"{saved.get(key)!r}; get the checkpoint again"
            )


def check_sizes(folder: Path, config: GMMXLNetConfig, stored: Mapping[str, Stored | Tensor]) -> None:
    """The sizes that `config.json` gives must be those of the weights; before a model of them is made."""
    for key, size in sizes_in(stored).items():
        if size is not None and getattr(config, key) != size:
            raise CheckpointError(
                f"{folder}: {CONFIG} says {key} {getattr(config, key)}, but the weights have {size}; they belong to "
                "different checkpoints: get both from one"
            )


def sizes_in(stored: Mapping[str, Stored | Tensor]) -> dict[str, int | None]:
    """The keys of a configuration that can be seen from weights, None where the tensor that shows it is not there."""

    def size(name: str, dimension: int) -> int | None:
        shape = stored[name].shape if name in stored else ()
        return shape[dimension] if dimension < len(shape) else None

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in stored if name.startswith(prefix)})

    attention = "encoder.layers.0.attention.r_w_bias"
    slots = "memory_bank.initial_slots" if count("memory_bank.") else "expert_mixture.expert_0"
    return {
        "vocab_size": size("encoder.word_embedding.weight", 0),
        "d_model": size("encoder.word_embedding.weight", 1),
        "n_layer": count("encoder.layers."),
        "d_inner": size("encoder.layers.0.inner.weight", 0),
        "n_head": size(attention, 0),
        "d_head": size(attention, 1),
        "num_memory_experts": count("expert_mixture."),
        "memory_slots": size(slots, 0),
    }


def empty_model(config: GMMXLNetConfig) -> Any:
    """The model, without memory for its tensors."""
    from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA  # which imports this module

    with torch.device("meta"), no_init_weights():
        return GMMXLNetForQA(config)


def _check_headers(
    folder: Path,
    config: GMMXLNetConfig,
    stored: Mapping[str, Stored],
    shared: Mapping[str, str],
    expected: Mapping[str, Tensor],
) -> None:
    """Names, shapes and dtypes of what the files hold against the model that `config.json` describes."""
    own = {name: tensor for name, tensor in saved_part(config, expected).items() if name not in shared}
    where = next(iter(stored.values())).file.name if len({x.file for x in stored.values()}) == 1 else "the weights"
    _check_names(stored, own, f"{folder}: {where}", f"expected the tensors of a {_kind(config)} model")
    _check_shapes(stored, own, folder)
    dtype = _check_dtypes(folder, {name: tensor.dtype for name, tensor in stored.items()})
    if config.dtype is not None and config.dtype != dtype:
        raise CheckpointError(
            f"{folder}: the tensors are {dtype}, {CONFIG} says dtype {config.dtype}; they belong to "
            "different checkpoints: get both from one"
        )
    for name, first in shared.items():
        if name not in expected or first not in own or expected[name].shape != expected[first].shape:
            raise CheckpointError(f"{folder / MANIFEST}: {name} cannot share {first}; get the checkpoint again")


def _kind(config: GMMXLNetConfig) -> str:
    experts = f" with {config.num_memory_experts} experts and {config.routing_mode} routing"
    return config.memory_type + (experts if config.memory_type == "gmm" else "")


def _check_names(found: Mapping[str, Any], expected: Mapping[str, Any], where: str, remedy: str) -> None:
    end = f"; {remedy}" if remedy else ""
    missing = sorted(set(expected) - set(found))
    if missing:
        raise CheckpointError(f"{where}: lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}{end}")
    stray = sorted(set(found) - set(expected))
    if stray:
        raise CheckpointError(
            f"{where}: holds {len(stray)} tensors that the model has not, such as {stray[0][:80]!r}{end}"
        )


def _check_shapes(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    for name, tensor in expected.items():
        if tuple(found[name].shape) != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: {name} has the shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}; "
                "weights and config.json belong to different checkpoints"
            )


def _check_dtypes(folder: Path, dtypes: Mapping[str, str]) -> torch.dtype:
    """The dtype of all tensors, by name as in safetensors; there must be one, and a known one."""
    most = sorted(set(dtypes.values()))
    if len(most) > 1 or most[0] not in DTYPES:
        odd = next(name for name, dtype in dtypes.items() if dtype != most[0] or most[0] not in DTYPES)
        raise CheckpointError(f"{folder}: {odd} is {dtypes[odd]}, expected all tensors in one of {', '.join(DTYPES)}")
    return DTYPES[most[0]]


def _filled(folder: Path, model: Any, tensors: Mapping[str, Tensor], shared: Mapping[str, str]) -> Any:
    """The model around these tensors, which must be numbers; shared ones are one parameter again."""
    bad = first_not_finite(tensors)
    if bad is not None:
        raise CheckpointError(f"{folder}: {bad} holds NaN or infinity, expected numbers; get the checkpoint again")
    model.load_state_dict(_with_shared(tensors, shared), assign=True)
    for name, first in shared.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, model.get_parameter(first))
    return model

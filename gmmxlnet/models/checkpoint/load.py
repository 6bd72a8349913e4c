"""Load a model strictly: any difference from what was saved raises a CheckpointError.

Checked are, in this order: the folder, its config.json, the caller's requirements, the names, shapes and dtypes of
tensors in the files' headers, hashes, and values. A folder of transformers' own XLNet for question answering is loaded
as a model without memory (`plain_xlnet.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.utils.hub import extract_commit_hash

from gmmxlnet.errors import CheckpointError, ConfigError
from gmmxlnet.memory_kinds import MemoryKind
from gmmxlnet.messages import said
from gmmxlnet.models.checkpoint.adapter_files import base_tensors, check_adapter_config, saved_part
from gmmxlnet.models.checkpoint.manifest import CONFIG, MANIFEST, Manifest
from gmmxlnet.models.checkpoint.plain_xlnet import load_xlnet
from gmmxlnet.models.checkpoint.requested import apply_asked
from gmmxlnet.models.checkpoint.source import locate
from gmmxlnet.models.checkpoint.tokenizer_files import note_tokenizer
from gmmxlnet.models.checkpoint.weights import (
    DTYPE_NAMES,
    DTYPES,
    OLD_WEIGHTS,
    Stored,
    read_headers,
    read_old_weights,
    read_tensors,
)
from gmmxlnet.models.configuration import BOOKKEEPING, GMMXLNetConfig
from gmmxlnet.utils.files import read_object
from gmmxlnet.utils.tensors import first_not_finite


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
    """Load a `GMMXLNetForQA` from a folder or the Hub, in evaluation mode.

    Args:
        asked: required properties, named as in `GMMXLNetConfig` and the model's constructor; see `apply_asked`.
        dtype: dtype to cast to; None for the stored one.
        use_safetensors: False reads `pytorch_model.bin`, the format of older versions of transformers.
        base_model: folder or Hub id of an adapter's base model, which overrides the checkpoint's entry.
        source: further arguments of `locate`.
    """
    folder = locate(name, use_safetensors=use_safetensors, **source)
    values = config_values(folder)
    if values.get("model_type") == "xlnet":
        model = load_xlnet(cls, folder, values, asked=asked, use_safetensors=use_safetensors)
    else:
        download = {key: source[key] for key in ("cache_dir", "token", "local_files_only") if key in source}
        model = _load_own(cls, folder, asked, use_safetensors, base_model, **download)
    model.name_or_path = model.config.name_or_path = str(name)
    note_tokenizer(model, folder)
    model.config._commit_hash = extract_commit_hash(str(folder / CONFIG), None)  # as transformers does
    if dtype not in (None, "auto"):
        model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return model.eval()


def _load_own(
    cls: type, folder: Path, asked: dict[str, Any], use_safetensors: bool, base_model: str | None, **download: Any
) -> nn.Module:
    config = read_config(folder)
    wanted = apply_asked(config, asked, folder)
    if not use_safetensors:
        tensors = read_old_weights(folder)
        check_sizes(folder, config, tensors)
        model = empty_model(cls, wanted)
        check_names(tensors, model.state_dict(), str(folder / OLD_WEIGHTS), "get the checkpoint again")
        _check_shapes(tensors, model.state_dict(), folder / OLD_WEIGHTS)
        _check_dtypes(folder, {name: DTYPE_NAMES.get(x.dtype, str(x.dtype)) for name, x in tensors.items()})
        return filled(folder, model, tensors, {})
    opened = open_checkpoint(cls, folder)
    opened.manifest.check_files(folder)
    model = empty_model(cls, wanted)
    tensors = read_tensors(opened.stored)
    tensors |= base_tensors(folder, opened.config, base_model, dtype=dtype_of(tensors), **download)
    return filled(folder, model, tensors, opened.manifest.shared)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A checkpoint whose configuration, headers and manifest were checked, but not the bytes of its files."""

    config: GMMXLNetConfig
    stored: dict[str, Stored]
    manifest: Manifest


def open_checkpoint(cls: type, folder: Path) -> Opened:
    """Check config.json, headers and manifest against each other without reading weights. Raises CheckpointError."""
    config, stored, manifest = read_config(folder), read_headers(folder), Manifest.read(folder)
    check_sizes(folder, config, with_shared(stored, manifest.shared))
    check_headers(folder, config, stored, manifest.shared, empty_model(cls, config).state_dict())
    _check_config(folder, config, manifest)
    if config.adapter is not None:
        check_adapter_config(folder, config)
    return Opened(config=config, stored=stored, manifest=manifest)


def with_shared(held: Mapping[str, Any], shared: Mapping[str, str]) -> dict[str, Any]:
    """Add the shared names to a mapping by name."""
    return {**held, **{name: held[first] for name, first in shared.items() if first in held}}


def config_values(folder: Path) -> dict[str, Any]:
    """Read the values of `config.json`. Raises CheckpointError."""
    return read_object(folder / CONFIG, missing="a checkpoint has config.json and weights")


def read_config(folder: Path) -> GMMXLNetConfig:
    """Read the configuration of a gmmxlnet checkpoint. Raises CheckpointError."""
    values = config_values(folder)
    kind = values.get("model_type")
    if kind != GMMXLNetConfig.model_type:
        raise CheckpointError(
            f"{folder}: is of model_type {said(str(kind), 40)!r}, expected {GMMXLNetConfig.model_type!r}, or 'xlnet' "
            "for a model without memory; load it with transformers' AutoModelForQuestionAnswering"
        )
    try:
        return GMMXLNetConfig.from_dict(values)
    except ConfigError as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from None


def _check_config(folder: Path, config: GMMXLNetConfig, manifest: Manifest) -> None:
    """Check that `config.json` is equivalent to the saved one; a missing `memory_type` or `standard` means `none`."""
    found = config_values(folder)
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
    """Check the sizes in `config.json` against the weights, before a model of these sizes is built."""
    for key, size in sizes_in(stored, config.kind).items():
        if size is not None and getattr(config, key) != size:
            raise CheckpointError(
                f"{folder}: {CONFIG} says {key} {getattr(config, key)}, but the weights have {size}; they belong to "
                "different checkpoints: get both from one"
            )


def sizes_in(stored: Mapping[str, Stored | Tensor], kind: MemoryKind) -> dict[str, int | None]:
    """Return the configuration values that follow from the weights; None if the tensor for one is missing."""

    def size(name: str, dimension: int) -> int | None:
        shape = stored[name].shape if name in stored else ()
        return shape[dimension] if dimension < len(shape) else None

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in stored if name.startswith(prefix)})

    attention = "encoder.layers.0.attention.r_w_bias"
    return {
        "vocab_size": size("encoder.word_embedding.weight", 0),
        "d_model": size("encoder.word_embedding.weight", 1),
        "n_layer": count("encoder.layers."),
        "d_inner": size("encoder.layers.0.inner.weight", 0),
        "n_head": size(attention, 0),
        "d_head": size(attention, 1),
        **kind.load().sizes(size, count),
    }


def empty_model(cls: type, config: GMMXLNetConfig) -> Any:
    """Build the model on the meta device, without allocating its tensors."""
    with torch.device("meta"), no_init_weights():
        return cls(config)


def check_headers(
    folder: Path,
    config: GMMXLNetConfig,
    stored: Mapping[str, Stored],
    shared: Mapping[str, str],
    expected: Mapping[str, Tensor],
) -> None:
    """Check names, shapes and dtypes of the stored tensors against the model that `config.json` describes."""
    own = {name: tensor for name, tensor in saved_part(config, expected).items() if name not in shared}
    where = next(iter(stored.values())).file.name if len({x.file for x in stored.values()}) == 1 else "the weights"
    check_names(stored, own, f"{folder}: {where}", f"expected the tensors of a {_kind(config)} model")
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
    return config.memory_type + (experts if config.has_router else "")


def check_names(found: Mapping[str, Any], expected: Mapping[str, Any], where: str, remedy: str) -> None:
    end = f"; {remedy}" if remedy else ""
    missing = sorted(set(expected) - set(found))
    if missing:
        raise CheckpointError(f"{where}: lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}{end}")
    stray = sorted(set(found) - set(expected))
    if stray:
        raise CheckpointError(
            f"{where}: holds {len(stray)} tensors that the model has not, such as {said(stray[0], 80)!r}{end}"
        )


def _check_shapes(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    for name, tensor in expected.items():
        if tuple(found[name].shape) != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: {name} has the shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}; "
                "weights and config.json belong to different checkpoints"
            )


def _check_dtypes(folder: Path, dtypes: Mapping[str, str]) -> torch.dtype:
    """Check that all tensors have one supported dtype, given by its safetensors name, and return it."""
    most = sorted(set(dtypes.values()))
    if len(most) > 1 or most[0] not in DTYPES:
        odd = next(name for name, dtype in dtypes.items() if dtype != most[0] or most[0] not in DTYPES)
        raise CheckpointError(f"{folder}: {odd} is {dtypes[odd]}, expected all tensors in one of {', '.join(DTYPES)}")
    return DTYPES[most[0]]


def filled(folder: Path, model: Any, tensors: Mapping[str, Tensor], shared: Mapping[str, str]) -> Any:
    """Load these tensors, which must be finite, into the model, and tie the shared parameters again."""
    bad = first_not_finite(tensors)
    if bad is not None:
        raise CheckpointError(f"{folder}: {bad} holds NaN or infinity, expected numbers; get the checkpoint again")
    model.load_state_dict(with_shared(tensors, shared), assign=True)
    for name, first in shared.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, model.get_parameter(first))
    return model


def dtype_of(tensors: Mapping[str, Tensor]) -> torch.dtype:
    return next(iter(tensors.values())).dtype

"""Read and write tensors: safetensors, in one file or in shards with an index, and (on request) older pickled files.

The header of a file is read before any of its tensors, so that a file with wrong sizes is refused before memory is
allocated for it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gmmxlnet.errors import CheckpointError, reason_of
from gmmxlnet.models.adapters import ADAPTER_FILES, ADAPTER_WEIGHTS, OWN_WEIGHTS, name_in_model
from gmmxlnet.utils.files import read_object, write_json
from gmmxlnet.utils.tensors import UNREADABLE

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OLD_WEIGHTS = "pytorch_model.bin"
OLD_INDEX = "pytorch_model.bin.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")


@dataclass(frozen=True)
class Stored:
    """A tensor's entry in a file's header."""

    dtype: str  # a safetensors name, such as F32
    shape: tuple[int, ...]
    file: Path
    key: str  # its name in the file, which for an adapter differs from that in the model


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint: one, or the shards listed in its index. Raises CheckpointError."""
    shards = sorted(path for path in folder.glob("model-*.safetensors") if _SHARD.fullmatch(path.name))
    single, index = folder / WEIGHTS, folder / INDEX
    adapter = [folder / ADAPTER_WEIGHTS, folder / OWN_WEIGHTS]
    if any(path.exists() for path in adapter):
        _check_adapter_files(folder, adapter, [path for path in (single, index, *shards) if path.exists()])
        return adapter
    if single.exists() and (index.exists() or shards):
        raise CheckpointError(
            f"{folder}: holds {WEIGHTS} and, besides, {(index if index.exists() else shards[0]).name}; two models lie "
            "in one folder: remove one"
        )
    if single.exists():
        return [single]
    if index.exists():
        named = [folder / name for name in sorted(set(_weight_map(index).values()))]
        _check_shards(folder, named, shards)
        return named
    if shards:
        raise CheckpointError(
            f"{folder}: holds shards such as {shards[0].name}, but no {INDEX}; get the checkpoint again"
        )
    if (folder / OLD_WEIGHTS).exists() or (folder / OLD_INDEX).exists():
        raise CheckpointError(
            f"{folder}: holds {OLD_WEIGHTS}, expected {WEIGHTS}; if you trust its source, read it with "
            "from_pretrained(..., use_safetensors=False) and save it again with save_pretrained"
        )
    raise CheckpointError(f"{folder}: holds no weights, expected {WEIGHTS} or {INDEX}; get the checkpoint again")


def _check_adapter_files(folder: Path, adapter: list[Path], merged: list[Path]) -> None:
    missing = [path.name for path in adapter if not path.exists()]
    if missing:
        raise CheckpointError(
            f"{folder}: lacks {missing[0]}, which an adapter's checkpoint has; get the checkpoint again"
        )
    if merged:
        raise CheckpointError(
            f"{folder}: holds an adapter and, besides, {merged[0].name}; an adapter's checkpoint has no base in it: "
            "remove one of the two"
        )


def _check_shards(folder: Path, named: list[Path], there: list[Path]) -> None:
    missing = [path.name for path in named if path not in there]
    stray = [path.name for path in there if path not in named]
    if missing:
        raise CheckpointError(f"{folder}: lacks {missing[0]}, which {INDEX} names; get the checkpoint again")
    if stray:
        raise CheckpointError(f"{folder}: holds {stray[0]}, which {INDEX} does not name; get the checkpoint again")


def _weight_map(index: Path) -> dict[str, str]:
    """Read an index: the file of each tensor."""
    weight_map = read_object(index, missing="get the checkpoint again").get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in weight_map.values())
    ):
        raise CheckpointError(
            f"{index}: its weight_map must lead from every tensor to a shard such as model-00001-of-00002.safetensors; "
            "get the checkpoint again"
        )
    return weight_map


def read_headers(folder: Path) -> dict[str, Stored]:
    """Read the entries of all tensors from the files' headers, without reading tensors. Raises CheckpointError."""
    stored: dict[str, Stored] = {}
    for path in weight_files(folder):
        for name, tensor in _header(path).items():
            if name in stored:
                raise CheckpointError(f"{path}: holds {name}, which {stored[name].file.name} holds too")
            stored[name] = tensor
    index = folder / INDEX
    if index.exists():
        weight_map = _weight_map(index)
        held = {name: tensor.file.name for name, tensor in stored.items()}
        if weight_map != held:
            name = min(
                name for name in {*weight_map, *held} if weight_map.get(name, _NOWHERE) != held.get(name, _NOWHERE)
            )
            raise CheckpointError(
                f"{index}: says that {name} lies in {weight_map.get(name, _NOWHERE)}, but it lies in "
                f"{held.get(name, _NOWHERE)}; get the checkpoint again"
            )
    return stored


_NOWHERE = "no file"


def _header(path: Path) -> dict[str, Stored]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return {
                name_in_model(key) if path.name == ADAPTER_WEIGHTS else key: Stored(
                    x.get_dtype(), tuple(x.get_shape()), path, key
                )
                for key, x in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def read_tensors(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """Read the tensors into newly allocated memory. Raises CheckpointError."""
    tensors: dict[str, Tensor] = {}
    for path in dict.fromkeys(tensor.file for tensor in stored.values()):
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name, tensor in stored.items() if tensor.file == path]
                tensors |= {name: file.get_tensor(stored[name].key).clone() for name in names}
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from None
    return {name: tensors[name] for name in stored}


def read_old_weights(folder: Path) -> dict[str, Tensor]:
    """Read `pytorch_model.bin` (or its shards), unpickled with `weights_only`. Raises CheckpointError."""
    index = folder / OLD_INDEX
    paths = [folder / name for name in sorted(set(_weight_map(index).values()))] if index.exists() else []
    tensors: dict[str, Tensor] = {}
    for path in paths or [folder / OLD_WEIGHTS]:
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)
        except UNREADABLE as error:
            raise _damaged(path, error) from None
        if not isinstance(values, dict) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) and _is_plain(tensor)
            for name, tensor in values.items()
        ):
            raise CheckpointError(f"{path}: holds something else than tensors by name; it is no model's weights")
        tensors |= values
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, on the CPU and not quantized."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: there is no such file; get the checkpoint again")
    return CheckpointError(f"{path}: cannot be read ({reason_of(error)}); get the checkpoint again")


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], max_shard_size: int | str) -> None:
    """Write tensors (contiguous, not sharing memory) as one file or as shards."""
    split = split_torch_state_dict_into_shards(
        dict(tensors), filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index: dict[str, Any] = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / INDEX, index)


def is_weights(name: str) -> bool:
    """Whether `write_tensors` or `write_adapter` writes files of this name."""
    return name in (WEIGHTS, INDEX, *ADAPTER_FILES) or (
        name.endswith(".safetensors") and _SHARD.fullmatch(name) is not None
    )

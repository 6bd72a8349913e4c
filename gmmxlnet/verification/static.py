"""Checks that need no model: `quick` reads headers and small files, `structure` every tensor."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapters import size_beside_base
from gmmxlnet.models.checkpoint import Opened, empty_model
from gmmxlnet.models.checkpoint.manifest import NOT_LISTED, versions
from gmmxlnet.models.checkpoint.weights import DTYPE_NAMES, read_tensors
from gmmxlnet.utils.tensors import tensor_hash

# Pickles, and what a trainer leaves; none of it belongs into a checkpoint that is shared.
STRAY_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".ot", ".npz", ".partial")
STRAY_NAMES = ("optimizer", "scheduler", "rng_state", "trainer_state", "training_args", "scaler")


def check_libraries(opened: Opened) -> str:
    """The versions here beside those that made the checkpoint; differences are reported, not refused."""
    here, made_with = versions(), opened.manifest.made_with
    other = [
        f"{name} {here[name]} (made with {made_with.get(name)})" for name in here if here[name] != made_with.get(name)
    ]
    return (
        f"other than when it was made: {', '.join(other)}" if other else ", ".join(f"{k} {v}" for k, v in here.items())
    )


def describe(opened: Opened) -> str:
    """The checkpoint's kind and size in a line."""
    config, stored = opened.config, opened.stored
    experts = f", {config.num_memory_experts} experts of {config.memory_slots} slots, {config.routing_mode}"
    numbers = sum(torch.Size(tensor.shape).numel() for tensor in stored.values())
    kind = config.memory_type + (experts if config.has_memory_tokens else "")
    return f"{kind}; {config.n_layer} layers of {config.d_model}; {len(stored)} tensors, {numbers:,} numbers"


def describe_adapter(opened: Opened) -> str:
    """The adapter's size; one that is large is told, not refused."""
    return f"with memory and head {size_beside_base(empty_model(GMMXLNetForQA, opened.config))}"


def check_sizes_of_files(folder: Path, opened: Opened) -> str:
    """Every listed file is there with its size."""
    opened.manifest.check_files(folder, hashes=False)
    total = sum(file["size"] for file in opened.manifest.files.values())
    return f"{len(opened.manifest.files)} files, {total:,} bytes"


def check_pollution(folder: Path, opened: Opened) -> str:
    """Nothing lies there that a checkpoint does not hold: pickles, a trainer's state, other weights."""
    there = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in there]
    unlisted = [name for name in names if name not in opened.manifest.files and name not in NOT_LISTED]
    weights = {tensor.file.relative_to(folder).as_posix() for tensor in opened.stored.values()}
    stray = [name for name in names if _is_stray(name) or (name.endswith(".safetensors") and name not in weights)]
    if stray:
        raise CheckpointError(f"{folder}: holds {', '.join(stray)}, which no checkpoint needs; remove what is stray")
    return f"not listed, and read by nobody: {', '.join(unlisted)}" if unlisted else "nothing else lies there"


def _is_stray(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.endswith(STRAY_ENDINGS) or base.split(".")[0].startswith(STRAY_NAMES)


def tensor_records(opened: Opened) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """What each tensor in the files is, and whether that is what was saved; and the tensors."""
    tensors = read_tensors(opened.stored)
    records = {}
    for name, tensor in sorted(tensors.items()):
        record = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "sha256": tensor_hash(tensor)}
        records[name] = record | {"as_saved": opened.manifest.tensors.get(name) == record}
    return records, tensors


def check_tensors(folder: Path, records: dict[str, dict[str, Any]], tensors: dict[str, Tensor]) -> str:
    """Every tensor is what was saved, is not empty, and holds numbers."""
    complaints = {
        "not what was saved": [name for name, record in records.items() if not record["as_saved"]],
        "empty": [name for name, tensor in tensors.items() if tensor.numel() == 0],
        "NaN or infinite": [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()],
    }
    for what, names in complaints.items():
        if names:
            raise CheckpointError(
                f"{folder}: {len(names)} of {len(records)} tensors are {what}: {', '.join(names[:5])}"
            )
    return f"{len(records)} tensors have the names, shapes, dtypes and hashes that were saved; all finite, none empty"

"""Checks a checkpoint for resuming before anything is restored: its hashes may fit and its contents be odd.

Everything that `resume.py` and the Trainer read is checked: types, names, shapes, generators' states.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import TrainerState

from gmmxlnet.errors import CheckpointError, reason_of
from gmmxlnet.utils.files import read_json

MOST_BYTES = 2**30  # of the Trainer's state, which has a log of all steps
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # AdamW's state of a parameter
COUNTS = ("max_steps", "num_train_epochs", "num_input_tokens_seen")  # of the Trainer's state


def damaged(checkpoint: Path, file: str, reason: str) -> CheckpointError:
    """The error about a checkpoint whose file is not what a training wrote."""
    return CheckpointError(
        f"{checkpoint / file}: is not what train wrote: {reason}; remove {checkpoint.parent} to begin the training anew"
    )


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named by."""
    return int(checkpoint.name.rpartition("-")[2])


def read_values(checkpoint: Path, file: str) -> dict[str, Any]:
    """Reads a JSON object of a checkpoint. Raises CheckpointError."""
    try:
        values = read_json(checkpoint / file, most=MOST_BYTES)
    except (OSError, ValueError) as error:
        raise damaged(checkpoint, file, reason_of(error)) from None
    if not isinstance(values, dict):
        raise damaged(checkpoint, file, f"it holds a {type(values).__name__}, not an object")
    return values


def read_tensors(checkpoint: Path, file: str, prefix: str = "") -> dict[str, Tensor]:
    """Reads the tensors whose names begin with `prefix`, which is removed. Raises CheckpointError."""
    try:
        with safe_open(checkpoint / file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118  # not a mapping
            return {name.removeprefix(prefix): opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise damaged(checkpoint, file, reason_of(error)) from None


def check_values(checkpoint: Path, file: str, num_processes: int) -> dict[str, Any]:
    """Returns the values of `training.json`; raises CheckpointError unless they are of the types that are written."""
    values = read_values(checkpoint, file)
    sound = {
        "identity": isinstance(values.get("identity"), dict),
        "learning_rates": _is_list(values.get("learning_rates"), _is_number),
        "scheduler": isinstance(values.get("scheduler"), dict),
        "scaler": values.get("scaler") is None or isinstance(values["scaler"], dict),
        "rng": _is_list(values.get("rng"), lambda entry: isinstance(entry, dict))
        and len(values["rng"]) == num_processes,
        "record": _is_list(values.get("record"), lambda name: isinstance(name, str)),
    }
    odd = [name for name, is_sound in sound.items() if not is_sound]
    if odd:
        raise damaged(checkpoint, file, f"{odd[0]} has a wrong type or length")
    return values


def check_like(checkpoint: Path, file: str, name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless a state has the keys, types and lengths of a fresh one."""
    same = found.keys() == expected.keys() and all(_is_like(found[key], expected[key]) for key in expected)
    if not same:
        raise damaged(checkpoint, file, f"{name} is not a state of this training's")


def check_tensors(checkpoint: Path, file: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless tensors have the names, shapes and dtypes of others."""
    for name in sorted(found.keys() ^ expected.keys()):
        raise damaged(checkpoint, file, f"tensor {name} is only in the checkpoint or only in the model")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise damaged(checkpoint, file, f"{name} is {found[name].dtype} of shape {tuple(found[name].shape)}")


def check_moments(checkpoint: Path, file: str, found: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless these are AdamW's moments of some of the parameters, all three of each."""
    by_parameter: dict[str, set[str]] = {}
    for key, tensor in found.items():
        name, _, what = key.rpartition("/")
        shape = () if what == "step" else getattr(parameters.get(name), "shape", None)
        if what not in MOMENTS or name not in parameters or tensor.shape != shape or not tensor.is_floating_point():
            raise damaged(checkpoint, file, f"optimizer/{key} belongs to no parameter of this shape")
        by_parameter.setdefault(name, set()).add(what)
    for name, moments in by_parameter.items():
        if len(moments) < len(MOMENTS):
            raise damaged(checkpoint, file, f"optimizer/{name} is incomplete")


def check_record(checkpoint: Path, file: str, found: Mapping[str, Tensor], names: list[str], step: int) -> None:
    """Raises CheckpointError unless there are rows and seconds of as many steps as were made, a column a name."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes != {"rows": (step, len(names)), "seconds": (step,)} or "tokens" not in names or "loss" not in names:
        raise damaged(checkpoint, file, f"record is not of {step} steps")
    if not found["rows"].dtype == torch.float32 or not found["seconds"].dtype == torch.float64:
        raise damaged(checkpoint, file, "record is of another type")


def check_generators(checkpoint: Path, file: str, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless generators of Python, NumPy and torch take these states."""
    try:
        random.Random().setstate(python_state(values, tensors))
        np.random.RandomState().set_state(numpy_state(values, tensors))
        torch.Generator().set_state(tensors["torch"])
        for name, tensor in tensors.items():
            if name.startswith("cuda/") and tensor.dtype != torch.uint8:
                raise TypeError(f"{name} is {tensor.dtype}")
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, AttributeError) as error:
        raise damaged(checkpoint, file, f"rng is no state of a generator ({reason_of(error)})") from None


def python_state(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """What `random.setstate` takes."""
    return values["python_version"], tuple(tensors["python"].tolist()), values["python_gauss"]


def numpy_state(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """What `np.random.set_state` takes."""
    keys, (position, has_gauss, cached) = tensors["numpy"], values["numpy"]
    if keys.dtype != torch.int64 or keys.min() < 0 or keys.max() >= 2**32 or not 0 <= position <= len(keys):
        raise ValueError("NumPy's keys are out of range")
    return "MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached


def check_trainer_state(checkpoint: Path, file: str, step: int) -> None:
    """Raises CheckpointError unless the Trainer's own state is one of this step, as the Trainer writes it."""
    values = read_values(checkpoint, file)
    unknown = sorted(values.keys() - {field.name for field in fields(TrainerState)})
    callbacks = values.get("stateful_callbacks")
    sound = {
        "global_step": type(values.get("global_step")) is int and values["global_step"] == step,
        "epoch": _is_number(values.get("epoch")),
        "total_flos": _is_number(values.get("total_flos")),
        "log_history": _is_list(values.get("log_history"), _is_log),
        "stateful_callbacks": isinstance(callbacks, dict) and all(isinstance(x, dict) for x in callbacks.values()),
        **{name: type(values.get(name)) is int and 0 <= values[name] <= 2**53 for name in COUNTS},
    }
    for name, value in values.items():
        sound.setdefault(name, value is None or isinstance(value, str | bool | int | float))
    odd = unknown or [name for name, is_sound in sound.items() if not is_sound]
    if odd:
        raise damaged(checkpoint, file, f"{odd[0]} is unknown or has a wrong value")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(of, value))


def _is_log(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("step")) is int and all(map(_is_number, value.values()))


def _is_like(found: Any, expected: Any) -> bool:
    """Whether a value has the type of another: numbers and lists of numbers; lists of the same length."""
    if isinstance(expected, list | tuple):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_is_like, found, expected))
    if isinstance(expected, float):
        return _is_number(found) and math.isfinite(found)
    return type(found) is type(expected)

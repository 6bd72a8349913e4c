"""Save and restore the complete state of a training, in safetensors and JSON.

A resumed training gives bitwise the same result as an uninterrupted one. Batches need no state: the sampler is a
function of seed, epoch and position. Checkpoints are written between two steps, so they contain no gradients.

    model.safetensors        every parameter and buffer
    training.safetensors     optimizer/<parameter>/<AdamW's state>, rng/<process>/<generator>, record/<rows, seconds>
    training.json            identity of the training, learning rates, schedule, gradient scaler, generators' scalars
    trainer_state.json       the Trainer's own state: step, epoch, log

All processes have the same weights and optimizer; the main process writes them, and every process's generators.
"""

import json
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from gmmxlnet.devices import processor_kind
from gmmxlnet.errors import CheckpointError
from gmmxlnet.messages import said
from gmmxlnet.options import shown
from gmmxlnet.training import resume_checks as checks
from gmmxlnet.training.config import TrainingConfig
from gmmxlnet.training.record import StepRecord
from gmmxlnet.utils.files import write_json
from gmmxlnet.utils.processes import Processes

MODEL, TENSORS, VALUES = "model.safetensors", "training.safetensors", "training.json"
# Fields of a configuration that do not affect the result.
NOT_TRAINED_WITH = {
    *("output_dir", "num_workers", "logging_steps", "hub_model_id"),
    *("resume_dir", "save_steps", "save_total_limit"),
}
FIRST_SAVE_SECONDS = 15.0
SHARE_OF_TIME = 0.01  # that may be spent on saving
STEPS_BETWEEN_ASKING = 10
Generators = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and scalars


class SaveSchedule(TrainerCallback):
    """Requests a checkpoint every `save_steps` steps, or as often as 1% of the time allows.

    None is saved after the last step, when the outputs are written. With several processes the main one's clock
    decides; it is broadcast only every few steps, since this synchronizes the processes.

    Args:
        stopping: asked after every step whether training must stop, which needs a last checkpoint; the same answer in
            all processes.
    """

    def __init__(self, save_steps: int | None, processes: Processes, stopping: Callable[[], bool]) -> None:
        self.save_steps, self.processes, self.stopping = save_steps, processes, stopping
        self.pause = FIRST_SAVE_SECONDS
        self.last = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.last = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Request a checkpoint if one is due, and the end of training if it must stop."""
        if self.stopping():
            due = control.should_training_stop = True
        elif self.save_steps is None:
            due = time.perf_counter() - self.last >= self.pause
            if self.processes.count > 1:
                due = state.global_step % STEPS_BETWEEN_ASKING == 0 and self.processes.from_main(due)
        else:
            due = state.global_step % self.save_steps == 0
        control.should_save = due and state.global_step < state.max_steps

    def saved(self, seconds: float) -> None:
        """Adjust the schedule to the seconds that writing a checkpoint took."""
        self.last = time.perf_counter()
        self.pause = max(FIRST_SAVE_SECONDS, seconds / SHARE_OF_TIME)


def surroundings() -> dict[str, Any]:
    """Return what else affects the result bitwise: libraries, processor, threads, processes."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "processor": processor_kind(),
        "threads": torch.get_num_threads(),
        "processes": Processes.current().count,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def training_identity(config: TrainingConfig, model: transformers.PreTrainedModel, num_documents: int) -> dict:
    """Return the identity of a training, a flat JSON object; a checkpoint of another identity is not resumed from."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_TRAINED_WITH}
    of_model = {f"model.{name}": value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    identity = {"documents": num_documents, **settings, **of_model, **surroundings()}
    return json.loads(json.dumps(identity))


def write_state(
    folder: Path,
    *,
    identity: dict[str, Any],
    model: torch.nn.Module,
    optimizer: Any,
    scheduler: Any,
    scaler: Any,
    record: StepRecord,
    generators: list[Generators],
) -> None:
    """Write everything except the Trainer's own state; `generators` are those of every process."""
    tensors = {
        **_under("optimizer", _optimizer_tensors(optimizer, model)),
        **_under("record", record.tensors()),
    }
    for index, (rng_tensors, _) in enumerate(generators):
        tensors |= _under(f"rng/{index}", rng_tensors)
    save_file(_on_cpu(_named_tensors(model)), folder / MODEL)
    save_file(_on_cpu(tensors), folder / TENSORS)
    values = {
        "identity": identity,
        "learning_rates": [group["lr"] for group in optimizer.param_groups],
        "scheduler": scheduler.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "rng": [rng_values for _, rng_values in generators],
        "record": record.names,
    }
    write_json(folder / VALUES, values)


def check_identity(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Raise CheckpointError with the first difference if a checkpoint belongs to another training."""
    found = checks.read_values(checkpoint, VALUES).get("identity")
    if not isinstance(found, dict):
        raise checks.damaged(checkpoint, VALUES, "it names no training")
    for name in sorted({*identity, *found}):
        if identity.get(name) != found.get(name):
            raise CheckpointError(
                f"{checkpoint}: is of a training with {said(name, 80)} {shown(found.get(name))}, not "
                f"{shown(identity.get(name))}; "
                "use another resume_dir, or remove this one to begin anew"
            )


def read_values(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's `training.json`. Raises CheckpointError unless it is one."""
    return checks.check_values(checkpoint, VALUES, Processes.current().count)


def check_state(checkpoint: Path, model: torch.nn.Module, index: int) -> None:
    """Check all that will be restored, but for the optimizer's, before a Trainer starts. Raises CheckpointError.

    Args:
        index: of the process.
    """
    values, step = read_values(checkpoint), checks.step_of(checkpoint)
    checks.check_trainer_state(checkpoint, TRAINER_STATE_NAME, step)
    checks.check_tensors(checkpoint, MODEL, checks.read_tensors(checkpoint, MODEL), _named_tensors(model))
    checks.check_record(checkpoint, TENSORS, _read_below("record", checkpoint), values["record"], step)
    checks.check_generators(checkpoint, TENSORS, values["rng"][index], _read_below(f"rng/{index}", checkpoint))


def read_scaler(checkpoint: Path, scaler: Any) -> dict[str, Any]:
    """Read the state of the gradient scaler, which must be like that of this one. Raises CheckpointError."""
    found = read_values(checkpoint)["scaler"] or {}
    checks.check_like(checkpoint, VALUES, "scaler", found, scaler.state_dict())
    return found


def load_model(checkpoint: Path, model: torch.nn.Module) -> None:
    """Restore every parameter and buffer. Raises CheckpointError if their names differ."""
    saved, own = checks.read_tensors(checkpoint, MODEL), _named_tensors(model)
    checks.check_tensors(checkpoint, MODEL, saved, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def load_optimizer(checkpoint: Path, model: torch.nn.Module, optimizer: Any, scheduler: Any) -> None:
    """Restore the state of the optimizer and of the learning rate schedule."""
    values, names = read_values(checkpoint), _parameter_names(model)
    kept: dict[str, dict[str, Tensor]] = {}
    moments = _read_below("optimizer", checkpoint)
    checks.check_moments(checkpoint, TENSORS, moments, dict(model.named_parameters()))
    checks.check_like(checkpoint, VALUES, "scheduler", values["scheduler"], scheduler.state_dict())
    if len(values["learning_rates"]) != len(optimizer.param_groups):
        raise checks.damaged(checkpoint, VALUES, "learning_rates has another length")
    for key, tensor in moments.items():
        name, _, what = key.rpartition("/")
        kept.setdefault(name, {})[what] = tensor
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = optimizer.state_dict()
    state["state"] = {i: kept[names[id(p)]] for i, p in enumerate(parameters) if names[id(p)] in kept}
    for group, learning_rate in zip(state["param_groups"], values["learning_rates"], strict=True):
        group["lr"] = learning_rate
    optimizer.load_state_dict(state)
    scheduler.load_state_dict(values["scheduler"])


def load_record(checkpoint: Path, device: torch.device) -> StepRecord:
    """Restore the record of the steps so far."""
    names, found = read_values(checkpoint)["record"], _read_below("record", checkpoint)
    checks.check_record(checkpoint, TENSORS, found, names, checks.step_of(checkpoint))
    return StepRecord.of(names, found, device)


def load_generators(checkpoint: Path, index: int) -> None:
    """Restore the random generators of Python, NumPy and torch for the process with this index."""
    values, tensors = read_values(checkpoint)["rng"][index], _read_below(f"rng/{index}", checkpoint)
    checks.check_generators(checkpoint, TENSORS, values, tensors)
    random.setstate(checks.python_state(values, tensors))
    np.random.set_state(checks.numpy_state(values, tensors))
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[f"cuda/{i}"] for i in range(torch.cuda.device_count())])


def read_generators() -> Generators:
    """Return the states of this process's random generators."""
    python_version, python_keys, python_gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    _, numpy_keys, *numpy_rest = numpy_state
    tensors = {
        "python": torch.tensor(python_keys, dtype=torch.int64),
        "numpy": torch.from_numpy(numpy_keys.astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors |= {f"cuda/{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, {"python_version": python_version, "python_gauss": python_gauss, "numpy": numpy_rest}


def _optimizer_tensors(optimizer: Any, model: torch.nn.Module) -> dict[str, Tensor]:
    names = _parameter_names(model)
    return {
        f"{names[id(parameter)]}/{what}": tensor
        for parameter, kept in optimizer.state.items()
        for what, tensor in kept.items()
    }


def _parameter_names(model: torch.nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _named_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers; shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _under(folder: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{folder}/{name}": tensor for name, tensor in tensors.items()}


def _read_below(folder: str, checkpoint: Path) -> dict[str, Tensor]:
    return checks.read_tensors(checkpoint, TENSORS, f"{folder}/")

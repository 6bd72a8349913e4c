"""What a training took: speed, time, memory. Clocks and machines differ, so no stage writes these figures to a file."""

import platform
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gmmxlnet.devices import processor_kind
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.checkpoint.load import empty_model
from gmmxlnet.models.checkpoint.manifest import Manifest
from gmmxlnet.training import GMMTrainer

if TYPE_CHECKING:  # MLflow comes with it
    from pipeline.mlflow_run import Run

MIB = 2**20
# How resource.getrusage counts: bytes on macOS, KiB elsewhere.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def log_cost(run: "Run", trainer: GMMTrainer, model: GMMXLNetForQA) -> None:
    """Log `cost/…` as metrics; the device, its processor's instructions and number of CPU threads as tags."""
    cost = {**cost_of_training(trainer, model), "peak_memory_mib": peak_memory_mib()}
    run.log_metrics({f"cost/{name}": value for name, value in cost.items()})
    run.set_tags(machine(trainer.args.device) | {"processor": processor_kind()})


def cost_of_training(trainer: GMMTrainer, model: GMMXLNetForQA) -> dict[str, float]:
    """Parameters, seconds, tokens per second and, on a GPU, its memory."""
    device = trainer.args.device
    means = trainer.record.means(len(trainer.record.rows))
    cost = {
        "parameters": model.num_parameters(),
        "training_seconds": trainer.record.seconds[-1] - trainer.record.seconds[0],
        **{name: value for name, value in means.items() if name == "tokens_per_second"},
    }
    if device.type == "cuda":
        cost["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) / MIB
    return cost


def count_parameters(folder: Path) -> int:
    """How many parameters the model of a checkpoint has, its base's included, whatever its files of weights are.

    Only `checkpoint.json` is read. Raises CheckpointError.
    """
    config = GMMXLNetConfig.from_dict(Manifest.read(folder).config)
    return int(empty_model(GMMXLNetForQA, config).num_parameters())


def peak_memory_mib() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / MIB


def machine(device: torch.device) -> dict[str, str]:
    """The device, and its number of CPU threads."""
    return {"device": device_name(device), "threads": str(torch.get_num_threads())}


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"

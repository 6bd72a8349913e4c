"""Which experiment is this? Its parameters and its data, written beside the model, and the key made from both.

The train stage writes `experiment.json` into the model's folder; later stages read it there and find the experiment's
MLflow run by the key. Nothing in it is random, so the same inputs make the same file.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmmxlnet import options
from gmmxlnet.data.dataset_names import Source
from gmmxlnet.errors import CheckpointError
from gmmxlnet.memory_kinds import KINDS, run_name
from gmmxlnet.messages import said
from gmmxlnet.options import LONGEST_SHOWN, shown
from gmmxlnet.utils.files import digest_of, read_object, sha256_of, write_json
from gmmxlnet.verification import fingerprint
from pipeline.params import Params

FILE_NAME = "experiment.json"
SHARING = {"hub_model_id", "hub_dataset_id", "hub_push_chunks"}  # chunks are the same wherever they come from
# Parameters that neither the chunk nor the train stage depends on (see dvc.yaml): they make no other experiment.
NOT_TRAINED_WITH = {
    *SHARING,
    *("eval_batch_size", "n_best_size", "max_answer_length"),
    *("num_workers", "save_steps", "save_total_limit"),  # they change no number
}
# What names, descriptions and MLflow's tags are made of.
DESCRIBED_BY = (
    *("profile", "seed", "memory_type", "num_memory_experts", "memory_num_tokens", "memory_heads"),
    *("routing_mode", "routing_temperature"),
)
RULES = options.RUN | options.MEMORY | options.LOSS | options.ADAPTER | options.CHUNKING | options.TRAINING
LOAD_RULES = {f"dataset.load.{name}": rule for name, rule in options.LOAD.items()}
RULES |= LOAD_RULES | {"profile": options.Text("a name")}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What went into training: flattened parameters and the hash of the chunks."""

    parameters: dict[str, Any]
    data: str

    @classmethod
    def of(cls, params: Params, chunks: Path) -> "Experiment":
        """The experiment that trains with `params` on the folder `chunks`."""
        return cls(parameters=canonical_parameters(params), data=folder_hash(chunks))

    @classmethod
    def read(cls, model_folder: Path) -> "Experiment":
        """The experiment that made a model; raises CheckpointError when its folder does not say."""
        file = model_folder / FILE_NAME
        values = read_object(file, missing="run the train stage first: dvc repro train")
        damage = _damage(values)
        if damage:
            raise CheckpointError(f"{file}: is not what train wrote: {damage}; make it again: dvc repro --force train")
        return cls(parameters=values["parameters"], data=values["data"])

    def write(self, model_folder: Path) -> None:
        """Write `experiment.json` into a model's folder."""
        write_json(model_folder / FILE_NAME, {"parameters": self.parameters, "data": self.data})

    @property
    def key(self) -> str:
        """SHA-256 of parameters and data, however the file is laid out."""
        return experiment_key(self.parameters, self.data)

    @property
    def name(self) -> str:
        """A name that people recognize in a list of runs, such as `gmm-k4-write`."""
        name = run_name(self.parameters)
        return f"{name}-lora" if self.parameters.get("adapter") == "lora" else name

    @property
    def dataset(self) -> Source:
        """The dataset as params.yaml has it: a name, what holds each split, or a generator's settings."""
        values = self.parameters
        if LOAD_RULES.keys() & values.keys():
            return {"load": {name: values[f"dataset.load.{name}"] for name in options.LOAD}}
        files = {split: values[f"dataset.{split}"] for split in ("train", "dev") if f"dataset.{split}" in values}
        return files or str(values.get("dataset", ""))


def _damage(values: dict[str, Any]) -> str | None:
    """What is wrong with the contents of `experiment.json`; None if they are as written."""
    parameters = values.get("parameters")
    if not isinstance(parameters, dict) or not isinstance(values.get("data"), str):
        return "it must hold parameters by name, and data, a hash"
    needed = (*DESCRIBED_BY, *(LOAD_RULES if LOAD_RULES.keys() & parameters.keys() else ()))
    missing = [name for name in needed if name not in parameters]
    if missing:
        return f"parameters lack {missing[0]}"
    for name, value in parameters.items():
        items = value if isinstance(value, list) else [value]
        rule = RULES.get(name)
        if not all(item is None or isinstance(item, str | int | float) for item in items):
            return f"{said(name, LONGEST_SHOWN)} is {shown(value)}, expected a number, a text or a list of them"
        if rule is not None and not rule.accepts(value):
            return f"{name} must be {rule.words}, not {shown(value)}"
    return None


def canonical_parameters(params: Params) -> dict[str, Any]:
    """Everything chunk and train depend on, flattened: top level, then the active profile's keys by their own names."""
    of_others = set() if KINDS[params.memory_type].caches else {"mem_len"}
    top = params.model_dump(exclude={"profiles"} | NOT_TRAINED_WITH | of_others)
    profile = params.active.model_dump(exclude=NOT_TRAINED_WITH)
    return _flatten(top) | _flatten(profile)


def experiment_key(parameters: dict[str, Any], data: str) -> str:
    """SHA-256 over the canonical JSON (sorted keys, no spaces) of parameters and data hash."""
    return digest_of({"data": data, "parameters": parameters})


def model_hash(model_folder: Path) -> str:
    """SHA-256 of a model's fingerprint, hence of every tensor; raises CheckpointError when its folder has none."""
    file = model_folder / fingerprint.FILE_NAME
    try:
        return sha256_of(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: there is no such file; run the train stage first: dvc repro train") from None


def folder_hash(folder: Path) -> str:
    """SHA-256 over the sorted relative names and the contents of all files below `folder`."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

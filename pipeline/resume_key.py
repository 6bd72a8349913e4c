"""Where a killed training goes on: `.resume/<key>/` in the main repository, one folder for each training.

DVC deletes a stage's outputs before it runs and works on queued experiments in copies that it throws away, so the
checkpoints lie outside of both. The key is made of everything that decides the bits a training ends with: the
experiment (parameters and data), the code that dvc.yaml names, the libraries and the machine.
"""

from pathlib import Path
from typing import Any

from gmmxlnet.training.resume import surroundings
from gmmxlnet.utils.files import digest_of, sha256_of
from pipeline.experiment import Experiment
from pipeline.places import CODE_ROOT as ROOT
from pipeline.places import main_root
from pipeline.yaml_file import read_yaml


def training_key(experiment: Experiment) -> str:
    """SHA-256 of what decides the numbers of an experiment's training."""
    return digest_of({"experiment": experiment.key, "code": code_hashes(), "surroundings": surroundings()})


def resume_folder(key: str) -> Path:
    """The folder for the checkpoints of the training with this key."""
    return main_root() / ".resume" / key[:16]


def code_hashes() -> dict[str, str]:
    """SHA-256 of every source file that the train stage depends on, by its name in the repository."""
    stages: Any = read_yaml(ROOT / "dvc.yaml")["stages"]
    sources = {file for name in stages["train"]["deps"] for file in [ROOT / name, *(ROOT / name).rglob("*.py")]}
    return {file.relative_to(ROOT).as_posix(): sha256_of(file) for file in sorted(sources) if file.suffix == ".py"}

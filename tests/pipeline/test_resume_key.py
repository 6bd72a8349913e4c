"""The key of a training's checkpoints changes with whatever decides its numbers, and with nothing else."""

import shutil
from pathlib import Path

import pytest
import torch

from pipeline import resume_key
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.resume_key import resume_folder, training_key

ROOT = Path(__file__).resolve().parents[2]


def experiment(data="data", **changes):
    params = load_params(ROOT / "params.yaml")
    profile = params.active.model_copy(update={name: v for name, v in changes.items() if hasattr(params.active, name)})
    params = params.model_copy(
        update={name: v for name, v in changes.items() if hasattr(params, name)}
        | {"profiles": {**params.profiles, params.profile: profile}}
    )
    return Experiment(parameters=canonical_parameters(params), data=data)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the code, as a queued experiment works in."""
    folder = tmp_path / "copy"
    for name in ("gmmxlnet", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    monkeypatch.setattr(resume_key, "ROOT", folder)
    return folder


def test_parameters_and_data_decide():
    key = training_key(experiment())
    assert training_key(experiment()) == key
    for other in ({"data": "other"}, {"num_memory_experts": 8}, {"seed": 1}, {"learning_rate": 0.5}):
        assert training_key(experiment(**other)) != key
    for same in ({"save_steps": 7}, {"save_total_limit": 9}, {"num_workers": 3}, {"n_best_size": 5}):
        assert training_key(experiment(**same)) == key


def test_the_code_that_training_depends_on_decides(code):
    key = training_key(experiment())
    assert code != ROOT
    for name in ("gmmxlnet/training/sampler.py", "pipeline/train.py", "gmmxlnet/models/memories/gated.py"):
        source = (code / name).read_bytes()
        (code / name).write_bytes(source + b"\n# changed\n")
        assert training_key(experiment()) != key, name
        (code / name).write_bytes(source)
    (code / "gmmxlnet/analysis/plots.py").write_text("# changed")
    (code / "gmmxlnet/models/__pycache__").mkdir()
    (code / "gmmxlnet/models/__pycache__/memory.pyc").touch()
    assert training_key(experiment()) == key


def test_a_copy_of_the_code_has_the_same_key(code, monkeypatch):
    in_the_copy = training_key(experiment())
    monkeypatch.setattr(resume_key, "ROOT", ROOT)
    assert training_key(experiment()) == in_the_copy


def test_threads_decide():
    """Sums in another order have other bits."""
    key, threads = training_key(experiment()), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert training_key(experiment()) != key
    finally:
        torch.set_num_threads(threads)


def test_the_folder_lies_in_the_main_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert resume_folder("0123456789abcdef" * 4) == tmp_path / ".resume" / "0123456789abcdef"
    assert resume_folder("f" * 64) != resume_folder("0" * 64)

"""A checkpoint for resuming whose hashes fit and whose contents are odd is refused, by file and reason, before use."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from gmmxlnet.errors import CheckpointError
from gmmxlnet.training import resume_checks as checks
from gmmxlnet.training.resume import read_generators

VALUES = {
    "identity": {"seed": 13},
    "learning_rates": [0.1, 0.2],
    "scheduler": {"last_epoch": 3},
    "scaler": None,
    "rng": [{}],
    "record": ["loss", "tokens"],
}
REMEDY = r"is not what train wrote: .*; remove .*/resume to begin the training anew$"


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "resume" / "step-00000003"
    folder.mkdir(parents=True)
    return folder


def write(checkpoint, values):
    text = values if isinstance(values, str) else json.dumps(values)
    (checkpoint / "training.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "values",
    ["", "[]", '{"a": NaN}', VALUES | {"identity": []}, VALUES | {"learning_rates": [0.1, "x"]}]
    + [VALUES | {"scheduler": 3}, VALUES | {"scaler": 1}, VALUES | {"rng": []}, VALUES | {"record": [1]}]
    + [{name: value for name, value in VALUES.items() if name != left_out} for left_out in ("rng", "record")],
    ids=str,
)
def test_values(checkpoint, values):
    write(checkpoint, VALUES)
    assert checks.check_values(checkpoint, "training.json", 1) == VALUES
    write(checkpoint, values)
    with pytest.raises(CheckpointError, match=rf"step-00000003/training\.json: {REMEDY}"):
        checks.check_values(checkpoint, "training.json", 1)


def test_a_scheduler_takes_no_attribute_that_it_has_not(checkpoint):
    """`load_state_dict` of torch's schedules sets whatever attributes it is given."""
    own = {"last_epoch": 3, "base_lrs": [0.1, 0.2], "lr_lambdas": [{}, {}], "_is_initial": False, "x": 0.5}
    checks.check_like(checkpoint, "f", "scheduler", json.loads(json.dumps(own)), own)
    for odd in (
        own | {"step": 1},
        {**own, "last_epoch": "3"},
        {**own, "last_epoch": True},
        {**own, "base_lrs": [0.1]},
        {**own, "base_lrs": 0.1},
        {**own, "x": None},
    ):
        with pytest.raises(CheckpointError, match="scheduler is not a state of this training's"):
            checks.check_like(checkpoint, "f", "scheduler", odd, own)


def test_tensors_and_moments(checkpoint):
    own = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
    moments = {f"w/{name}": torch.ones(() if name == "step" else (2, 3)) for name in checks.MOMENTS}
    checks.check_tensors(checkpoint, "f", {name: x + 1 for name, x in own.items()}, own)
    checks.check_moments(checkpoint, "f", moments, own)
    for odd in ({"w": own["w"]}, own | {"x": own["b"]}, own | {"b": own["b"].double()}, own | {"b": own["w"]}):
        with pytest.raises(CheckpointError):
            checks.check_tensors(checkpoint, "f", odd, own)
    for odd in (
        {name: x for name, x in moments.items() if name != "w/step"},
        moments | {"w/other": torch.ones(2, 3)},
        moments | {"v/step": torch.ones(())},
        moments | {"w/step": torch.ones(1)},
        moments | {"w/exp_avg": torch.ones(3, 2)},
        moments | {"w/exp_avg": torch.ones(2, 3, dtype=torch.int32)},
    ):
        with pytest.raises(CheckpointError, match=r"optimizer/[wv]"):
            checks.check_moments(checkpoint, "f", odd, own)


def test_the_record_is_of_the_steps_that_were_made(checkpoint):
    found = {"rows": torch.zeros(3, 2), "seconds": torch.zeros(3, dtype=torch.float64)}
    checks.check_record(checkpoint, "f", found, ["loss", "tokens"], 3)
    for odd, names, step in (
        (found, ["loss", "tokens"], 4),
        (found, ["loss", "tokens", "x"], 3),
        (found, ["loss", "x"], 3),
        ({"rows": found["rows"]}, ["loss", "tokens"], 3),
        (found | {"rows": found["rows"].double()}, ["loss", "tokens"], 3),
    ):
        with pytest.raises(CheckpointError, match="record is"):
            checks.check_record(checkpoint, "f", odd, names, step)


def test_generators(checkpoint):
    tensors, values = read_generators()
    values = json.loads(json.dumps(values))
    before = random.getstate()
    checks.check_generators(checkpoint, "f", values, tensors)
    assert random.getstate() == before  # nothing is restored by looking
    for odd_values, odd_tensors in (
        ({}, tensors),
        (values, {}),
        (values | {"python_version": 9}, tensors),
        (values | {"numpy": [700, 0, 0.0]}, tensors),
        (values | {"numpy": "x"}, tensors),
        (values, tensors | {"python": tensors["python"][:5]}),
        (values, tensors | {"python": tensors["python"] - 2**40}),
        (values, tensors | {"numpy": tensors["numpy"] - 1 - tensors["numpy"].max()}),
        (values, tensors | {"torch": tensors["torch"][:9]}),
        (values, tensors | {"torch": tensors["torch"].long()}),
    ):
        with pytest.raises(CheckpointError, match="rng is no state of a generator"):
            checks.check_generators(checkpoint, "f", odd_values, odd_tensors)
    assert np.random.get_state()[2] >= 0


CHANGES = (
    *({"global_step": 4}, {"global_step": "3"}, {"epoch": None}, {"unknown": 1}, {"log_history": [{"loss": 1.0}]}),
    *({"log_history": None}, {"stateful_callbacks": []}, {"max_steps": -1}, {"total_flos": "x"}, {"trial_params": {}}),
)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_trainers_state(checkpoint, change):
    state = TrainerState(epoch=0.5, global_step=3, max_steps=9, log_history=[{"loss": 1.0, "step": 2}])
    state.save_to_json(str(checkpoint / "trainer_state.json"))
    checks.check_trainer_state(checkpoint, "trainer_state.json", 3)
    values = json.loads((checkpoint / "trainer_state.json").read_text()) | change
    (checkpoint / "trainer_state.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"trainer_state\.json: {REMEDY}"):
        checks.check_trainer_state(checkpoint, "trainer_state.json", 3)


def test_files_that_cannot_be_read(checkpoint):
    save_file({"a/b": torch.ones(2)}, checkpoint / "t.safetensors")
    assert list(checks.read_tensors(checkpoint, "t.safetensors", "a/")) == ["b"]
    (checkpoint / "t.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match=rf"t\.safetensors: {REMEDY}"):
        checks.read_tensors(checkpoint, "t.safetensors")
    with pytest.raises(CheckpointError, match=rf"nothing\.json: {REMEDY}"):
        checks.read_values(checkpoint, "nothing.json")

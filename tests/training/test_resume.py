"""Training that breaks off and goes on ends with the same bits as training that never did."""

import json
import shutil

import pytest
import torch
from transformers import TrainerCallback

from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import CheckpointError
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.checkpoints import CheckpointStore

VARIANTS = {
    "plain": {},
    "stopped in the second epoch": {"max_steps": 8},
    "batches added up": {"gradient_accumulation_steps": 2, "batch_size": 5, "num_epochs": 2},
    "curriculum": {"progressive_segments": [1, 3]},
    "workers": {"num_workers": 2},
    "bfloat16": {"precision": "bfloat16"},
}


@pytest.fixture(scope="module")
def documents(sample_chunks):
    """About 36 documents of four segments."""
    return Documents.open(sample_chunks, "train")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "resume"


class BreakOffError(Exception):
    """Stands for the end of a process."""


class BreakOff(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise BreakOffError


class Counting(TrainerCallback):
    """The steps that were made."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


def config(folder=None, **other):
    small = {"batch_size": 8, "num_epochs": 2, "learning_rate": 1e-2, "device": "cpu", "warmup_fraction": 0.1}
    return TrainingConfig(**{**small, "resume_dir": folder and str(folder), **other})


def make_trainer(make_model, documents, config, *callbacks):
    """Of a model with dropout of every kind."""
    model = make_model("gmm", routing_mode="read-based", expert_dropout=0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    return GMMTrainer(model, config, documents, callbacks=list(callbacks))


def break_off(make_model, documents, folder, step, **settings):
    """Train up to the middle of a step; the checkpoint of the step before is the last."""
    with pytest.raises(BreakOffError):
        settings = {"save_steps": max(step - 1, 1), **settings}
        make_trainer(make_model, documents, config(folder, **settings), BreakOff(step)).train()


def outcome(trainer, folder):
    """Everything that training leaves: weights and the line of every step."""
    trainer.record.write_csv(folder / "steps.csv")
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    return weights, (folder / "steps.csv").read_bytes()


def assert_same(one, other):
    assert one[1] == other[1]
    assert [name for name in one[0] if not torch.equal(one[0][name], other[0][name])] == []


def checkpoints(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_bits_wherever_it_breaks_off(make_model, documents, folder, tmp_path, variant):
    settings = VARIANTS[variant]
    straight = make_trainer(make_model, documents, config(**settings))
    straight.train()
    expected = outcome(straight, tmp_path)
    num_steps = straight.state.global_step
    assert num_steps >= 8
    per_epoch = straight.state.max_steps // straight.state.num_train_epochs
    for step in (2, per_epoch + 1, per_epoch + 2, num_steps):  # before and after the end of an epoch
        break_off(make_model, documents, folder, step, **settings)
        counting = Counting()
        resumed = make_trainer(make_model, documents, config(folder, **settings), counting)
        resumed.train()
        assert counting.steps == list(range(step, num_steps + 1))
        assert_same(outcome(resumed, tmp_path), expected)
        assert [log["step"] for log in resumed.state.log_history] == [log["step"] for log in straight.state.log_history]
        resumed.remove_checkpoints()
        assert not folder.exists()

"""Training that breaks off and goes on ends with the same bits as training that never did."""

import json
import os
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    XLNetConfig,
    XLNetForQuestionAnsweringSimple,
)

from gmmxlnet.errors import CheckpointError, Interrupted
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.checkpoints import CheckpointStore
from gmmxlnet.training.progress_bar import ProgressCallback
from gmmxlnet.training.resume import SaveSchedule
from gmmxlnet.utils.processes import Processes
from gmmxlnet.verification.fingerprint import Fingerprint

VARIANTS = {
    "plain": {"max_steps": 11},
    "batches added up": {"gradient_accumulation_steps": 2, "batch_size": 5, "num_epochs": 2},
    "curriculum": {"progressive_segments": [1, 3]},
    "workers": {"num_workers": 2},
    "bfloat16": {"precision": "bfloat16"},
    "two learning rates": {"learning_rate": 2e-3, "learning_rate_memory": 1e-2},
}


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


class Signal(TrainerCallback):
    """Sends this process signals while it is in a step."""

    def __init__(self, step, *signals):
        self.step, self.signals = step, signals

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for signum in self.signals:
                os.kill(os.getpid(), signum)


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
    every_step = config(folder, **{"save_steps": max(step - 1, 1), **settings})
    trainer = make_trainer(make_model, documents, every_step, BreakOff(step))
    with pytest.raises(BreakOffError):
        trainer.train()


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
    batches = len(straight.get_train_dataloader())
    per_epoch = -(-batches // straight.config.gradient_accumulation_steps)
    assert per_epoch + 2 < num_steps
    at_the_seam = (per_epoch + 1, per_epoch + 2)  # the checkpoint is that of the step before
    for step in (2, *at_the_seam, num_steps) if variant == "plain" else at_the_seam:
        break_off(make_model, documents, folder, step, **settings)
        counting = Counting()
        resumed = make_trainer(make_model, documents, config(folder, **settings), counting)
        resumed.train()
        assert counting.steps == list(range(step, num_steps + 1))
        assert_same(outcome(resumed, tmp_path), expected)
        assert [log["step"] for log in resumed.state.log_history] == [log["step"] for log in straight.state.log_history]
        resumed.remove_checkpoints()
        assert not folder.exists()


def test_an_adapter_ends_with_the_same_bits(documents, folder, tmp_path):
    size = {"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32, "dropout": 0.2}
    words = documents.layout.vocab_size
    torch.manual_seed(0)
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=words, **size)).save_pretrained(tmp_path / "base")

    def make_adapted(memory_type, **memory):
        torch.manual_seed(0)
        memory |= {"memory_type": memory_type, "num_memory_experts": 2, "memory_slots": 2}
        return pretrained_model(str(tmp_path / "base"), None, range(words), memory, adapter=AdapterSize(dropout=0.2))

    straight = make_trainer(make_adapted, documents, config())
    straight.train()
    break_off(make_adapted, documents, folder, 5)
    resumed = make_trainer(make_adapted, documents, config(folder))
    resumed.train()
    assert_same(outcome(resumed, tmp_path), outcome(straight, tmp_path))
    resumed.model.save_pretrained(tmp_path / "saved")
    assert Fingerprint.of(GMMXLNetForQA.from_pretrained(tmp_path / "saved")) == Fingerprint.of(straight.model)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_was_trained_is_what_is_loaded(make_model, documents, folder, tmp_path, precision):
    """Mixed precision is the training's, not the model's: its logits are those of the float32 weights again."""
    trainer = make_trainer(make_model, documents, config(max_steps=2, precision=precision))
    for _ in range(2):  # a second training in the same process too
        trainer.train()
        trainer.model.save_pretrained(tmp_path / "saved")
        assert Fingerprint.of(GMMXLNetForQA.from_pretrained(tmp_path / "saved")) == Fingerprint.of(trainer.model)


def test_no_other_variant_of_the_same_training_goes_on_from_it(make_model, documents, folder):
    break_off(make_model, documents, folder, 4)
    for other, reason in (
        ({"learning_rate": 2e-2}, r"learning_rate 0\.01, not 0\.02"),
        ({"seed": 1}, "seed 13, not 1"),
        ({"batch_size": 4}, "batch_size 8, not 4"),
    ):
        with pytest.raises(CheckpointError, match=f"step-00000003: is of a training with {reason}; use another"):
            make_trainer(make_model, documents, config(folder, **other)).train()
    with pytest.raises(CheckpointError, match=r"documents 42, not 12; use another"):
        make_trainer(make_model, Few(documents), config(folder)).train()
    model = make_model("gmm", routing_mode="write-based", expert_dropout=0.2)
    with pytest.raises(CheckpointError, match=r"model\.routing_mode 'read-based', not 'write-based'; use another"):
        GMMTrainer(model, config(folder), documents).train()


def test_a_processor_that_computes_otherwise_does_not_go_on_from_it(make_model, documents, folder, set_processor):
    """With `precision: auto` it would go on in another precision."""
    set_processor(amx=False)
    break_off(make_model, documents, folder, 4)
    set_processor(amx=True)
    with pytest.raises(CheckpointError, match="processor 'AVX512', not 'AVX512 with AMX'; use another"):
        make_trainer(make_model, documents, config(folder)).train()


class Few:
    """The first twelve documents."""

    def __init__(self, documents):
        self.documents, self.layout = documents, documents.layout

    def __len__(self):
        return 12


def test_what_changes_no_number_may_change(make_model, documents, folder):
    break_off(make_model, documents, folder, 4)
    counting = Counting()
    other = {"save_steps": 5, "save_total_limit": 1, "num_workers": 1, "logging_steps": 3, "output_dir": "elsewhere"}
    make_trainer(make_model, documents, config(folder, **other), counting).train()
    assert counting.steps[0] == 4
    assert checkpoints(folder) == ["step-00000010"]  # and none after the last step


def test_a_damaged_checkpoint_costs_only_its_steps(make_model, documents, folder, tmp_path, caplog):
    straight = make_trainer(make_model, documents, config())
    straight.train()
    expected = outcome(straight, tmp_path)
    break_off(make_model, documents, folder, 7, save_steps=2)
    assert checkpoints(folder) == ["step-00000004", "step-00000006"]
    damaged = folder / "step-00000006" / "training.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    counting = Counting()
    resumed = make_trainer(make_model, documents, config(folder), counting)
    resumed.train()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "step-00000006: damaged (training.safetensors is not what was written)" in warning
    assert counting.steps == list(range(5, 13))
    assert_same(outcome(resumed, tmp_path), expected)


def test_a_full_disk_stops_training_and_leaves_the_last_checkpoint(make_model, documents, folder):
    """A limit on the size of files stands for the disk: the record grows by a row a step, the next one is too large."""
    break_off(make_model, documents, folder, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [file.stat().st_size for file in (folder / "step-00000001").iterdir()]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes), hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written: .* from step-00000001, which is intact"):
            make_trainer(make_model, documents, config(folder, save_steps=1)).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints(folder) == ["step-00000001"]
    assert CheckpointStore(folder, limit=1).newest() == folder / "step-00000001"


def test_where_no_checkpoint_can_be_kept_training_does_not_begin(make_model, documents, tmp_path):
    (tmp_path / "file").touch()
    counting = Counting()
    with pytest.raises(CheckpointError, match="no checkpoints can be kept here"):
        make_trainer(make_model, documents, config(tmp_path / "file" / "resume"), counting).train()
    assert counting.steps == []


def test_nothing_in_a_checkpoint_is_a_pickle(make_model, documents, folder):
    break_off(make_model, documents, folder, 2)
    files = sorted((folder / "step-00000001").iterdir())
    names = ["manifest.json", "model.safetensors", "trainer_state.json", "training.json", "training.safetensors"]
    assert [file.name for file in files] == names
    for file in files:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        else:
            load_file(file)


def test_without_save_steps_saving_takes_a_share_of_the_time():
    schedule = SaveSchedule(None, Processes(), stopping=lambda: False)
    state, control = TrainerState(global_step=1, max_steps=10), TrainerControl()
    schedule.on_train_begin(None, state, control)
    schedule.on_step_end(None, state, control)
    assert not control.should_save  # it has only begun
    schedule.last -= 16
    schedule.on_step_end(None, state, control)
    assert control.should_save
    schedule.saved(seconds=2.0)
    schedule.last -= 190
    schedule.on_step_end(None, state, control)
    assert not control.should_save
    schedule.last -= 20
    schedule.on_step_end(None, state, control)
    assert control.should_save
    state.global_step = 10
    schedule.on_step_end(None, state, control)
    assert not control.should_save  # the outputs are about to be written


def test_several_processes_go_by_the_main_ones_clock(monkeypatch):
    asked = []
    monkeypatch.setattr(Processes, "from_main", lambda self, due: asked.append(due) or True)
    schedule = SaveSchedule(None, Processes(index=1, count=2), stopping=lambda: False)
    state, control = TrainerState(max_steps=100), TrainerControl()
    schedule.on_train_begin(None, state, control)
    saved = []
    for state.global_step in range(1, 31):
        schedule.on_step_end(None, state, control)
        saved += [state.global_step] * control.should_save
    assert saved == [10, 20, 30]
    assert asked == [False] * 3  # by its own clock it was too early


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_same_bits_on_a_gpu(make_model, documents, folder, tmp_path, precision):
    settings = {"device": "cuda", "precision": precision}
    straight = make_trainer(make_model, documents, config(**settings))
    straight.train()
    break_off(make_model, documents, folder, 4, **settings)
    resumed = make_trainer(make_model, documents, config(folder, **settings))
    resumed.train()
    assert_same(outcome(resumed, tmp_path), outcome(straight, tmp_path))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_training_after_the_step_with_a_last_checkpoint(make_model, documents, folder, tmp_path, signum):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    straight = make_trainer(make_model, documents, config(max_steps=6))
    straight.train()
    rarely = config(folder, max_steps=6, save_steps=100)
    with pytest.raises(Interrupted) as stopped:
        make_trainer(make_model, documents, rarely, Signal(4, signum)).train()
    assert stopped.value.signum == signum
    assert stopped.value.kept == "after step 4 of 6; checkpoint resume/step-00000004"
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    second = make_trainer(make_model, documents, rarely, counting := Counting())
    second.train()
    assert counting.steps == [5, 6]
    assert_same(outcome(second, tmp_path), outcome(straight, tmp_path))


def test_a_second_signal_ends_training_at_once(make_model, documents, folder):
    every_second = config(folder, max_steps=6, save_steps=2)
    with pytest.raises(Interrupted) as stopped:
        make_trainer(make_model, documents, every_second, Signal(4, signal.SIGINT, signal.SIGINT)).train()
    assert stopped.value.kept == "after step 3 of 6; checkpoint resume/step-00000002"
    assert checkpoints(folder) == ["step-00000002"]


def test_a_signal_in_the_last_step_ends_the_program_too(make_model, documents, folder):
    with pytest.raises(Interrupted, match=r"after step 6 of 6; checkpoint resume/step-00000004"):
        make_trainer(
            make_model, documents, config(folder, max_steps=6, save_steps=4), Signal(6, signal.SIGTERM)
        ).train()


def test_without_checkpoints_signals_are_left_to_the_program(make_model, documents):
    """Nothing could be saved, so a signal need not wait for the step's end."""
    with pytest.raises(KeyboardInterrupt) as stopped:
        make_trainer(make_model, documents, config(max_steps=6), Signal(4, signal.SIGINT)).train()
    assert not isinstance(stopped.value, Interrupted)


class Bar(TrainerCallback):
    """What the progress bar shows when training begins and after each step."""

    def __init__(self):
        self.shown = []

    def on_step_begin(self, args, state, control, **kwargs):
        (bar,) = [each for each in self.trainer.callback_handler.callbacks if isinstance(each, ProgressCallback)]
        self.shown.append(f"{bar.progress.done} of {bar.progress.total}")


def test_the_bar_of_a_resumed_training_counts_all_steps(make_model, documents, folder):
    break_off(make_model, documents, folder, 4, max_steps=6)
    trainer = make_trainer(make_model, documents, config(folder, max_steps=6), bar := Bar())
    bar.trainer = trainer
    trainer.train()
    assert bar.shown == ["3 of 6", "4 of 6", "5 of 6"]

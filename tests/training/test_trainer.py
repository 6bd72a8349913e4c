"""`GMMTrainer` on real documents and small real models: it learns, repeats itself, and records every step."""

import csv
import re
import time

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainerState

from gmmxlnet.data.dataset import ChunkedSquadDataset
from gmmxlnet.data.tokenizer import add_memory_tokens, load_tokenizer
from gmmxlnet.errors import ConfigError
from gmmxlnet.models.dropout import Dropout
from gmmxlnet.training import GMMTrainer, GMMTrainingConfig, TrainingConfig

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


class Chosen:
    """Some of the documents, as the trainer uses them."""

    def __init__(self, documents, indices):
        self.documents, self.indices, self.layout = documents, indices, documents.layout

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, position):
        return self.documents[self.indices[position]]

    def num_segments(self):
        return self.documents.num_segments()[self.indices]

    def num_tokens(self):
        return self.documents.num_tokens()[self.indices]


def seen_by(model):
    """A list to which every batch that the model reads from now on is added."""
    batches = []
    model.register_forward_pre_hook(lambda _, args, batch: batches.append(batch), with_kwargs=True)
    return batches


def column(record, name):
    return [row[record.names.index(name)].item() for row in record.rows]


def config(cls=TrainingConfig, **other):
    small = {"batch_size": 8, "num_epochs": 1, "learning_rate": 1e-2, "device": "cpu", "warmup_fraction": 0.0}
    return cls(**{**small, **other})


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("memory_type", ["none", "gmm"])
def test_loss_goes_down(make_model, documents, memory_type):
    trainer = GMMTrainer(make_model(memory_type), config(num_epochs=4), documents)
    trainer.train()
    losses = column(trainer.record, "loss")
    assert sum(losses[-4:]) / 4 < 0.8 * losses[0]


def test_the_same_seed_gives_the_same_bits(make_model, documents, tmp_path):
    """Dropout, batches and cuts included; another seed gives others."""
    runs = []
    for seed in (3, 3, 4):
        model = make_model("gmm", routing_mode="read-based")
        for module in model.modules():
            if isinstance(module, Dropout):
                module.p = 0.2
        trainer = GMMTrainer(model, config(max_steps=4, seed=seed, progressive_segments=[2]), documents)
        trainer.train()
        path = tmp_path / f"{len(runs)}.csv"
        trainer.record.write_csv(path)
        runs.append((weights(model), path.read_bytes()))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not same(runs[0][0], runs[2][0])


class GradientsBeforeTheStep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_batches_added_up_are_one_of_their_joint_size(make_model, documents):
    """All documents are cut to two segments, so that the mean of their means is the mean over all."""
    four = Chosen(documents, [0, 4, 9, 13])
    gradients, losses = [], []
    for batch_size in (4, 2, 1):
        catcher = GradientsBeforeTheStep()
        size = {"batch_size": batch_size, "gradient_accumulation_steps": 4 // batch_size}
        settings = config(**size, progressive_segments=[2], max_grad_norm=1e9)
        trainer = GMMTrainer(make_model("token"), settings, four, callbacks=[catcher])
        trainer.train()
        losses += column(trainer.record, "loss")
        gradients.append(catcher.gradients)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_the_curriculum_cuts_documents_in_its_epochs(make_model, documents):
    model = make_model("gmm")
    batches = seen_by(model)
    GMMTrainer(model, config(num_epochs=3, progressive_segments=[1, 3]), documents).train()
    per_epoch = -(-len(documents) // 8)
    epochs = [batches[i : i + per_epoch] for i in range(0, len(batches), per_epoch)]
    assert len(epochs) == 3
    for epoch, most in zip(epochs, (1, 1, 3), strict=True):
        read = torch.cat([batch["document_index"] for batch in epoch])
        assert sorted(read.tolist()) == list(range(len(documents)))
        segments = torch.cat([batch["num_segments"] for batch in epoch])
        assert segments.max() == most
        expected = torch.from_numpy(documents.num_segments()).clamp(max=most)
        assert torch.equal(segments, expected[read])
    orders = [[tuple(batch["document_index"].tolist()) for batch in epoch] for epoch in epochs]
    assert orders[0] != orders[1]
    offsets = [
        {i.item(): o[0].item() for b in epoch for i, o in zip(b["document_index"], b["segment_offsets"], strict=True)}
        for epoch in epochs
    ]
    assert offsets[0] != offsets[1]  # another epoch shows another part of a document


def test_nothing_is_cut_without_a_curriculum(make_model, documents):
    model = make_model("gmm")
    batches = seen_by(model)
    GMMTrainer(model, config(), documents).train()
    read = torch.cat([batch["document_index"] for batch in batches])
    assert torch.equal(
        torch.cat([batch["num_segments"] for batch in batches]), torch.from_numpy(documents.num_segments())[read]
    )


def test_the_record_has_a_line_a_step(make_model, documents, tmp_path):
    model = make_model("gmm", memory_reconstruction_weight=0.5)
    batches = seen_by(model)
    trainer = GMMTrainer(model, config(num_epochs=2, gradient_accumulation_steps=2), documents)
    trainer.train()
    record = trainer.record
    assert len(record.rows) == trainer.state.global_step == len(record.seconds)
    assert column(record, "tokens")[0] == sum(batch["attention_mask"].sum().item() for batch in batches[:2])
    assert sum(column(record, "tokens")) == sum(batch["attention_mask"].sum().item() for batch in batches)
    num_steps = len(record.rows)
    for row in range(num_steps):
        value = {name: column(record, name)[row] for name in record.names}
        assert sum(value[f"utilization_{j}"] for j in range(3)) == pytest.approx(1, abs=1e-4)
        parts = value["span"] + 0.01 * value["load_balance"] + 0.5 * value["reconstruction"]
        assert value["loss"] == pytest.approx(parts, rel=1e-4)
    record.write_csv(tmp_path / "steps.csv")
    record.write_throughput_csv(tmp_path / "throughput.csv")
    with (tmp_path / "steps.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == list(range(1, num_steps + 1))
    assert float(rows[-1]["loss"]) == pytest.approx(column(record, "loss")[-1], rel=1e-5)
    with (tmp_path / "throughput.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == num_steps - 1


def test_the_time_of_a_step_has_its_own_backward_pass(make_model, documents):
    model, passes = make_model("none"), []

    def slow_in_the_third(gradient):
        passes.append(gradient)
        if len(passes) == 3:
            time.sleep(1)

    model.qa_head.weight.register_hook(slow_in_the_third)
    trainer = GMMTrainer(model, config(max_steps=5, batch_size=2), documents)
    trainer.train()
    durations = np.diff(trainer.record.seconds)  # of the second step and those after it
    assert durations.argmax() == 1
    assert durations[1] >= 1


def test_the_learning_rate_rises_stays_and_falls(make_model, documents):
    shares = {"max_steps": 8, "batch_size": 2, "warmup_fraction": 0.25, "decay_fraction": 0.5}
    trainer = GMMTrainer(make_model("none"), config(**shares), documents)
    trainer.train()
    expected = [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [rate / 1e-2 for rate in column(trainer.record, "learning_rate")] == pytest.approx(expected, abs=1e-6)


def test_rounding_the_rise_up_does_not_delay_the_fall(make_model, documents):
    """Of five steps, two rise (1.5 rounded up) and three fall, though 3.5 is rounded to four."""
    shares = {"max_steps": 5, "batch_size": 2, "warmup_fraction": 0.3, "decay_fraction": 0.7}
    trainer = GMMTrainer(make_model("none"), config(**shares), documents)
    trainer.train()
    expected = [0, 1 / 2, 1, 2 / 3, 1 / 3]
    assert [rate / 1e-2 for rate in column(trainer.record, "learning_rate")] == pytest.approx(expected, abs=1e-6)


def test_the_epoch_that_begins_decides_the_batches(make_model, documents):
    """Also that of an epoch which begins in its middle, where the Trainer shows its own epoch to a wrapper only."""
    trainer = GMMTrainer(make_model("none"), config(num_epochs=3, progressive_segments=[1, 2, 3]), documents)
    trainer.get_train_dataloader()
    loader = trainer._curriculum.loader
    for epoch in (2.0, 1.4, 0):
        trainer._curriculum.on_epoch_begin(trainer.args, TrainerState(epoch=epoch), trainer.control)
        assert (loader.batch_sampler.epoch, loader.collate_fn.epoch) == (int(epoch), int(epoch))
        assert loader.collate_fn.max_segments == int(epoch) + 1


def test_a_shared_configuration_sets_the_models_loss(make_model, documents):
    settings = {
        **{"load_balance_weight": 0.5, "entropy_regularization_weight": 0.25, "memory_reconstruction_weight": 0.125},
        **{"span_loss": "document", "bptt_segments": 1, "expert_dropout": 0.25},
    }
    model = make_model("gmm")
    GMMTrainer(model, config(GMMTrainingConfig, use_gmm_memory=True, num_memory_experts=3, **settings), documents)
    assert {name: getattr(model.config, name) for name in settings} == settings
    model = make_model("gmm", **settings)
    GMMTrainer(model, config(), documents)
    assert {name: getattr(model.config, name) for name in settings} == settings


def test_the_guides_call(make_model, sample_chunks):
    tokenizer = load_tokenizer(str(sample_chunks / "tokenizer"))
    add_memory_tokens(tokenizer, 2)
    settings = config(GMMTrainingConfig, use_gmm_memory=True, num_memory_experts=3, num_epochs=2, memory_num_tokens=2)
    dataset = ChunkedSquadDataset(
        split="train",
        tokenizer=tokenizer,
        max_seq_length=48,
        max_n_segs=2,
        dataset=sample_chunks.parent,
        doc_stride=8,
        max_question_length=16,
    )
    model = make_model("gmm")
    before, batches = weights(model), seen_by(model)
    trainer = GMMTrainer(model=model, config=settings)
    trainer.train(dataset)
    assert len(trainer.record.rows) == 2 * -(-len(dataset) // 8)
    assert not any(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items() if "expert" in name)
    assert max(batch["num_segments"].max().item() for batch in batches) == 2


def test_every_parameter_is_trained(make_model, documents):
    model = make_model("gmm", routing_mode="read-based", pooling_method="attention")
    before = weights(model)
    GMMTrainer(model, config(max_steps=1), documents).train()
    after = model.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} == set()


def test_nothing_is_left_on_disk(make_model, documents, tmp_path):
    GMMTrainer(make_model("gmm"), config(max_steps=1, output_dir=str(tmp_path / "out")), documents).train()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_training_on_nothing_is_refused(make_model):
    with pytest.raises(ConfigError, match="needs a train_dataset"):
        GMMTrainer(make_model("gmm"), config()).train()


def test_a_gpu_that_is_not_there_is_named(make_model, documents, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is cuda, but torch sees no GPU"):
        GMMTrainer(make_model("gmm"), config(device="cuda"), documents)
    for half in ({"precision": "float16"}, {"fp16": True}):
        with pytest.raises(ConfigError, match="float16 needs a GPU"):
            GMMTrainer(make_model("gmm"), config(device="auto", **half), documents)


def test_bfloat16_on_a_cpu_gives_the_same_bits_twice_and_nearly_those_of_float32(make_model, documents):
    runs = {}
    for name, precision in (("one", "bfloat16"), ("two", "bfloat16"), ("float32", "float32")):
        model = make_model("gmm")
        trainer = GMMTrainer(model, config(max_steps=3, precision=precision, learning_rate=1e-3), documents)
        trainer.train()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        runs[name] = weights(model), torch.tensor(column(trainer.record, "loss"))
    assert same(runs["one"][0], runs["two"][0])
    assert torch.equal(runs["one"][1], runs["two"][1])
    assert not same(runs["one"][0], runs["float32"][0])
    torch.testing.assert_close(runs["one"][1], runs["float32"][1], rtol=2e-2, atol=0)


@pytest.mark.parametrize("amx", [False, True])
def test_auto_trains_in_bfloat16_where_a_cpu_has_amx(make_model, documents, set_processor, amx):
    set_processor(amx=amx)
    runs = []
    for precision in ("auto", "bfloat16" if amx else "float32"):
        trainer = GMMTrainer(make_model("gmm"), config(max_steps=2, precision=precision), documents)
        trainer.train()
        runs.append(weights(trainer.model))
    assert same(*runs)
    assert trainer.args.bf16 == amx


def test_progress_says_loss_and_speed(documents, make_model, caplog, monkeypatch, capsys):
    monkeypatch.setattr("gmmxlnet.utils.progress.SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level("INFO", logger="gmmxlnet")
    GMMTrainer(make_model(), config(max_steps=3, logging_steps=1)).train(documents)
    lines = [message for message in caplog.messages if message.startswith("train: ")]
    assert len(lines) == 3
    assert re.search(r"train: 2 of 3 steps, loss [\d.]+, [\d,]+ tokens/s", lines[1])
    assert "{" not in capsys.readouterr().out  # the Trainer prints no dictionaries of its own

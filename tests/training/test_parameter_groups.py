"""Two learning rates: the encoder's, and that of what no base model brings along."""

import pytest
import torch
from transformers import TrainerCallback, XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import ConfigError
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.parameter_groups import is_new

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

RATE, RATE_MEMORY = 1e-3, 7e-3
KINDS = {
    "none": {},
    "token": {},
    "gmm": {"routing_mode": "read-based", "pooling_method": "attention"},
    "differentiable": {},
    "mems": {"mem_len": 12},
    "words": {"mem_len": 12},
}


def config(**other):
    small = {"batch_size": 8, "max_steps": 1, "device": "cpu", "warmup_fraction": 0.0, "decay_fraction": 0.0}
    rates = {"learning_rate": RATE, "learning_rate_memory": RATE_MEMORY, "weight_decay": 0.0}
    return TrainingConfig(**{**small, **rates, **other})


class Gradients(TrainerCallback):
    """Of the last step, which the Trainer forgets after it."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.of = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def rates_of_first_step(model, documents, **settings):
    """By parameter name, how far its entries with a gradient moved: Adam's first step is the rate, whatever it is."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradients = Gradients()
    GMMTrainer(model, config(**settings), documents, callbacks=[gradients]).train()
    moved = {}
    for name, parameter in model.named_parameters():
        gradient = gradients.of.get(name)
        if gradient is not None and (clear := gradient.abs() > 1e-5).any():
            moved[name] = torch.where(clear, (parameter.detach() - before[name]).abs(), torch.nan)
    return moved


def assert_rate(moved, rate, name):
    there = moved[~moved.isnan()]
    torch.testing.assert_close(there, torch.full_like(there, rate), rtol=5e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("memory_type", KINDS)
def test_every_parameter_is_stepped_at_its_rate(make_model, documents, memory_type):
    model = make_model(memory_type, memory_reconstruction_weight=1.0, **KINDS[memory_type])
    moved = rates_of_first_step(model, documents)
    assert "qa_head.weight" in moved
    assert {name.split(".")[0] for name in moved} == {name.split(".")[0] for name, _ in model.named_parameters()}
    words = model.config.read_token_id
    for name, tensor in moved.items():
        if name == "encoder.word_embedding.weight":
            assert_rate(tensor[:words], RATE, name)
            assert_rate(tensor[words:], RATE_MEMORY, name)
            has_written = (~tensor[words:].isnan()).any()
            assert has_written == model.config.has_memory_tokens
        else:
            assert_rate(tensor, RATE_MEMORY if not name.startswith("encoder.") else RATE, name)


def test_without_a_rate_of_its_own_everything_is_stepped_at_the_one(make_model, documents):
    for name, tensor in rates_of_first_step(make_model("gmm"), documents, learning_rate_memory=None).items():
        assert_rate(tensor, RATE, name)


def test_an_adapter_is_trained_at_the_encoders_rate(documents, sample_tokenizer, tmp_path):
    size = {"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32, "dropout": 0.0, "initializer_range": 0.5}
    torch.manual_seed(0)
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(sample_tokenizer), **size)).save_pretrained("base")
    memory = {"memory_type": "token", "memory_slots": 2}
    lora = AdapterSize(rank=2, alpha=4, dropout=0.0)
    model = pretrained_model("base", None, sample_tokenizer, memory, adapter=lora)
    moved = rates_of_first_step(model, documents)
    assert any("lora_B" in name for name in moved)
    assert "encoder.word_embedding.memory_tokens" in moved
    for name, tensor in moved.items():
        assert_rate(tensor, RATE if "lora" in name else RATE_MEMORY, name)


def test_weight_decay_follows_the_rate(make_model, documents):
    """Three steps against torch's AdamW with one group for each rate, the memory tokens as a parameter of their own."""
    gradients, models = [], [make_model("token"), make_model("token")]

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    trained, plain = models
    settings = {"max_steps": 3, "weight_decay": 0.5, "max_grad_norm": 1e9}
    GMMTrainer(trained, config(**settings), documents, callbacks=[Keep()]).train()
    words = plain.config.read_token_id
    parts = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}
    table = parts.pop("encoder.word_embedding.weight")
    parts |= {"words": table[:words].clone(), "tokens": table[words:].clone()}
    groups = [
        {"params": [tensor], "weight_decay": 0.0 if "bias" in name or "norm" in name else 0.5}
        | {"lr": RATE if name == "words" or (name != "tokens" and not is_new(name)) else RATE_MEMORY}
        for name, tensor in parts.items()
    ]
    optimizer = torch.optim.AdamW(groups)
    for step in gradients:
        given = dict(step)
        table = given.pop("encoder.word_embedding.weight")
        given |= {"words": table[:words], "tokens": table[words:]}
        for name, tensor in parts.items():
            tensor.grad = given.get(name)
        optimizer.step()
    after = dict(trained.named_parameters())
    table = after.pop("encoder.word_embedding.weight")
    after |= {"words": table[:words], "tokens": table[words:]}
    for name, tensor in parts.items():
        torch.testing.assert_close(after[name].detach(), tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_both_rates_follow_one_schedule(make_model, documents):
    trainer = GMMTrainer(make_model("gmm"), config(max_steps=4, decay_fraction=1.0), documents)
    rates = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            rates.append([group["lr"] for group in kwargs["optimizer"].param_groups])

    trainer.add_callback(Watch())
    trainer.train()
    assert [min(step) for step in rates] == pytest.approx([RATE, 0.75 * RATE, 0.5 * RATE, 0.25 * RATE])
    assert [max(step) / min(step) for step in rates] == pytest.approx([RATE_MEMORY / RATE] * 4)
    column = trainer.record.names.index("learning_rate")
    assert trainer.record.rows[1][column].item() == pytest.approx(0.75 * RATE)  # the encoder's, as always


@pytest.mark.parametrize("value", [0, 1.5, "fast", float("nan")])
def test_an_impossible_rate_is_refused(value):
    with pytest.raises(ConfigError, match=r"learning_rate_memory must be a number in \(0, 1\], or null for learning"):
        config(learning_rate_memory=value)

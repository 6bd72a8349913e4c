"""`backward_in_chunks`: the loss and gradients of one backward pass, in memory that does not grow with documents."""

import gc
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.bptt import backward_in_chunks

WORDS, SLOTS, LENGTH = 40, 2, 12
EVERY_LOSS = {
    "memory_reconstruction_weight": 0.7,
    "memory_association_weight": 0.9,
    "entropy_regularization_weight": 0.3,
    "load_balance_weight": 0.5,
}
MEMORIES = [
    {"memory_type": "none"},
    {"memory_type": "mems", "mem_len": 15},
    {"memory_type": "words", "mem_len": 15},
    {"memory_type": "token"},
    {"memory_type": "differentiable", "memory_heads": 2},
    {"memory_type": "gmm"},
    {"memory_type": "gmm", "routing_mode": "read-based", "pooling_method": "attention", "expert_dropout": 0.3},
]


def model_of(memory_type="gmm", *, dropout=0.0, dtype=torch.float64, **other):
    torch.manual_seed(0)
    slots = 0 if memory_type in ("none", "mems", "words") else SLOTS
    tokens = 2 * SLOTS if memory_type in ("token", "gmm") else 0
    size = {"d_model": 16, "n_head": 4, "n_layer": 2, "d_inner": 24, "initializer_range": 0.4, "dropout": dropout}
    config = GMMXLNetConfig(
        **size,
        vocab_size=WORDS + tokens,
        memory_type=memory_type,
        num_memory_experts=3 if memory_type == "gmm" else 0,
        memory_slots=slots,
        **EVERY_LOSS,
        **other,
    )
    return GMMXLNetForQA(config).to(dtype).train()


def batch_of(num_segments, seed=0):
    """Random documents: context, write tokens, <sep> | read tokens, question, <sep> | <cls>; half of them answered."""
    rng = np.random.default_rng(seed)
    B, S = len(num_segments), max(num_segments)
    ids = torch.from_numpy(rng.integers(9, WORDS, (B, S, LENGTH)))
    ids[..., 4:6], ids[..., 6], ids[..., 7:9], ids[..., 10], ids[..., 11] = (
        torch.arange(WORDS + SLOTS, WORDS + 2 * SLOTS),
        4,
        torch.arange(WORDS, WORDS + SLOTS),
        4,
        3,
    )
    types = torch.tensor([0] * 7 + [1] * 4 + [2]).expand(B, S, LENGTH).clone()
    mask = torch.ones_like(ids)
    has_segment = torch.arange(S) < torch.tensor(num_segments)[:, None]
    for tensor, value in ((ids, 5), (types, 3), (mask, 0)):
        tensor[~has_segment] = value
    mask[0, 0, 0], ids[0, 0, 0], types[0, 0, 0] = 0, 5, 3
    labels = torch.full((2, B, S), LENGTH - 1)
    labels[:, ::2, -1] = torch.tensor([1, 3])[:, None]
    labels[:, ~has_segment] = -100
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "num_segments": torch.tensor(num_segments),
        "start_positions": labels[0],
        "end_positions": labels[1],
    }


def batch_for(model, num_segments):
    batch = batch_of(num_segments)
    if not model.config.has_memory_tokens:
        batch["input_ids"] = batch["input_ids"].where(batch["input_ids"] < WORDS, 7)
    return batch


def learn(model, batch, *, chunks, **how):
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    if chunks:
        output = backward_in_chunks(model, batch, **how)
    else:
        output = model(**batch)
        output.loss.backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(ours, others):
    """Of all gradients in a row, relative to their length."""
    assert set(ours) == set(others)
    one, two = (torch.cat([gradients[name].flatten() for name in others]) for gradients in (ours, others))
    return ((one - two).norm() / two.norm()).item()


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("span_loss", ["segment", "document"])
@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: "-".join(map(str, memory.values())))
def test_loss_and_gradients_are_those_of_one_backward_pass(memory, span_loss, limit):
    dropout = 0.0 if memory["memory_type"] == "none" else 0.2  # all segments at once draw other numbers than in turn
    model = model_of(**memory, span_loss=span_loss, bptt_segments=limit, dropout=dropout)
    batch = batch_for(model, [3, 5, 1, 2])
    plain, gradients = learn(model, batch, chunks=False)
    ours, others = learn(model, batch, chunks=True)
    assert set(others) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    torch.testing.assert_close(ours.loss, plain.loss.detach(), rtol=1e-10, atol=0)
    assert list(ours.loss_parts) == list(plain.loss_parts)
    assert set(ours) == set(plain)
    for name in {"start_logits", "end_logits", "routing_probs"} & set(plain):
        torch.testing.assert_close(ours[name], plain[name].detach())
    for name, part in plain.loss_parts.items():
        torch.testing.assert_close(ours.loss_parts[name], part, rtol=1e-10, atol=1e-14, msg=name)


@pytest.mark.parametrize(("span_loss", "times"), [("segment", 1), ("document", 2)])
def test_documents_are_read_twice_only_where_the_loss_couples_their_segments(span_loss, times):
    model = model_of(span_loss=span_loss, bptt_segments=1)
    read = []
    model.encoder.register_forward_hook(lambda *_: read.append(1))
    learn(model, batch_of([4]), chunks=True)
    assert len(read) == 4 * times


def test_under_autocast_it_stays_close_to_one_backward_pass():
    for span_loss in ("segment", "document"):
        model = model_of(span_loss=span_loss, bptt_segments=2, dtype=torch.float32)
        batch = batch_of([5, 3])

        def autocast():
            return torch.autocast("cpu", dtype=torch.bfloat16)

        with autocast():
            plain = model(**batch)
        plain.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        ours, others = learn(model, batch, chunks=True, autocast=autocast)
        assert ours.loss.item() == pytest.approx(plain.loss.item(), rel=1e-3)
        assert distance(others, gradients) < 0.01


class Saved:
    """Counts the bytes that graphs hold for their backward passes, and the most that they held at once."""

    def __init__(self):
        self.now = self.most = 0

    def pack(self, tensor):
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        return Handle(self, tensor.detach())  # an output that keeps its graph would hold itself


class Handle:
    def __init__(self, saved, tensor):
        self.saved, self.tensor = saved, tensor

    def __del__(self):
        self.saved.now -= self.tensor.nbytes


def most_saved(model, num_segments, *, chunks):
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda handle: handle.tensor):
        learn(model, batch_for(model, [num_segments] * 2), chunks=chunks)
    gc.collect()
    assert saved.now == 0
    return saved.most


@pytest.mark.parametrize("memory", MEMORIES[:5], ids=lambda memory: memory["memory_type"])
def test_what_is_saved_for_the_backward_pass_does_not_grow_with_the_document(memory):
    model = model_of(**memory, bptt_segments=2)
    few, many = (most_saved(model, S, chunks=True) for S in (6, 24))
    assert many == few
    assert most_saved(model, 24, chunks=False) > 3 * most_saved(model, 6, chunks=False)


# Behind the trainer


class GradientsBeforeTheStep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_trainer_steps_alike_with_batches_added_up(make_model, documents, tmp_path, monkeypatch, precision):
    monkeypatch.chdir(tmp_path)
    records, gradients = [], []
    for plain in (False, True):
        model = make_model("gmm", bptt_segments=2, memory_reconstruction_weight=0.5)
        if plain:
            monkeypatch.setattr(GMMTrainer, "_step_in_chunks", GMMTrainer.__bases__[0].training_step)
        catcher = GradientsBeforeTheStep()
        size = {"batch_size": 4, "gradient_accumulation_steps": 3, "max_steps": 2, "max_grad_norm": 1e9}
        config = TrainingConfig(**size, learning_rate=1e-3, device="cpu", precision=precision, warmup_fraction=0.0)
        trainer = GMMTrainer(model, config, documents, callbacks=[catcher])
        trainer.train()
        records.append(torch.stack(trainer.record.rows))
        gradients.append(catcher.gradients)
    tolerance = {"float32": 1e-5, "bfloat16": 3e-2}[precision]
    torch.testing.assert_close(records[0], records[1], rtol=tolerance, atol=0)
    assert distance(*gradients) < tolerance


def test_the_trainer_walks_back_once_for_each_chunk(make_model, documents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walked = []
    for limit in (None, 4, 2, 1):
        losses = Counter()
        trainer = GMMTrainer(
            make_model("token", bptt_segments=limit), TrainingConfig(batch_size=4, max_steps=1, device="cpu"), documents
        )
        backward = trainer.accelerator.backward
        monkeypatch.setattr(
            trainer.accelerator,
            "backward",
            lambda loss, backward=backward, losses=losses, **how: (losses.update(["loss"]), backward(loss, **how)),
        )
        trainer.train()
        walked.append(losses["loss"])
    assert walked == [1, 1, 2, 4]

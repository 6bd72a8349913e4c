"""Gradient checkpointing by segment: the same bits, from what is kept of one segment instead of all."""

import weakref

import pytest
import torch

from gmmxlnet.data.documents import Documents
from gmmxlnet.training import GMMTrainer, TrainingConfig
from tests.training.test_bptt import MEMORIES, batch_for, distance, learn, model_of

WITH_STATE = MEMORIES[1:]


def name_of(memory):
    return "-".join(map(str, memory.values()))


def both_ways(model, batch, *, chunks=False):
    results = []
    for again in (False, True):
        model.gradient_checkpointing = again
        results.append(learn(model, batch, chunks=chunks))
    return results


@pytest.mark.parametrize("chunks", [False, True], ids=["all segments", "bptt_segments"])
@pytest.mark.parametrize("span_loss", ["segment", "document"])
@pytest.mark.parametrize("memory", WITH_STATE, ids=name_of)
def test_loss_and_gradients_are_the_same_bits(memory, span_loss, chunks):
    model = model_of(
        **memory, span_loss=span_loss, bptt_segments=2 if chunks else None, dropout=0.2, dtype=torch.float32
    )
    (plain, gradients), (ours, others) = both_ways(model, batch_for(model, [3, 5, 1, 2]), chunks=chunks)
    assert torch.equal(ours.loss, plain.loss)
    assert set(others) == set(gradients)
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient), name


def test_without_memory_segments_apart_give_the_gradients_of_all_together():
    model = model_of("none")
    (plain, gradients), (ours, others) = both_ways(model, batch_for(model, [3, 5, 1, 2]))
    torch.testing.assert_close(ours.loss, plain.loss, rtol=1e-10, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def test_under_autocast_it_gives_the_same_bits():
    model = model_of("gmm", dropout=0.2, dtype=torch.float32)
    batch, found = batch_for(model, [3, 2]), []
    for again in (False, True):
        model.gradient_checkpointing = again
        model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert distance(*found) == 0


@pytest.mark.parametrize("memory", MEMORIES, ids=name_of)
def test_activations_outlive_their_segment_only_without_it(memory):
    model = model_of(**memory)
    batch = batch_for(model, [6, 6])
    outputs = []
    model.encoder.layers[0].inner.register_forward_hook(lambda _, inputs, output: outputs.append(weakref.ref(output)))
    read, alive = {}, {}
    for again in (False, True):
        model.gradient_checkpointing = again
        outputs.clear()
        loss = model(**batch).loss
        alive[again] = sum(output() is not None for output in outputs)
        loss.backward()
        read[again] = len(outputs)
    assert alive[True] == 0
    assert alive[False] == read[False] > 0
    assert read[True] == 2 * 6


def test_only_training_reads_again():
    model = model_of("gmm")
    model.gradient_checkpointing = True
    batch, read = batch_for(model, [4]), []
    model.encoder.register_forward_hook(lambda *_: read.append(1))
    model.eval()(**batch).loss.backward()
    assert len(read) == 4
    with torch.no_grad():
        model.train()(**batch)
    assert len(read) == 8


def test_a_trained_model_does_not_depend_on_it(make_model, sample_chunks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents, weights = Documents.open(sample_chunks, "train"), []
    for again in (False, True):
        model = make_model("gmm", memory_reconstruction_weight=0.5)
        settings = {"batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "device": "cpu"}
        trainer = GMMTrainer(model, TrainingConfig(**settings, gradient_checkpointing=again), documents)
        read = []
        model.encoder.register_forward_hook(lambda *_, read=read: read.append(1))
        trainer.train()
        weights.append((len(read), model.state_dict()))
    (once, plain), (twice, ours) = weights
    assert twice == 2 * once
    assert all(torch.equal(ours[name], plain[name]) for name in plain)

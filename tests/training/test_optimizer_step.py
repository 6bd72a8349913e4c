"""Steps of the trainer against steps by hand: clipped gradients, AdamW with weight decay, precision.

By hand: gradients by plain autograd on the batches that the trainer's model read, and AdamW (Loshchilov & Hutter 2019,
https://arxiv.org/abs/1711.05101) written out. Three steps, since in the first the scale of a gradient does not count.
"""

import copy
import math

import pytest
import torch

from gmmxlnet.training import GMMTrainer, TrainingConfig

RATE, DECAY, NORM = 1e-2, 0.7, 4.0
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def config(tmp_path, **other):
    schedule = {"batch_size": 1, "max_steps": 3, "warmup_fraction": 0.0, "decay_fraction": 0.0, "device": "cpu"}
    return TrainingConfig(**{**schedule, "learning_rate": RATE, "output_dir": str(tmp_path), **other})


def by_hand(model, batches, *, weight_decay, max_grad_norm):
    """The weights after a step on each batch, and the norm of each step's gradients before they were clipped."""
    parameters = dict(model.named_parameters())
    first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    norms = []
    for step, batch in enumerate(batches, 1):
        model.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        norms.append(math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients.values())))
        scale = min(1.0, max_grad_norm / norms[-1])
        for name, gradient in gradients.items():
            gradient = scale * gradient
            first[name] = BETA_1 * first[name] + (1 - BETA_1) * gradient
            second[name] = BETA_2 * second[name] + (1 - BETA_2) * gradient**2
            mean, square = first[name] / (1 - BETA_1**step), second[name] / (1 - BETA_2**step)
            decay = 0.0 if "bias" in name or "norm" in name else weight_decay
            with torch.no_grad():
                old = parameters[name].clone()
                parameters[name].copy_(old - RATE * decay * old - RATE * mean / (square.sqrt() + EPSILON))
    return {name: p.detach() for name, p in parameters.items()}, norms


@pytest.mark.parametrize("bptt_segments", [None, 1])
def test_three_steps_are_adamw_on_clipped_gradients(make_model, documents, tmp_path, bptt_segments):
    model = make_model("gmm", bptt_segments=bptt_segments, memory_reconstruction_weight=0.5).double()
    before, batches = copy.deepcopy(model).train(), []
    hook = model.register_forward_pre_hook(lambda _, args, batch: batches.append(batch), with_kwargs=True)
    settings = config(tmp_path, weight_decay=DECAY, max_grad_norm=NORM)
    trainer = GMMTrainer(model, settings, documents)
    if bptt_segments:  # the trainer reads in chunks, so that `forward` shows no batch
        trainer.training_step = lambda model, inputs, *rest: (
            batches.append(dict(inputs)) or GMMTrainer.training_step(trainer, model, inputs, *rest)
        )
    trainer.train()
    hook.remove()
    assert len(batches) == 3
    expected, norms = by_hand(before, batches, weight_decay=DECAY, max_grad_norm=NORM)
    assert min(norms) < NORM < max(norms)  # clipped to another norm, or always or never, the steps would be others
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7, msg=name)
    rates = [row[trainer.record.names.index("learning_rate")].item() for row in trainer.record.rows]
    assert rates == pytest.approx([RATE] * 3)


@pytest.mark.parametrize("bptt_segments", [None, 1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_computes_in_the_precision_that_is_asked_for(
    make_model, documents, tmp_path, precision, bptt_segments
):
    model, seen = make_model("gmm", bptt_segments=bptt_segments), []
    model.encoder.layers[0].inner.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    GMMTrainer(model, config(tmp_path, max_steps=1, precision=precision), documents).train()
    assert set(seen) == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

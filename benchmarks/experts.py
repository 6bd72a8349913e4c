"""What eight experts cost: a training step with gmm, k = 8, against one with `token`, on the same batch.

A step is forward with all losses (memory reconstruction among them), backward, clipping and AdamW, as in training.
"""

from collections.abc import Callable

import torch

from benchmarks.inputs import Scale
from benchmarks.synthetic import random_batch, random_model
from benchmarks.timing import Bar, Figure, in_turns, milliseconds, time_figure

EXPERTS = 8
SIZES = {  # encoder, batch, memory slots; the last as large as a CPU can bear
    "sample": ({"d_model": 128, "n_layer": 3, "n_head": 8, "d_inner": 256}, {"B": 32, "S": 3, "L": 56}, 4),
    "medium": ({"d_model": 256, "n_layer": 4, "n_head": 8, "d_inner": 1024}, {"B": 4, "S": 3, "L": 384}, 16),
    "base": ({"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}, {"B": 2, "S": 3, "L": 384}, 16),
}
MINIATURE = ({"d_model": 64, "n_layer": 1, "n_head": 2, "d_inner": 64}, {"B": 2, "S": 2, "L": 48}, 2)


def expert_figures(scale: Scale, size: str) -> list[Figure]:
    """At one of `SIZES`, or in miniature."""
    encoder, shape, slots = MINIATURE if scale.quick else SIZES[size]
    runs = {
        "token": _stepper("token", encoder, shape, slots=slots),
        "gmm": _stepper("gmm", encoder, shape, slots=slots, k=EXPERTS),
    }
    taken = in_turns(runs, scale.repeats, warm_up=2)
    return [
        time_figure(
            f"gmm k = {EXPERTS}, m = {slots}, d {encoder['d_model']}: time of a training step against token",
            taken["gmm"],
            taken["token"],
            Bar(at_most=1.08),
            layers=encoder["n_layer"],
            batch=shape["B"],
            segments=shape["S"],
            tokens=shape["L"],
            memory_reconstruction_weight=1.0,
            **milliseconds(taken),
        )
    ]


def _stepper(memory_type: str, encoder: dict[str, int], shape: dict[str, int], **memory: int) -> Callable[[], None]:
    """A function that takes one training step on always the same batch."""
    model = random_model(memory_type, **memory, **encoder).train()
    batch = random_batch(model.config, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step

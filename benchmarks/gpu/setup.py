"""Models, batches and steps of the GPU benchmarks.

Shapes: B documents, S segments, L tokens of a segment.
"""

import copy
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.synthetic import document_batch, pair, xlnet_config
from benchmarks.timing import Span, milliseconds
from gmmxlnet.errors import reason_of
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.xlnet_weights import extended_config

VOCABULARY, PAD = 32_000, 5
PAD_TYPE = 3
Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and device of a run. steps: how many are timed at once, so that starting them does not count."""

    device: torch.device
    quick: bool
    d_model: int
    n_layer: int
    batch_size: int
    length: int
    slots: int
    repeats: int
    steps: int

    @classmethod
    def of(cls, quick: bool, repeats: int | None = None) -> "Setup":
        """`repeats` overrides how often each run is repeated."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if quick:
            sizes = {"d_model": 64, "n_layer": 1, "batch_size": 2, "length": 32, "slots": 2, "steps": 1}
        else:
            sizes = {"d_model": 768, "n_layer": 12, "batch_size": 48, "length": 384, "slots": 16, "steps": 3}
        return cls(device=device, quick=quick, repeats=repeats or (2 if quick else 6), **sizes)

    @property
    def fewer_repeats(self) -> int:
        """For what runs for seconds."""
        return max(1, self.repeats // 2)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def batch(self, *, B: int, S: int, memory_tokens: bool) -> dict[str, Tensor]:
        """Random documents of full segments on the device; what all of `training_step`'s models but theirs read."""
        batch = document_batch(
            B=B, S=S, L=self.length, slots=self.slots, vocab_size=VOCABULARY, memory_tokens=memory_tokens
        )
        return self.moved(batch)

    def moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All of a batch on the device, `num_segments` too, as transformers' Trainer has it."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    @cached_property
    def _pair(self) -> tuple[nn.Module, GMMXLNetForQA]:
        theirs, ours = pair(xlnet_config(d_model=self.d_model, n_layer=self.n_layer))
        return theirs.to(self.device), ours.to(self.device)

    def theirs(self) -> nn.Module:
        """A transformers model of its own, in training mode; every call gives the same weights."""
        return copy.deepcopy(self._pair[0])

    def ours(self) -> GMMXLNetForQA:
        """One of ours without memory, in training mode; every call gives the same weights."""
        return copy.deepcopy(self._pair[1])

    def memory_model(self, **memory: Any) -> GMMXLNetForQA:
        """Ours with a memory."""
        torch.manual_seed(0)
        config = xlnet_config(d_model=self.d_model, n_layer=self.n_layer)
        return GMMXLNetForQA(extended_config(config, **memory)).to(self.device).train()

    def compile_layers(self, model: nn.Module) -> nn.Module:
        """Let each encoder layer of either model run under `torch.compile`; returns the model.

        All layers share one graph, compiled once for each kind of shape: torch's advice for repeated blocks ("regional
        compilation"), a tenth of the time that the whole model takes. In miniature the graph alone, which needs no
        compiler.
        """
        layers = model.encoder.layers if isinstance(model, GMMXLNetForQA) else model.transformer.layer
        for layer in layers:
            layer.compile(backend="eager" if self.quick else "inductor")
        return model

    def several(self, step: Step) -> Step:
        """`steps` steps as one."""

        def run() -> None:
            for _ in range(self.steps):
                step()

        return run

    def milliseconds_a_step(self, taken: dict[str, list[Span]]) -> dict[str, float]:
        """The median of each, of what `several` made of a step."""
        return {f"{name}_a_step": round(value / self.steps, 2) for name, value in milliseconds(taken).items()}


def working(runs: dict[str, Step], optional: Collection[str]) -> dict[str, Step]:
    """Those that can run; `optional` ones are tried, and left out if a compiler or a kernel refuses them."""
    kept = {}
    for name, run in runs.items():
        if name in optional:
            begin = time.perf_counter()
            try:
                run()
            except Exception as error:  # whatever it raises, the others can be measured
                print(f"{name} is left out: {reason_of(error)}", flush=True)
                continue
            print(f"{name}: compiled and run once in {time.perf_counter() - begin:.1f} s", flush=True)
        kept[name] = run
    return kept


def flat(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same documents, of one segment each, as transformers' model takes them."""
    return {name: tensor[:, 0] for name, tensor in batch.items() if tensor.dim() > 1}


def padded_batch(lengths: list[int], width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random documents (B, 1, L) of one segment each, padded on the left to L = `width`."""
    length_B1 = torch.tensor(lengths)[:, None]
    B, question = len(lengths), max(2, width // 24)
    ids_BL = torch.randint(10, VOCABULARY, (B, width), generator=generator)
    mask_BL = torch.arange(width) >= width - length_B1
    types_BL = torch.zeros_like(ids_BL)
    types_BL[:, -1 - question :], types_BL[:, -1] = 1, 2
    room_B = (length_B1[:, 0] - question - 3).clamp(min=1)  # first tokens of an answer of three
    start_B = width - length_B1[:, 0] + (torch.rand(B, generator=generator) * room_B).long()
    batch = {
        "input_ids": ids_BL.where(mask_BL, PAD),
        "attention_mask": mask_BL.long(),
        "token_type_ids": types_BL.where(mask_BL, PAD_TYPE),
        "start_positions": start_B[:, None],
        "end_positions": start_B[:, None] + 2,
    }
    segments = {name: tensor[:, None] for name, tensor in batch.items() if tensor.shape[1] == width}
    return batch | segments | {"num_segments": torch.ones(B, dtype=torch.int64)}


def training_step(setup: Setup, model: nn.Module, batches: list[dict[str, Tensor]]) -> Step:
    """On each batch: forward, loss, backward, clip and fused AdamW, in bfloat16 by autocast."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast(setup.device.type, torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return step


def encoder_step(setup: Setup, model: nn.Module, hidden: Callable[[], Tensor]) -> None:
    """Forward and backward of the encoder alone."""
    model.zero_grad()
    with torch.autocast(setup.device.type, torch.bfloat16):
        out = hidden()
    out.float().sum().backward()

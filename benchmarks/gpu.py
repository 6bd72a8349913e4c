"""`make bench-gpu`: the figures that need a GPU, in bf16 at the size of xlnet-base.

    python -m benchmarks.gpu [--quick] [--out reports/gpu]

With `--quick` it runs in miniature on whatever there is, a CPU too, to show that it runs; such figures are not written
as if they were taken. Peers are transformers' model as it is (eager) and under `torch.compile`.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.flex import attend_flex, compiled
from benchmarks.inputs import document_batch, pair, xlnet_config
from benchmarks.operations import matmul_operations
from benchmarks.report import rows_of, write
from benchmarks.timing import Bar, Figure, figure, in_turns, milliseconds, peak_bytes, ratios
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.attention import attend_fused
from gmmxlnet.models.xlnet_weights import extended_config
from gmmxlnet.utils.seeding import seed_everything

FIGURES = (  # what a report without a GPU says has not been taken
    "training in bf16 against transformers, eager and compiled: bar ≥ 3",
    "encoder in bf16 against transformers, eager and compiled: bar ≥ 2",
    "model FLOPs utilisation: bar ≥ 0.35",
    "peak memory of a step against transformers: bar ≤ 0.5",
    "the deterministic mode's price",
    "FlexAttention against fused attention with a bias: time and memory",
    "torch.compile of our layers, and gradient checkpointing, against a plain step",
    "k = 2 … 8 in both routing modes against none",
    "cost per segment, S = 1 … 16",
)
PEAK_OPERATIONS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 a second, by the makers' data sheets


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and device of a run."""

    device: torch.device
    quick: bool
    d_model: int
    n_layer: int
    batch_size: int
    length: int
    slots: int
    repeats: int

    @classmethod
    def of(cls, quick: bool) -> "Setup":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if quick:
            return cls(device=device, quick=True, d_model=64, n_layer=1, batch_size=2, length=32, slots=2, repeats=2)
        return cls(device=device, quick=False, d_model=768, n_layer=12, batch_size=48, length=384, slots=16, repeats=15)

    def batch(self, *, B: int, S: int, memory_tokens: bool) -> dict[str, Tensor]:
        """Random documents on the device."""
        batch = document_batch(
            B=B, S=S, L=self.length, slots=self.slots, vocab_size=32_000, memory_tokens=memory_tokens
        )
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def pair(self) -> tuple[nn.Module, GMMXLNetForQA]:
        """transformers' model and ours without memory."""
        theirs, ours = pair(xlnet_config(d_model=self.d_model, n_layer=self.n_layer))
        return theirs.to(self.device), ours.to(self.device)

    def compiled(self, model: nn.Module) -> nn.Module:
        """The model under `torch.compile`; in miniature its graph alone, which needs no C++ compiler."""
        return torch.compile(model, backend="eager" if self.quick else "inductor")

    def memory_model(self, **memory: Any) -> GMMXLNetForQA:
        """Ours with a memory."""
        torch.manual_seed(0)
        config = xlnet_config(d_model=self.d_model, n_layer=self.n_layer)
        return GMMXLNetForQA(extended_config(config, **memory)).to(self.device).train()


def check_backend(setup: Setup) -> None:
    """On a GPU, raise RuntimeError unless a training step's attention runs in torch's memory-efficient kernel."""
    if setup.device.type != "cuda":
        return
    _, ours = setup.pair()
    step = training_step(setup, ours, setup.batch(B=2, S=1, memory_tokens=False))
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):  # torch raises where the only one allowed cannot be used
        step()


def training_step(setup: Setup, model: nn.Module, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Forward, loss, backward, clip and fused AdamW, in bf16 by autocast."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
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


def against_transformers(setup: Setup) -> list[Figure]:
    """Training, encoder and memory, and how much of the card's arithmetic ours uses."""
    theirs, ours = setup.pair()
    compiled = setup.compiled(theirs)
    batch = setup.batch(B=setup.batch_size, S=1, memory_tokens=False)
    flat = {name: tensor[:, 0] for name, tensor in batch.items() if tensor.dim() > 1}
    runs = {
        "eager": training_step(setup, theirs, flat),
        "compiled": training_step(setup, compiled, flat),
        "ours": training_step(setup, ours, batch),
    }
    taken = in_turns(runs, setup.repeats, warm_up=3)
    what = {"d_model": setup.d_model, "layers": setup.n_layer, "batch": setup.batch_size, "tokens": setup.length}
    figures = [
        figure(
            f"GPU training, same padded batch, against transformers {peer}",
            ratios(taken[peer], taken["ours"]),
            Bar(at_least=3),
            **what,
            **milliseconds(taken),
        )
        for peer in ("eager", "compiled")
    ]
    operations = matmul_operations(ours.config, batch_size=setup.batch_size, length=setup.length, training=True)
    figures += _utilization(setup, [operations / span.wall for span in taken["ours"]], operations)
    peaks = {name: peak_bytes(run, theirs, ours) for name, run in runs.items()}
    for peer in ("eager", "compiled"):
        figures.append(
            figure(
                f"GPU peak memory of a training step against transformers {peer}",
                [peaks["ours"] / peaks[peer]],
                Bar(at_most=0.5),
                **{f"{name}_MiB": round(value / 2**20) for name, value in peaks.items()},
            )
        )
    return figures + _encoder(setup, theirs, ours, flat)


def _utilization(setup: Setup, per_second: list[float], operations: int) -> list[Figure]:
    """Only on a card whose peak is known."""
    name = torch.cuda.get_device_name() if setup.device.type == "cuda" else ""
    peaks = [peak for card, peak in PEAK_OPERATIONS.items() if card in name]
    if not peaks:
        return []
    shares = [value / peaks[0] for value in per_second]
    return [
        figure("GPU model FLOPs utilisation", shares, Bar(at_least=0.35), operations_a_step=operations, peak=peaks[0])
    ]


def _encoder(setup: Setup, theirs: nn.Module, ours: GMMXLNetForQA, flat: dict[str, Tensor]) -> list[Figure]:
    ids, mask, types = (flat[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    compiled, encoder, L = setup.compiled(theirs.transformer), ours.encoder, setup.length

    def hidden(model: nn.Module) -> Tensor:
        return model(input_ids=ids, attention_mask=mask, token_type_ids=types, use_mems=False)[0]

    runs = {
        "eager": partial(encoder_step, setup, theirs, lambda: hidden(theirs.transformer)),
        "compiled": partial(encoder_step, setup, theirs, lambda: hidden(compiled)),
        "ours": partial(
            encoder_step,
            setup,
            ours,
            lambda: encoder(encoder.word_embedding(ids), mask, types, encoder.position_keys(L, L)),
        ),
    }
    taken = in_turns(runs, setup.repeats, warm_up=3)
    return [
        figure(
            f"GPU encoder against transformers {peer}",
            ratios(taken[peer], taken["ours"]),
            Bar(at_least=2),
            **milliseconds(taken),
        )
        for peer in ("eager", "compiled")
    ]


def determinism_price(setup: Setup) -> list[Figure]:
    """A step with deterministic algorithms against one without."""
    _, ours = setup.pair()
    step = training_step(setup, ours, setup.batch(B=setup.batch_size, S=1, memory_tokens=False))

    def deterministic() -> None:
        torch.use_deterministic_algorithms(True)
        try:
            step()
        finally:
            torch.use_deterministic_algorithms(False)

    taken = in_turns({"free": step, "deterministic": deterministic}, setup.repeats, warm_up=3)
    return [
        figure(
            "GPU price of determinism: time of a step",
            ratios(taken["deterministic"], taken["free"]),
            Bar(at_most=1.25),
            **milliseconds(taken),
        )
    ]


def attention_ways(setup: Setup) -> list[Figure]:
    """FlexAttention against what the encoder does; on a CPU forward only, and not compiled."""
    on_gpu, H, L = setup.device.type == "cuda", setup.d_model // 64, setup.length
    dtype = torch.bfloat16 if on_gpu else torch.float32
    shapes: dict[str, tuple[int, ...]] = {"query": (setup.batch_size, H, L, 70), "key": (setup.batch_size, H, L, 70)}
    shapes |= {name: (setup.batch_size, H, L, 64) for name in ("value", "distance_query")}
    shapes["position"] = (H, 2 * L - 1, 64)
    inputs = [torch.randn(shape, device=setup.device, dtype=dtype) for shape in shapes.values()]

    def efficient(*leaves: Tensor, scale: float) -> Tensor:
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION) if on_gpu else nullcontext():
            return attend_fused(*leaves, scale=scale, dropout=0.0)

    attends = {
        "fused": efficient,
        "flex": partial(attend_flex, attention=compiled()) if on_gpu else attend_flex,
    }

    def run(attend: Callable[..., Tensor]) -> None:
        leaves = [tensor.detach().requires_grad_(on_gpu) for tensor in inputs]
        out = attend(*leaves, scale=64**-0.5)
        if on_gpu:
            out.float().sum().backward()

    runs = {name: partial(run, attend) for name, attend in attends.items()}
    taken = in_turns(runs, setup.repeats, warm_up=3)
    peaks = {name: peak_bytes(one) for name, one in runs.items()}
    against = "FlexAttention against fused attention with a bias"
    memory = {f"{name}_MiB": round(value / 2**20) for name, value in peaks.items()}
    return [
        figure(f"GPU time of {against}", ratios(taken["flex"], taken["fused"]), Bar(at_least=1), **milliseconds(taken)),
        figure(f"GPU memory of {against}", [peaks["flex"] / peaks["fused"]], Bar(at_least=1), **memory),
    ]


def options(setup: Setup) -> list[Figure]:
    """What compiling our layers gives, and what computing activations again costs."""
    B = max(1, setup.batch_size // 4)
    batch = setup.batch(B=B, S=4, memory_tokens=True)
    models = {
        name: setup.memory_model(memory_type="gmm", num_memory_experts=4, memory_slots=setup.slots)
        for name in ("plain", "compiled", "recomputed")
    }
    for layer in models["compiled"].encoder.layers:
        layer.compile(backend="eager" if setup.quick else "inductor", dynamic=True)
    models["recomputed"].gradient_checkpointing = True
    runs = {name: training_step(setup, model, batch) for name, model in models.items()}
    taken = in_turns(runs, setup.repeats, warm_up=3)
    peaks = {name: peak_bytes(run, models[name]) for name, run in runs.items()}
    memory = {f"{name}_MiB": round(value / 2**20) for name, value in peaks.items()}
    return [
        figure(
            "GPU time of a step with compiled layers against one without",
            ratios(taken["compiled"], taken["plain"]),
            Bar(at_least=0.95),  # less, and compiling becomes an option
            **milliseconds(taken),
        ),
        figure(
            "GPU time of a step with gradient checkpointing against one without",
            ratios(taken["recomputed"], taken["plain"]),
            Bar(at_most=1.4),
            **milliseconds(taken),
            **memory,
        ),
    ]


def experts(setup: Setup) -> list[Figure]:
    """Documents of two segments, with 2 to 8 experts, against none with as many tokens."""
    B = max(1, setup.batch_size // 2)
    plain = training_step(setup, setup.memory_model(memory_type="none"), setup.batch(B=B, S=2, memory_tokens=False))
    figures = []
    for mode in ("write-based", "read-based"):
        for k in (2, 8) if setup.quick else range(2, 9):
            model = setup.memory_model(
                memory_type="gmm", num_memory_experts=k, memory_slots=setup.slots, routing_mode=mode
            )
            gmm = training_step(setup, model, setup.batch(B=B, S=2, memory_tokens=True))
            taken = in_turns({"none": plain, "gmm": gmm}, setup.repeats, warm_up=2)
            name = f"GPU gmm k = {k}, {mode}: time of a step against none"
            figures.append(figure(name, ratios(taken["gmm"], taken["none"]), Bar(at_most=1.05), **milliseconds(taken)))
    return figures


def segments(setup: Setup) -> list[Figure]:
    """Time of a segment of documents with S segments against one of documents with one."""
    model = setup.memory_model(memory_type="gmm", num_memory_experts=4, memory_slots=setup.slots)
    counts = (1, 2) if setup.quick else (1, 2, 4, 8, 16)
    B = max(1, setup.batch_size // 16)
    runs = {str(S): training_step(setup, model, setup.batch(B=B, S=S, memory_tokens=True)) for S in counts}
    taken = in_turns(runs, setup.repeats, warm_up=2)
    return [
        figure(
            f"GPU cost per segment, S = {S} against S = 1",
            [many.wall / (S * one.wall) for many, one in zip(taken[str(S)], taken["1"], strict=True)],
            Bar(at_most=1.1),
            **milliseconds(taken),
        )
        for S in counts[1:]
    ]


def main() -> None:
    """Take all figures; without a GPU only in miniature, and say that none has been taken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a miniature, whose figures say nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/gpu"), help="folder of the two files")
    arguments = parser.parse_args()
    setup = Setup.of(arguments.quick)
    if setup.device.type == "cpu" and not setup.quick:
        parser.exit(1, "bench-gpu: torch sees no GPU here, no figure was taken; --quick runs a miniature on the CPU\n")
    seed_everything(0)
    torch.use_deterministic_algorithms(False)
    check_backend(setup)
    families = (against_transformers, determinism_price, attention_ways, options, experts, segments)
    figures = [found for family in families for found in family(setup)]
    for found in figures:
        print(f"{found.name}: {found.value:.3g} ({found.lowest:.3g} to {found.highest:.3g}; bar {found.bar})")
    if setup.device.type == "cpu" or setup.quick:
        print("a miniature: none of these figures counts as taken")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(rows_of("gpu", figures), ["gpu"], list(FIGURES) if setup.quick else [], arguments.out)


if __name__ == "__main__":
    main()

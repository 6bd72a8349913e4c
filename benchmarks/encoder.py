"""The encoder alone, and the memory's price: steps forward and backward on the same padded batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inputs import Scale
from benchmarks.synthetic import document_batch, pair, xlnet_config
from benchmarks.timing import Bar, Figure, figure, in_turns, mebibytes, milliseconds, peak_bytes, time_figure
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA

PADDING = 8  # an eighth of the batch's tokens is padding


def encoder_figures(scale: Scale) -> list[Figure]:
    """Time and memory against transformers' encoder; dropout and all, as in training."""
    sizes = [(256, 4, 8), (768, 2, 4)] if not scale.quick else [(64, 1, 2)]
    return [found for d_model, n_layer, B in sizes for found in _against_transformers(scale, d_model, n_layer, B)]


def _against_transformers(scale: Scale, d_model: int, n_layer: int, B: int) -> list[Figure]:
    L = scale.max_length
    config = xlnet_config(d_model=d_model, n_layer=n_layer)
    theirs, ours = pair(config)
    batch = document_batch(B=B, S=1, L=L, slots=0, vocab_size=config.vocab_size, memory_tokens=False)
    ids, mask, types = (batch[name][:, 0] for name in ("input_ids", "attention_mask", "token_type_ids"))
    mask[:, : L // PADDING], types[:, : L // PADDING] = 0, 3

    def their_hidden() -> Tensor:
        return theirs.transformer(input_ids=ids, attention_mask=mask, token_type_ids=types, use_mems=False)[0]

    def our_hidden() -> Tensor:
        encoder = ours.encoder
        return encoder(encoder.word_embedding(ids), mask, types, encoder.position_keys(L, L))

    peer, own = partial(backward_of, theirs, their_hidden), partial(backward_of, ours, our_hidden)
    taken = in_turns({"peer": peer, "ours": own}, scale.repeats)
    memory = {"peer": peak_bytes(peer, theirs), "ours": peak_bytes(own, ours)}
    what = {"d_model": d_model, "layers": n_layer, "batch": B, "tokens": L, "dropout": config.dropout}
    return [
        time_figure(
            f"encoder d {d_model}: speed against transformers",
            taken["peer"],
            taken["ours"],
            Bar(at_least=1.3),
            **what,
            **milliseconds(taken),
        ),
        figure(
            f"encoder d {d_model}: peak memory of the step against transformers",
            [memory["ours"] / memory["peer"]],
            Bar(at_most=0.7),
            **what,
            **mebibytes(memory, 1),
        ),
    ]


def backward_of(model: nn.Module, hidden: Callable[[], Tensor]) -> None:
    """One step forward and backward of the sum of hidden states."""
    model.zero_grad()
    hidden().sum().backward()


def memory_figures(scale: Scale) -> list[Figure]:
    """gmm against none: as many tokens, of which gmm has 2·m for its memory; documents of two segments."""
    k, m = 4, 2 if scale.quick else 16
    d_model, n_layer, B = (64, 1, 2) if scale.quick else (256, 4, 8)
    models = {
        "none": _own_model(d_model, n_layer, memory_type="none"),
        "gmm": _own_model(d_model, n_layer, memory_type="gmm", num_memory_experts=k, memory_slots=m),
    }
    runs = {}
    for name, model in models.items():
        batch = document_batch(
            B=B, S=2, L=scale.max_length, slots=m, vocab_size=VOCABULARY, memory_tokens=name == "gmm"
        )
        runs[name] = partial(step, model, batch)
    taken = in_turns(runs, scale.repeats)
    return [
        time_figure(
            f"gmm k = {k}, m = {m}: time of a step against none",
            taken["gmm"],
            taken["none"],
            Bar(at_most=1.05),
            d_model=d_model,
            layers=n_layer,
            batch=B,
            segments=2,
            tokens=scale.max_length,
            memory_reconstruction_weight=0.0,
            **milliseconds(taken),
        )
    ]


def recompute_figures(scale: Scale) -> list[Figure]:
    """The price of gradient checkpointing by segment, and what it saves; documents of eight segments."""
    L, B, S = (32, 1, 2) if scale.quick else (128, 4, 8)
    model = _own_model(64 if scale.quick else 256, 4, memory_type="gmm", num_memory_experts=4, memory_slots=4)
    batch = document_batch(B=B, S=S, L=L, slots=4, vocab_size=VOCABULARY, memory_tokens=True)

    def run(again: bool) -> None:
        model.gradient_checkpointing = again
        step(model, batch)

    runs = {"plain": partial(run, False), "recomputed": partial(run, True)}
    taken = in_turns(runs, scale.repeats)
    peaks = {name: peak_bytes(one, model) for name, one in runs.items()}
    what = {"d_model": model.config.d_model, "layers": 4, "batch": B, "segments": S, "tokens": L}
    return [
        time_figure(
            "gradient checkpointing: time of a step against one without",
            taken["recomputed"],
            taken["plain"],
            Bar(at_most=1.4),
            **what,
            **milliseconds(taken),
        ),
        figure(
            "gradient checkpointing: peak memory of a step against one without",
            [peaks["recomputed"] / peaks["plain"]],
            Bar(at_most=0.5),
            **what,
            **mebibytes(peaks, 1),
        ),
    ]


def segment_figures(scale: Scale) -> list[Figure]:
    """Time of a segment in a step over S segments against one in a step over a single one."""
    counts = [1, 2] if scale.quick else [1, 4, 16, 64]
    L, B = (32, 1) if scale.quick else (128, 4)
    model = _own_model(64 if scale.quick else 128, 2, memory_type="gmm", num_memory_experts=4, memory_slots=4)
    runs = {}
    for S in counts:
        batch = document_batch(B=B, S=S, L=L, slots=4, vocab_size=VOCABULARY, memory_tokens=True)
        times = max(counts) // S  # as much work in every run
        runs[f"S={S}"] = partial(_several, times, partial(step, model, batch))
    taken = in_turns(runs, scale.repeats)
    return [
        time_figure(
            f"cost per segment, S = {S} against S = 1",
            taken[f"S={S}"],
            taken["S=1"],
            Bar(at_most=1.1),
            batch=B,
            tokens=L,
            **milliseconds(taken),
        )
        for S in counts[1:]
    ]


VOCABULARY = 8_000


def _own_model(d_model: int, n_layer: int, **memory: Any) -> GMMXLNetForQA:
    torch.manual_seed(0)
    size = xlnet_config(d_model=d_model, n_layer=n_layer)
    slots = 2 * memory.get("memory_slots", 0)
    config = GMMXLNetConfig(
        vocab_size=VOCABULARY + slots,
        d_model=d_model,
        n_layer=n_layer,
        n_head=size.n_head,
        d_inner=size.d_inner,
        dropout=size.dropout,
        **memory,
    )
    return GMMXLNetForQA(config).train()


def step(model: GMMXLNetForQA, batch: dict[str, Tensor]) -> None:
    """Forward, loss, backward."""
    model.zero_grad()
    model(**batch).loss.backward()


def _several(times: int, run: Callable[[], None]) -> None:
    for _ in range(times):
        run()

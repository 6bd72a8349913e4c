"""Training steps: against transformers on one batch and on realistic lengths, utilization, determinism."""

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.setup import Setup, encoder_step, flat, padded_batch, training_step, working
from benchmarks.operations import matmul_operations
from benchmarks.timing import Bar, Figure, Span, figure, in_turns, mebibytes, milliseconds, peak_bytes, ratios, seconds
from gmmxlnet.models import GMMXLNetForQA

COMPILED = ("compiled", "ours_compiled")  # are left out where they cannot be compiled
PEAK_OPERATIONS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 a second, by the makers' data sheets
POOL_BATCHES = 32  # batches whose documents are sorted together, as `DocumentBatchSampler` does
MEDIAN, SIGMA = 150 / 384, 0.45  # of the lognormal lengths; SQuAD's windows of at most 384 tokens


def check_backend(setup: Setup) -> None:
    """On a GPU, raise RuntimeError unless a training step's attention runs in torch's memory-efficient kernel."""
    if not setup.on_gpu:
        return
    step = training_step(setup, setup.ours(), [setup.batch(B=2, S=1, memory_tokens=False)])
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):  # torch raises where the only one allowed cannot be used
        step()


def against_transformers(setup: Setup) -> list[Figure]:
    """The published recipe's size, every token real: time and memory of a step, then the encoder alone."""
    batch = setup.batch(B=setup.batch_size, S=1, memory_tokens=False)
    models = {
        "eager": setup.theirs(),
        "compiled": setup.compile_layers(setup.theirs()),
        "ours": setup.ours(),
        "ours_compiled": setup.compile_layers(setup.ours()),
    }
    steps = {
        name: training_step(setup, model, [batch if isinstance(model, GMMXLNetForQA) else flat(batch)])
        for name, model in models.items()
    }
    steps = working(steps, COMPILED)
    models = {name: models[name] for name in steps}
    taken = in_turns({name: setup.several(step) for name, step in steps.items()}, setup.repeats, warm_up=2)
    what: dict[str, float] = {"d_model": setup.d_model, "layers": setup.n_layer, "batch": setup.batch_size}
    what |= {"tokens": setup.length, **setup.milliseconds_a_step(taken)}
    figures = _against_peers("training, same padded batch,", taken, Bar(at_least=3), what)
    if "ours_compiled" in taken:
        figures.append(
            figure(
                "GPU training, same padded batch: compiled layers against plain ones of ours",
                ratios(taken["ours_compiled"], taken["ours"]),
                Bar(at_least=0.95),  # less, and compiling becomes an option
            )
        )
    peaks = {name: peak_bytes(step, *models.values()) for name, step in steps.items()}
    figures += [
        figure(
            f"GPU peak memory of a training step against transformers {peer}",
            [peaks["ours"] / peaks[peer]],
            Bar(at_most=0.5),
            **mebibytes(peaks),
        )
        for peer in ("eager", "compiled")
        if peer in taken
    ]
    return figures + _encoder(setup, models, flat(batch))


def _encoder(setup: Setup, models: dict[str, nn.Module], batch: dict[str, Tensor]) -> list[Figure]:
    ids, mask, types = (batch[name] for name in ("input_ids", "attention_mask", "token_type_ids"))

    def hidden(model: nn.Module) -> Tensor:
        if not isinstance(model, GMMXLNetForQA):
            return model.transformer(input_ids=ids, attention_mask=mask, token_type_ids=types, use_mems=False)[0]
        encoder, L = model.encoder, setup.length
        return encoder(encoder.word_embedding(ids), mask, types, encoder.position_keys(L, L))

    steps = {name: partial(encoder_step, setup, model, partial(hidden, model)) for name, model in models.items()}
    taken = in_turns({name: setup.several(step) for name, step in steps.items()}, setup.repeats, warm_up=2)
    return _against_peers("encoder", taken, Bar(at_least=2), setup.milliseconds_a_step(taken))


def _against_peers(what: str, taken: dict[str, list[Span]], bar: Bar, details: dict[str, float]) -> list[Figure]:
    """The time of transformers' model over that of ours, plain and compiled where it was taken."""
    return [
        figure(f"GPU {what} against transformers {peer}", ratios(taken[peer], taken["ours"]), bar, **details)
        for peer in ("eager", "compiled")
        if peer in taken
    ]


def realistic_lengths(setup: Setup, count: int) -> list[list[int]]:
    """Lengths of `count` batches: lognormal, sorted within a pool, and the pool's batches in random order."""
    generator = torch.Generator().manual_seed(0)
    shortest = max(8, setup.length // 8)
    draws = torch.randn(POOL_BATCHES * setup.batch_size, generator=generator)
    lengths = (MEDIAN * setup.length * (SIGMA * draws).exp()).long().clamp(shortest, setup.length).sort().values
    apart = POOL_BATCHES // count  # evenly from short to long
    order = torch.randperm(count, generator=generator) * apart + apart // 2
    return [lengths[i * setup.batch_size :][: setup.batch_size].tolist() for i in order.tolist()]


def _batches(setup: Setup, *, width: int | None = None) -> Iterator[dict[str, Tensor]]:
    """Padded to `width`, or to the longest of a batch and a multiple of 8, which serves both sides' kernels."""
    generator = torch.Generator().manual_seed(1)
    for lengths in realistic_lengths(setup, 2 if setup.quick else 8):
        yield setup.moved(padded_batch(lengths, width or -(-max(lengths) // 8) * 8, generator))


def lengths(setup: Setup) -> list[Figure]:
    """The same documents: transformers' as `run_qa` pads them, and as a competent user does; ours as our collator."""
    ours = list(_batches(setup))
    theirs = [flat(batch) for batch in ours]
    runs = {
        "padded": training_step(setup, setup.theirs(), [flat(b) for b in _batches(setup, width=setup.length)]),
        "sorted": training_step(setup, setup.theirs(), theirs),
        "compiled": training_step(setup, setup.compile_layers(setup.theirs()), theirs),
        "ours": training_step(setup, setup.ours(), ours),
        "ours_compiled": training_step(setup, setup.compile_layers(setup.ours()), ours),
    }
    runs = working(runs, COMPILED)
    taken = in_turns(runs, setup.fewer_repeats, warm_up=1)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in ours)
    what = {
        "batches": len(ours),
        "documents": len(ours) * setup.batch_size,
        "mean_length": round(tokens / len(ours) / setup.batch_size),
        "padded_lengths": "/".join(str(batch["input_ids"].shape[-1]) for batch in ours),
        **milliseconds(taken),
    }
    names = {
        "padded": ("GPU training, realistic lengths, against transformers as run_qa pads", 3),
        "sorted": ("GPU training, realistic lengths, against transformers sorted by length", 1.5),
        "compiled": ("GPU training, realistic lengths, against transformers sorted and compiled", 1.5),
    }
    figures = [
        figure(name, ratios(taken[peer], taken["ours"]), Bar(at_least=bar), **what)
        for peer, (name, bar) in names.items()
        if peer in taken
    ]
    best, own = _fastest(taken, ("sorted", "compiled")), _fastest(taken, ("ours", "ours_compiled"))
    figures.append(
        figure(
            "GPU training, realistic lengths, best form of ours against transformers' best form",
            ratios(taken[best], taken[own]),
            Bar(at_least=1.5),
            theirs=best,
            ours=own,
        )
    )
    return figures


def _fastest(taken: dict[str, list[Span]], names: tuple[str, ...]) -> str:
    return min((name for name in names if name in taken), key=lambda name: median(span.wall for span in taken[name]))


def utilization(setup: Setup) -> list[Figure]:
    """At several batches; on a card whose peak is not listed, as a share of what a large matrix product reaches."""
    card = torch.cuda.get_device_name() if setup.on_gpu else "CPU"
    peak = next((peak for name, peak in PEAK_OPERATIONS.items() if name in card), None)
    product, copied = ceilings(setup)
    shares: dict[int, list[float]] = {}
    model = setup.ours()
    for B in sorted({max(1, setup.batch_size // 3), setup.batch_size, 2 * setup.batch_size}):
        step = training_step(setup, model, [setup.batch(B=B, S=1, memory_tokens=False)])
        try:
            taken = in_turns({"step": setup.several(step)}, setup.repeats, warm_up=2)["step"]
        except torch.OutOfMemoryError:
            if not shares:
                raise
            break  # larger ones need more
        operations = matmul_operations(model.config, batch_size=B, length=setup.length, training=True)
        shares[B] = [setup.steps * operations / span.wall / (peak or product) for span in taken]
    best = max(shares, key=lambda B: median(shares[B]))
    return [
        figure(
            "GPU model FLOPs utilization at the best batch",
            shares[best],
            Bar(at_least=0.35),
            **{f"batch_{B}": round(median(values), 3) for B, values in shares.items()},
            peak_TFLOPs=round(peak / 1e12) if peak else None,
            matrix_product_TFLOPs=round(product / 1e12, 3),
            copy_GB_a_second=round(copied / 1e9, 3),
        )
    ]


def ceilings(setup: Setup) -> tuple[float, float]:
    """Operations a second of a large product in bfloat16, and bytes a second, read and written, of a large copy."""
    n = 64 if setup.quick else 8192
    left, right = (torch.randn(n, n, device=setup.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(n, n, 1 if setup.quick else 8, device=setup.device)
    target = torch.empty_like(source)

    def best(run: partial[Tensor]) -> float:
        run()
        return min(seconds(run).wall for _ in range(5))

    product = best(partial(torch.matmul, left, right))
    copied = best(partial(target.copy_, source))
    return 2 * n**3 / product, 2 * source.numel() * source.element_size() / copied


def determinism_price(setup: Setup) -> list[Figure]:
    """A step with deterministic algorithms against one without."""
    step = training_step(setup, setup.ours(), [setup.batch(B=setup.batch_size, S=1, memory_tokens=False)])
    free = setup.several(step)

    def deterministic() -> None:
        torch.use_deterministic_algorithms(True)
        try:
            free()
        finally:
            torch.use_deterministic_algorithms(False)

    taken = in_turns({"free": free, "deterministic": deterministic}, setup.repeats, warm_up=2)
    return [
        figure(
            "GPU price of determinism: time of a step",
            ratios(taken["deterministic"], taken["free"]),
            Bar(at_most=1.25),
            **setup.milliseconds_a_step(taken),
        )
    ]


def whole(setup: Setup) -> list[Figure]:
    """transformers compiled as a whole against layer by layer: whether the other figures' peer is its best."""
    batch = flat(setup.batch(B=setup.batch_size, S=1, memory_tokens=False))
    compiled = torch.compile(setup.theirs(), backend="eager" if setup.quick else "inductor")
    runs = {
        "layers": setup.several(training_step(setup, setup.compile_layers(setup.theirs()), [batch])),
        "whole": setup.several(training_step(setup, compiled, [batch])),
    }
    taken = in_turns(runs, setup.repeats, warm_up=2)
    return [
        figure(
            "GPU training: transformers compiled as a whole against its compiled layers",
            ratios(taken["whole"], taken["layers"]),
            Bar(at_least=0.95),
            **setup.milliseconds_a_step(taken),
        )
    ]

"""Attention: right on this card, and how fast fused attention, its aligned form, Triton and FlexAttention are.

Shapes as in `gmmxlnet.models.attention`.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.flex import attend_flex, compiled
from benchmarks.gpu.setup import Setup, Step, training_step, working
from benchmarks.gpu.training import check_backend
from benchmarks.timing import Bar, Figure, Span, figure, in_turns, mebibytes, milliseconds, peak_bytes, ratios
from gmmxlnet.models.attention import attend_aligned, attend_fused, relative_shift, scores_by_distance

FUSED, ALIGNED, TRITON = "fused", "aligned", "triton"  # as GMMXLNET_ATTENTION names them
HEAD, FEATURES = 64, 6  # a head's size, and what queries and keys have beside it
DROPOUT = 0.1
ERROR = {torch.bfloat16: 1e-2, torch.float32: 1e-3}  # of a tensor's norm
LAUNCHES = ((32, 4),)  # of the Triton kernel: tokens of a block, warps of a program; (64, 8) took 1.4 times as long
CALLS = 5  # of attention are timed at once
Attend = Callable[..., Tensor]


def has_triton(setup: Setup) -> bool:
    """Whether the Triton kernel can run: on a GPU, or with TRITON_INTERPRET=1 in Triton's interpreter."""
    runs = setup.on_gpu or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and importlib.util.find_spec("triton") is not None


@contextmanager
def attention_by(name: str, launch: tuple[int, int] | None = None) -> Iterator[None]:
    """Let models use the attention that GMMXLNET_ATTENTION names; `launch` is one of `LAUNCHES`."""
    before = os.environ.get("GMMXLNET_ATTENTION", "")
    os.environ["GMMXLNET_ATTENTION"] = name
    try:
        with _launched(launch) if launch else nullcontext():
            yield
    finally:
        os.environ["GMMXLNET_ATTENTION"] = before


@contextmanager
def _launched(launch: tuple[int, int]) -> Iterator[None]:
    from gmmxlnet.models import triton_attention

    before = triton_attention.BLOCK, triton_attention.NUM_WARPS
    triton_attention.BLOCK, triton_attention.NUM_WARPS = launch
    try:
        yield
    finally:
        triton_attention.BLOCK, triton_attention.NUM_WARPS = before


def by_triton(*inputs: Tensor, launch: tuple[int, int], **how: Any) -> Tensor:
    """`attend_on_the_fly`, launched in one of the ways in `LAUNCHES`."""
    from gmmxlnet.models.triton_attention import attend_on_the_fly

    with _launched(launch):
        return attend_on_the_fly(*inputs, **how)


def by_fused(*inputs: Tensor, attend: Attend = attend_fused, **how: Any) -> Tensor:
    """`attend_fused`; on a GPU torch raises where its memory-efficient kernel cannot be used."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION) if inputs[0].is_cuda else nullcontext():
        return attend(*inputs, **how)


by_aligned = partial(by_fused, attend=attend_aligned)


def random_inputs(setup: Setup, *, B: int, H: int, L: int, K: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values, queries of distances and positions, laid out as the encoder's are."""
    shapes = [(B, L, H, HEAD + FEATURES), (B, K, H, HEAD + FEATURES), (B, K, H, HEAD), (B, L, H, HEAD)]
    inputs = [torch.randn(shape, device=setup.device, dtype=dtype).transpose(1, 2) for shape in shapes]
    return [*inputs, torch.randn(K + L - 1, H, HEAD, device=setup.device, dtype=dtype).transpose(0, 1)]


def correctness(setup: Setup) -> list[Figure]:
    """Fused attention: values and gradients against float64, of fresh random inputs.

    First of all a training step in which torch's memory-efficient kernel is the only one allowed.
    """
    check_backend(setup)
    figures = []
    for dtype in (torch.bfloat16, torch.float32):
        figures += _errors(setup, "fused " + str(dtype).removeprefix("torch."), dtype, by_fused)
    return figures + _errors(setup, "aligned bfloat16", torch.bfloat16, by_aligned)


def triton_correctness(setup: Setup) -> list[Figure]:
    """The same of the Triton kernel."""
    _require_triton(setup)
    dtype = torch.bfloat16 if setup.on_gpu else torch.float32  # the interpreter has no products in bfloat16
    figures = []
    for launch in LAUNCHES[:1] if setup.quick else LAUNCHES:
        name = "Triton {}, block {}, {} warps,".format(str(dtype).removeprefix("torch."), *launch)
        figures += _errors(setup, name, dtype, partial(by_triton, launch=launch))
    return figures


def _require_triton(setup: Setup) -> None:
    if not has_triton(setup):
        raise RuntimeError("the Triton kernel needs Triton and a GPU, or TRITON_INTERPRET=1")


@contextmanager
def _poisoned() -> Iterator[None]:
    """In torch's deterministic mode, what it does not initialize is NaN: a place that no kernel writes is seen."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill


@_poisoned()
def _errors(setup: Setup, name: str, dtype: torch.dtype, attend: Attend) -> list[Figure]:
    """Without dropout for two shapes, with it for one; then how far a second run is from the first."""
    H = max(1, setup.d_model // HEAD)
    L = setup.length
    plain: dict[str, float] = {}
    for queries, keys in ((L, L), (L // 2 + 8, L + 8)):
        inputs = random_inputs(setup, B=2, H=H, L=queries, K=keys, dtype=dtype)
        plain |= {f"{key}_{queries}x{keys}": error for key, error in _compared(attend, inputs, 0.0)[0].items()}
    inputs = random_inputs(setup, B=2, H=H, L=HEAD, K=HEAD, dtype=dtype)
    dropped, first = _compared(attend, inputs, DROPOUT)
    _, again = _compared(attend, inputs, DROPOUT)
    apart = max(float((a - b).abs().max()) for a, b in zip(first, again, strict=True))
    bar = Bar(at_most=ERROR[dtype])
    return [
        _worst(f"GPU {name} attention against float64: largest relative error", plain, bar),
        _worst(f"GPU {name} attention with dropout against float64: largest relative error", dropped, bar),
        figure(f"GPU {name} attention with dropout: how far equal inputs are apart", [apart], Bar(at_most=0)),
    ]


def _worst(name: str, errors: dict[str, float], bar: Bar) -> Figure:
    return figure(name, [max(errors.values())], bar, **{key: float(f"{error:.2g}") for key, error in errors.items()})


def _compared(attend: Attend, inputs: list[Tensor], dropout: float) -> tuple[dict[str, float], list[Tensor]]:
    """Relative errors of values and gradients, and the two themselves, of one implementation.

    Which weights dropout keeps is seen with the identity as values (K = h); it is a function of torch's seed.
    """
    how = {"scale": HEAD**-0.5, "dropout": dropout}
    kept = None
    if dropout:
        query, key, value, *rest = inputs
        torch.manual_seed(3)
        identity = torch.eye(HEAD, device=value.device, dtype=value.dtype).expand(value.shape).contiguous()
        kept = attend(query, key, identity, *rest, **how) != 0
        share = float(kept.double().mean())
        if not abs(share - (1 - dropout)) < 0.02:
            raise RuntimeError(f"dropout {dropout} keeps {share:.3f} of the attention weights")
    weight = torch.randn_like(inputs[3])
    torch.manual_seed(3)
    found = _with_gradients(partial(attend, **how), inputs, weight)
    exact = partial(_dense, kept=kept, **how)
    expected = _with_gradients(exact, [x.double() for x in inputs], weight.double())
    names = ("output", "d_query", "d_key", "d_value", "d_distance_query", "d_position")
    return {name: _relative(a, b) for name, a, b in zip(names, found, expected, strict=True)}, found


def _with_gradients(attend: Attend, inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, weight)]


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    distance_query: Tensor,
    position: Tensor,
    *,
    scale: float,
    dropout: float,
    kept: Tensor | None,
) -> Tensor:
    """`relative_attention` as it is defined, with all scores at once."""
    by_distance_BHLP = scores_by_distance(distance_query, position).transpose(0, 1)
    scores_BHLK = query @ key.transpose(2, 3) + relative_shift(by_distance_BHLP.contiguous(), key.shape[2])
    probs_BHLK = (scale * scores_BHLK).softmax(-1)
    return (probs_BHLK if kept is None else probs_BHLK * kept / (1 - dropout)) @ value


def _relative(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖; infinite if anything found is not finite, which JSON has no other word for."""
    error = float((found.double() - expected).norm() / expected.norm())
    return error if torch.isfinite(found).all() else 1e9


def attention_ways(setup: Setup) -> list[Figure]:
    """Fused attention's aligned form and the Triton kernel against it: attention alone, then a whole training step."""
    attends: dict[str, Attend] = {FUSED: by_fused, ALIGNED: by_aligned}
    launches = {"triton_{}_{}".format(*launch): launch for launch in LAUNCHES} if has_triton(setup) else {}
    attends |= {name: partial(by_triton, launch=launch) for name, launch in launches.items()}
    runs = _attention_runs(setup, {name: partial(attend, dropout=DROPOUT) for name, attend in attends.items()})
    runs = working(runs, list(launches))
    taken = in_turns({name: _often(run) for name, run in runs.items()}, setup.repeats, warm_up=1)
    memory = {name: peak_bytes(run) / 2**20 for name, run in runs.items()}
    what = {"dropout": DROPOUT, "calls": CALLS, **milliseconds(taken)}
    figures = _against_fused("attention alone", taken, memory, ALIGNED, what)
    found = sorted((name for name in launches if name in taken), key=lambda n: median(span.wall for span in taken[n]))
    if found:
        figures += _against_fused("attention alone", taken, memory, found[0], what | {"best": found[0]})
    return figures + _steps_by_attention(setup, launches[found[0]] if found else None)


def _against_fused(
    what: str, taken: dict[str, list[Span]], memory_MiB: dict[str, float], name: str, details: dict[str, Any]
) -> list[Figure]:
    """Time and memory of `name` among `taken`."""
    label = "Triton" if name.startswith(TRITON) else name
    rounded = {f"{each}_MiB": round(value, 1) for each, value in memory_MiB.items()}
    return [
        figure(
            f"GPU time of {what}, fused against {label}", ratios(taken[FUSED], taken[name]), Bar(at_least=1), **details
        ),
        figure(
            f"GPU memory of {what}, {label} against fused",
            [memory_MiB[name] / memory_MiB[FUSED]],
            Bar(at_most=1),
            **rounded,
        ),
    ]


def _steps_by_attention(setup: Setup, launch: tuple[int, int] | None) -> list[Figure]:
    """Of a training step; the Triton kernel's if there is a `launch`."""
    batch = setup.batch(B=setup.batch_size, S=1, memory_tokens=False)
    step = training_step(setup, setup.ours(), [batch])

    def by(name: str) -> None:
        with attention_by(name, launch if name == TRITON else None):
            step()

    names = [FUSED, ALIGNED] + ([TRITON] if launch else [])
    steps: dict[str, Step] = {name: partial(by, name) for name in names}
    taken = in_turns({name: setup.several(each) for name, each in steps.items()}, setup.repeats, warm_up=1)
    memory = {name: peak_bytes(each) / 2**20 for name, each in steps.items()}
    figures = []
    for name in names[1:]:
        figures += _against_fused("a training step", taken, memory, name, setup.milliseconds_a_step(taken))
    return figures


def compiled_ways(setup: Setup) -> list[Figure]:
    """Compiled layers with the aligned bias against compiled layers without it."""
    batch = setup.batch(B=setup.batch_size, S=1, memory_tokens=False)
    step = training_step(setup, setup.compile_layers(setup.ours()), [batch])

    def by(name: str) -> None:
        with attention_by(name):  # which compiled code depends on
            step()

    runs = {name: setup.several(partial(by, name)) for name in (FUSED, ALIGNED)}
    taken = in_turns(runs, setup.repeats, warm_up=2)
    return [
        figure(
            "GPU time of a training step of compiled layers, fused against aligned",
            ratios(taken[FUSED], taken[ALIGNED]),
            Bar(at_least=1),
            **setup.milliseconds_a_step(taken),
        )
    ]


def flex_ways(setup: Setup) -> list[Figure]:
    """FlexAttention against fused attention, without dropout, which it lacks; on a CPU forward only, not compiled."""
    flex = partial(attend_flex, attention=compiled()) if setup.on_gpu else attend_flex
    runs = _attention_runs(setup, {"fused": partial(by_fused, dropout=0.0), "flex": flex}, backward=setup.on_gpu)
    taken = in_turns({name: _often(run) for name, run in runs.items()}, setup.repeats, warm_up=1)
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    against = "FlexAttention against fused attention with a bias"
    memory = mebibytes(peaks)
    return [
        figure(f"GPU time of {against}", ratios(taken["flex"], taken["fused"]), Bar(at_least=1), **milliseconds(taken)),
        figure(f"GPU memory of {against}", [peaks["flex"] / peaks["fused"]], Bar(at_least=1), **memory),
    ]


def _attention_runs(setup: Setup, attends: dict[str, Attend], *, backward: bool = True) -> dict[str, Step]:
    """Forward and backward of each on the same inputs, of the size of a training step's."""
    H, L = max(1, setup.d_model // HEAD), setup.length
    dtype = torch.bfloat16 if setup.on_gpu else torch.float32
    inputs = random_inputs(setup, B=setup.batch_size, H=H, L=L, K=L, dtype=dtype)
    weight = torch.randn_like(inputs[3])

    def run(attend: Attend) -> None:
        if backward:
            _with_gradients(partial(attend, scale=HEAD**-0.5), inputs, weight)
        else:
            attend(*inputs, scale=HEAD**-0.5)

    return {name: partial(run, attend) for name, attend in attends.items()}


def _often(run: Step) -> Step:
    def runs() -> None:
        for _ in range(CALLS):
            run()

    return runs

"""Timing in turns: ours, peer, ours, peer, …, so that whatever else the machine does falls on both.

    figure = compare("encoder", peer_step, our_step, repeats=7, bar=Bar(at_least=1.3))

Each repeat gives one ratio; a figure is the median of them, with the lowest and the highest as its spread.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Bar:
    """What a figure is to reach: exactly one of the two."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        enough = self.at_least is None or value >= self.at_least
        return enough and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"≥ {self.at_least}" if self.at_least is not None else f"≤ {self.at_most}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the report. `value` is the median; `details` what else a reader needs to judge it."""

    name: str
    value: float
    lowest: float
    highest: float
    repeats: int
    bar: Bar
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.bar.met(self.value)


def figure(name: str, values: list[float], bar: Bar, **details: Any) -> Figure:
    """A figure from what each repeat gave."""
    return Figure(
        name=name,
        value=statistics.median(values),
        lowest=min(values),
        highest=max(values),
        repeats=len(values),
        bar=bar,
        details=details,
    )


@dataclass(frozen=True)
class Span:
    """Seconds of one call: on the clock, and of this process's processors, which other processes prolong less."""

    wall: float
    processor: float


def seconds(run: Callable[[], Any]) -> Span:
    """Of one call, to its end on the device."""
    _synchronize()
    gc.collect()
    begin, processor = time.perf_counter(), time.process_time()
    run()
    _synchronize()
    return Span(time.perf_counter() - begin, time.process_time() - processor)


def in_turns(runs: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, list[Span]]:
    """Seconds of each, one after another, `repeats` times over, after calls that do not count."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    taken: dict[str, list[Span]] = {name: [] for name in runs}
    gc.collect()
    gc.freeze()  # compilers leave so much behind that collecting it again before each call would take longer than most
    try:
        for _ in range(repeats):
            for name, run in runs.items():
                taken[name].append(seconds(run))
    finally:
        gc.unfreeze()
    return taken


def ratios(over: list[Span], under: list[Span]) -> list[float]:
    """One ratio of wall-clock time a repeat."""
    return [a.wall / b.wall for a, b in zip(over, under, strict=True)]


def time_figure(name: str, over: list[Span], under: list[Span], bar: Bar, **details: Any) -> Figure:
    """A figure of `over`'s times against `under`'s, with the ratio of processor time among its details."""
    return figure(name, ratios(over, under), bar, processor_time=processor_ratio(over, under), **details)


def processor_ratio(over: list[Span], under: list[Span]) -> float:
    """The same of processor time, its median: steadier where others use the machine."""
    return round(statistics.median(a.processor / b.processor for a, b in zip(over, under, strict=True)), 3)


def milliseconds(taken: dict[str, list[Span]]) -> dict[str, float]:
    """The median of each on the clock, for the report."""
    return {f"{name}_ms": round(1000 * statistics.median(s.wall for s in spans), 2) for name, spans in taken.items()}


def mebibytes(sizes: Mapping[str, float], digits: int | None = None) -> dict[str, float]:
    """Sizes in bytes, by name, for the report; `digits` after the point, None for whole numbers."""
    return {f"{name}_MiB": round(size / 2**20, digits) for name, size in sizes.items()}


def peak_bytes(run: Callable[[], Any], *models: torch.nn.Module) -> int:
    """The most memory that torch held at once during a call, beyond what it held before.

    The models' gradients are dropped first: those of an earlier call, freed during this one, would make room in it.
    On a CPU the sum of torch's allocations and releases as the profiler sees them: exact, whatever else is running;
    what libraries allocate for themselves is left out. On a GPU the allocator's own count.
    """
    for model in models:
        model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

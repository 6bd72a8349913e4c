"""A comparison as one plot: exact match by variant. Position and marker carry the meaning, not color."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmmxlnet.analysis.plots import INK
from gmmxlnet.comparison.results import ABLATIONS, ALL, Result, by_variant

# marker and fill: filled with the memory as trained, open without it
MARKS = {"normal": ("o", INK), "zeroed": ("v", "white"), "shuffled": ("s", "white"), "reset": ("D", "white")}
SHIFTS = {"normal": 0.0, "zeroed": -0.2, "shuffled": 0.0, "reset": 0.2}  # marks at the same score stay apart
SPREAD = 0.56  # of the height of a variant's band that its seeds share


def plot_comparison(results: Sequence[Result]) -> Figure:
    """Left: all questions and the floor. Right: `telling_group` with and without memory. One mark per seed."""
    variants = by_variant(results)
    group = results[0].telling_group
    figure = Figure(figsize=(12, 1.6 + 0.48 * len(variants)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, chosen in enumerate(variants.values()):
        for height, result in zip(_heights(place, len(chosen)), chosen, strict=True):
            _mark(left, result, ALL, "normal", height)
            for ablation in ABLATIONS if result.has_memory else ABLATIONS[:1]:
                _mark(right, result, group, ablation, height + SHIFTS[ablation] / len(chosen))
    floors = [
        left.axvline(floor, color=INK, linestyle="--", label=f"always “no answer” (all), {floor:.1f}")
        for floor in sorted({result.floor for result in results})
    ]
    left.set(title="All questions", xlabel="exact match (%), bars: 95% intervals", ylabel="variant")
    left.set(yticks=range(len(variants)), yticklabels=list(variants), ylim=(len(variants) - 0.5, -0.5))
    of = "All questions" if group == ALL else f"Questions of type “{group}”"
    right.set(title=f"{of}, memory taken away", xlabel="exact match (%), bars: 95% intervals")
    for axes in (left, right):
        axes.set_xlim(-3, 103)
        for border in np.arange(len(variants) - 1) + 0.5:
            axes.axhline(border, color="#d5d9e0", linewidth=0.8, zorder=0)
    figure.legend(handles=[*floors, *_legend(right)], loc="outside lower center", ncols=4 + len(floors))
    return figure


def _heights(place: int, count: int) -> np.ndarray:
    """The vertical positions of a variant's seeds within its band."""
    return place + (np.arange(count) - (count - 1) / 2) * SPREAD / max(count, 2)


def _mark(axes: Axes, result: Result, group: str, ablation: str, height: float) -> None:
    score = result.score("exact_match", group, ablation)
    if score.value is None:
        return
    marker, fill = MARKS[ablation]
    reach = (
        None
        if score.low is None or score.high is None
        else np.abs([[score.value - score.low], [score.high - score.value]])
    )
    axes.errorbar(
        score.value,
        height,
        xerr=reach,
        fmt=marker,
        color=INK,
        markerfacecolor=fill,
        markersize=6,
        capsize=3,
        linewidth=1,
    )


def _legend(axes: Axes) -> list[Any]:
    return [
        axes.plot([], [], marker, color=INK, markerfacecolor=fill, markersize=7, label=name)[0]
        for name, (marker, fill) in MARKS.items()
    ]

"""Pictures of routing, as matplotlib figures made without pyplot: no window, no global state, the same bytes each time.

Things are told apart by lightness, labels and lines, not by hue: for the color blind, and for black-and-white printers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gmmxlnet.models.records import RoutingProbabilities
from gmmxlnet.utils.files import atomic_file
from gmmxlnet.utils.routing import RoutingTable

INK, SOFT, DPI = "#1b2a41", "#8d99ae", 110
SMOOTHED = 20  # segments in the running mean of the entropy
SHADES = {"normal": "#4f6d9a", "zeroed": "#8fa3c4", "shuffled": "#c3cede", "reset": "#f2f4f8"}  # of memory ablations


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG, complete or absent, that depends on nothing but the picture."""
    with atomic_file(path) as scratch:
        figure.savefig(scratch, format="png", dpi=DPI, metadata={"Software": None})


def plot_routing_heatmap(
    routing_data: Sequence[RoutingProbabilities], max_segments: int = 100, figsize: tuple[float, float] = (12, 4)
) -> Figure:
    """Probability of each expert (rows) at the first `max_segments` segments (columns); lines part the documents."""
    table = RoutingTable.of(routing_data).rows(slice(max_segments))
    k = table.probs.shape[1]
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(table.probs.T, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="routing probability")
    for border in np.flatnonzero(np.diff(table.document)) + 0.5:
        axes.axvline(border, color="white", linewidth=0.8)
    axes.set(
        title=f"Routing of {len(table)} segments (white lines part documents)",
        xlabel="segment, in reading order",
        ylabel="expert",
        yticks=range(k),
    )
    return figure


def plot_expert_utilization(utilization: Sequence[float], figsize: tuple[float, float] = (8, 5)) -> Figure:
    """Each expert's share of the routing, beside an even share."""
    k = len(utilization)
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.add_subplot()
    percent = 100 * np.asarray(utilization)
    bars = axes.bar(range(k), percent, color=SOFT, edgecolor=INK)
    axes.bar_label(bars, fmt="%.1f%%", label_type="center")
    axes.axhline(100 / k, color=INK, linestyle="--", label=f"even share, {100 / k:.1f}%")
    axes.set(
        title="Use of the experts",
        xlabel="expert",
        ylabel="mean routing probability (%)",
        xticks=range(k),
        ylim=(0, max(1.2 * percent.max(), 120 / k)),
    )
    axes.legend()
    return figure


def plot_entropy_timeline(
    routing_data: Sequence[RoutingProbabilities], figsize: tuple[float, float] = (12, 4)
) -> Figure:
    """Routing entropy segment by segment, its running mean, and the entropy of even routing."""
    table = RoutingTable.of(routing_data)
    highest = math.log(table.probs.shape[1])
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(table.entropy, ".", color=SOFT, markersize=3, label="a segment")
    if len(table) >= SMOOTHED:
        mean = np.convolve(table.entropy, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
        axes.plot(np.arange(len(mean)) + (SMOOTHED - 1) / 2, mean, color=INK, label=f"mean of {SMOOTHED} segments")
    axes.axhline(highest, color=INK, linestyle="--", label=f"even routing, {highest:.2f}")
    axes.set(
        title="Sharpness of the routing (0: one expert only)",
        xlabel="segment, in reading order",
        ylabel="routing entropy (nats)",
        ylim=(0, 1.3 * highest),
    )
    axes.legend(loc="upper center", ncols=3)
    return figure


def plot_memory_ablation(metrics: Mapping[str, Any], figsize: tuple[float, float] = (10, 4.5)) -> Figure:
    """Exact match of the same model with and without its memory, over all questions and by type, with intervals.

    Args:
        metrics: the contents of `reports/metrics.json`, ablations included.
    """
    ablations = {name: row for name, row in metrics["memory_ablation"].items() if row["exact_match"] is not None}
    groups = ["all", *metrics["by_question_type"]]
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(ablations)
    for place, (name, row) in enumerate(ablations.items()):
        summaries = [row, *row["by_question_type"].values()]
        height = np.array([summary["exact_match"] for summary in summaries])
        limits = [summary["exact_match_interval"] or [y, y] for summary, y in zip(summaries, height, strict=True)]
        x = np.arange(len(groups)) + (place - (len(ablations) - 1) / 2) * width
        axes.bar(x, height, width, color=SHADES[name], edgecolor=INK, label=name)
        reach = np.abs(np.array(limits).T - height)
        axes.errorbar(x, height, reach, fmt="none", ecolor="black", capsize=3, linewidth=1)
    floor = metrics["always_no_answer"]["exact_match"]
    axes.axhline(floor, color=INK, linestyle="--", label=f"always “no answer” (all), {floor:.1f}")
    axes.set(
        title="The same model with its memory taken away (bars: 95% intervals)",
        ylabel="exact match (%)",
        xlabel="questions",
        xticks=range(len(groups)),
        xticklabels=groups,
        ylim=(0, 118),
    )
    axes.legend(loc="upper center", ncols=5)
    return figure

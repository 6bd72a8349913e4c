"""Plots of results and routing, as matplotlib figures made without pyplot: no window, the same bytes each time.

Lightness, labels and line styles carry the meaning, never hue, for color-blind readers and black-and-white printers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gmmxlnet.analysis.records import RoutingProbabilities
from gmmxlnet.analysis.routing import RoutingTable
from gmmxlnet.messages import said
from gmmxlnet.utils.files import atomic_file

INK, SOFT, DPI = "#1b2a41", "#8d99ae", 160
PAGE_WIDTH = 6.0  # inches; a wider plot could not be read on a phone, which shrinks it to 4 inches
LONGEST_LABEL = 40  # characters
SMOOTHED = 20  # segments in the running mean of the entropy
# Of experts and parts of the loss.
LINES: Sequence[Any] = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\", "ooo", "+++")  # of experts
LOSSES = {"loss": "loss", "span": "span", "reconstruction": "memory reconstruction (unweighted)"}
SHADES = {"normal": "#4f6d9a", "zeroed": "#8fa3c4", "shuffled": "#c3cede", "reset": "#f2f4f8"}  # of memory ablations


def axis_label(name: str) -> str:
    """A name from the data as matplotlib shows it: one short line, and a `$` that begins no formula."""
    return said(name, LONGEST_LABEL).replace("$", r"\$")


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
    low, high = float(table.probs.min()), float(table.probs.max())
    image = axes.imshow(table.probs.T, aspect="auto", cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="routing probability")
    for border in np.flatnonzero(np.diff(table.document)) + 0.5:
        axes.axvline(border, color="white", linewidth=0.8)
    axes.set(
        title=f"Routing of {len(table)} segments: {low:.2f} to {high:.2f} (even: {1 / k:.2f})",
        xlabel="segment, in reading order (white lines: next document)",
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
        axes.plot(np.arange(len(mean)) + (SMOOTHED - 1) / 2, mean, color=INK, label=f"mean of {SMOOTHED}")
    axes.axhline(highest, color=INK, linestyle="--", label=f"even routing, {highest:.2f}")
    axes.set(
        title="Sharpness of the routing (0: one expert only)",
        xlabel="segment, in reading order",
        ylabel="routing entropy (nats)",
        ylim=(0, 1.4 * highest),
    )
    axes.legend(loc="upper center", ncols=3)
    return figure


def plot_memory_ablation(metrics: Mapping[str, Any], figsize: tuple[float, float] = (PAGE_WIDTH, 4.4)) -> Figure:
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
        title="The same model without its memory (bars: 95% intervals)",
        ylabel="exact match (%)",
        xlabel="questions",
        xticks=range(len(groups)),
        xticklabels=[axis_label(name) for name in groups],
        ylim=(0, 105),
    )
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def plot_training_curves(
    columns: Mapping[str, Sequence[float]], figsize: tuple[float, float] = (PAGE_WIDTH, 6)
) -> Figure:
    """Loss and its parts, use of the experts (if any) and learning rate, smoothed over a fiftieth of the steps.

    Args:
        columns: of `reports/training.csv`, one number a step.
    """
    step = np.asarray(columns["step"])
    width = max(1, len(step) // 50)
    experts = [name for name in columns if name.startswith("utilization_")]
    figure = Figure(figsize=(figsize[0], figsize[1] if experts else figsize[1] * 0.72), layout="constrained")
    heights = [3, 2, 1] if experts else [3, 1]
    loss, *use, rate = np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)).tolist()
    loss.plot(step, columns["loss"], color="#d5dae3", linewidth=1)
    for name, line in zip((n for n in ("loss", "span", "reconstruction") if n in columns), LINES, strict=False):
        loss.plot(step, _running_mean(columns[name], width), color=INK, linestyle=line, label=LOSSES[name])
    loss.set(title=f"Training (mean of {width} steps; light: loss of each step)", ylabel="loss (nats)", ylim=(0, None))
    loss.legend(loc="upper right")
    for axes in use:
        for name, line in zip(experts, LINES, strict=False):
            label = f"expert {name.removeprefix('utilization_')}"
            axes.plot(step, 100 * _running_mean(columns[name], width), color=INK, linestyle=line, label=label)
        room = 150 if len(experts) <= 4 else 200  # percent of the highest line: for the legend's one or two rows
        axes.set(ylabel="mean routing\nprobability (%)", ylim=(0, room * max(max(columns[name]) for name in experts)))
        axes.legend(loc="upper right", ncols=4)
    rate.plot(step, columns["learning_rate"], color=INK)
    rate.set(ylabel="learning\nrate", xlabel="optimizer step", ylim=(0, None))
    return figure


def _running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """The mean of up to `width` values around each; fewer at the ends."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def plot_scores_by_segments(metrics: Mapping[str, Any], figsize: tuple[float, float] = (PAGE_WIDTH, 3.6)) -> Figure:
    """Exact match and F1 against the number of segments of a document, with intervals.

    Args:
        metrics: the contents of `reports/metrics.json`.
    """
    groups = metrics["by_segments"]
    counts = np.array([int(name) for name in groups])
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.add_subplot()
    for metric, label, marker, line in (("exact_match", "exact match", "o", "-"), ("f1", "F1", "s", ":")):
        height = np.array([group[metric] for group in groups.values()])
        limits = [group[f"{metric}_interval"] or [y, y] for group, y in zip(groups.values(), height, strict=True)]
        reach = np.abs(np.array(limits).T - height)
        shift = -0.03 if metric == "exact_match" else 0.03
        axes.errorbar(
            counts + shift, height, reach, color=INK, marker=marker, linestyle=line, capsize=3, label=label, mfc="white"
        )
    axes.set(
        title="Longer documents (bars: 95% intervals)",
        xlabel="segments of the document",
        ylabel="score (%)",
        ylim=(0, 105),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower left")
    return figure


def plot_routing_by_question_type(
    by_question_type: Mapping[str, Mapping[str, Any]], figsize: tuple[float, float] = (PAGE_WIDTH, 4.4)
) -> Figure:
    """Each expert's mean routing probability over the segments of each type of question.

    Args:
        by_question_type: that part of `reports/routing.json`.
    """
    share_Tk = 100 * np.array([group["expert_utilization"] for group in by_question_type.values()])
    k = share_Tk.shape[1]
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / k
    for j in range(k):
        x = np.arange(len(share_Tk)) + (j - (k - 1) / 2) * width
        axes.bar(x, share_Tk[:, j], width, color="#e3e8f0", edgecolor=INK, hatch=HATCHES[j], label=f"expert {j}")
    axes.axhline(100 / k, color=INK, linestyle="--", label=f"even share, {100 / k:.1f}%")
    axes.set(
        title="Use of the experts by type of question",
        xlabel="type of question",
        ylabel="mean routing probability (%)",
        xticks=range(len(share_Tk)),
        xticklabels=[axis_label(name) for name in by_question_type],
        ylim=(0, max(1.3 * share_Tk.max(), 130 / k)),
    )
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def plot_expert_similarity(
    diversity: Sequence[Sequence[float]], figsize: tuple[float, float] = (PAGE_WIDTH, 4.6)
) -> Figure:
    """Cosine similarity of the experts' initial memories, every pair."""
    similarity_kk = np.asarray(diversity)
    k = len(similarity_kk)
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(similarity_kk, cmap="cividis", vmin=-1, vmax=1)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.9)
    for i in range(k):
        for j in range(k):
            value = round(float(similarity_kk[i, j]), 2) + 0.0  # no minus zero
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="black" if value > -0.1 else "white")
    axes.set(
        title="Similarity of the experts' initial memories",
        xlabel="expert",
        ylabel="expert",
        xticks=range(k),
        yticks=range(k),
    )
    return figure


def all_figures(
    metrics: Mapping[str, Any],
    steps: Mapping[str, Sequence[float]],
    routing: Mapping[str, Any],
    routing_data: Sequence[RoutingProbabilities],
) -> dict[str, Figure]:
    """The plots of the page, by name: those there is data for, and those of the routing unless it is diffuse.

    Args:
        metrics, routing: the contents of `reports/metrics.json` and `reports/routing.json`.
        steps: the columns of `reports/training.csv`.
        routing_data: of the analyzer; empty for models that route nothing.
    """
    figures = {
        "memory_ablation": plot_memory_ablation(metrics),
        "segments": plot_scores_by_segments(metrics),
        "training": plot_training_curves(steps),
    }
    if routing_data and routing["pattern"] != "diffuse":  # else every picture has one shade; the page says so
        figures["utilization"] = plot_expert_utilization(routing["expert_utilization"], (PAGE_WIDTH, 4))
        figures["heatmap"] = plot_routing_heatmap(routing_data, figsize=(PAGE_WIDTH, 3.4))
        figures["entropy"] = plot_entropy_timeline(routing_data, figsize=(PAGE_WIDTH, 3.4))
        figures["similarity"] = plot_expert_similarity(routing["expert_diversity"])
        if routing["by_question_type"]:
            figures["question_types"] = plot_routing_by_question_type(routing["by_question_type"])
    return figures

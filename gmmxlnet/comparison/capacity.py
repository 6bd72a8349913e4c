"""`reports/capacity.md`: how many facts a memory keeps until it is known which of them counts, and what routing adds.

Results come in cells of load, variant and seed, on documents of `gmmxlnet.data.load`. The score is exact match of the
`cross` questions, which need all facts kept until a later segment tells which one counts; chance is 25%. It is all or
nothing at times whether a training finds the solution, so the seeds stand side by side instead of being averaged away:
one variant is above another if every seed's interval lies above every interval of the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gmmxlnet.analysis.plots import INK, SOFT
from gmmxlnet.comparison.results import CROSS, Result, Score, mean
from gmmxlnet.comparison.tables import NOTHING, number, page_start
from gmmxlnet.utils import tables

CHANCE = 25.0  # percent: one of four flags
SOLVED = 95.0  # percent from which a training counts as solved
APART = 0.03  # of a doubling of the load, between the marks of two variants in the plot
MATTERS = 20.0  # points of exact match, fixed before the first run: a smaller difference is no division of work
# Fixed before the first run: (variant, the one it is compared with, what their difference is worth).
DIFFERENCES = (
    ("token", "token-no-lookup", "looking the memory up by content"),
    ("gmm-read", "token-wide", "read-based mixture less one memory with as many slots in all"),
    ("gmm-write", "token-wide", "write-based mixture less one memory with as many slots in all"),
    ("gmm-write", "token-slow", "write-based mixture less one memory that is written as slowly"),
    ("gmm-write", "gmm-uniform", "learned routing less routing that is always even"),
    ("gmm-write", "gmm-frozen", "learned routing less a router that keeps its random weights"),
    ("gmm-top1", "gmm-write", "writing one expert a segment less writing all"),
)
ALWAYS_EVEN = "gmm-uniform"  # loses nothing by even routing
LEGEND = (
    f"Chance is {CHANCE:.0f}. `cross` needs all facts kept until a segment tells which counts; of `early` the question "
    "itself tells it. `training, s` is the fastest seed's; machines and their other work differed: compare speed with "
    "`make bench`."
)
Cells = Mapping[tuple[int, str], Sequence[Result]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the report: its name, what it is in plain words, and the overrides of `params.yaml` that make it."""

    name: str
    words: str
    overrides: tuple[str, ...]


def score_of(result: Result, kind: str = CROSS, ablation: str = "normal", of: str = "memory_ablation") -> Score:
    """Exact match of all questions whose type begins with `kind`; the interval is None if there are several types."""
    found = result.metrics[of][ablation]["by_question_type"]
    rows = [row for name, row in found.items() if name.startswith(kind)]
    if not rows:
        return Score(value=None, low=None, high=None)
    total = sum(row["total"] for row in rows)
    value = sum(row["exact_match"] * row["total"] for row in rows) / total
    low, high = (rows[0]["exact_match_interval"] or (None, None)) if len(rows) == 1 else (None, None)
    return Score(value=value, low=low, high=high)


def render_capacity(
    cells: Cells,
    variants: Sequence[Variant],
    settings: Mapping[int, Mapping[str, str]],
    missing: Sequence[str],
    plot: str,
) -> str:
    """The report as Markdown.

    Args:
        cells: the results of each (load, variant), one per seed.
        settings: what all cells of each load share, by name and as Markdown; the names are the same for all loads.
        missing: names of experiments without a result.
        plot: file name of the plot, in the report's folder.
    """
    parts = page_start("How much does a memory hold, and does routing matter?", "make capacity", missing)
    if not cells:
        return "\n\n".join([*parts, NOTHING]) + "\n"
    parts += ["## In words", "\n".join(f"* {said}" for said in [*_solved(cells, variants), *_differences(cells)])]
    parts += [f"![Exact match by load, and what even routing costs]({plot})", "## The variants"]
    parts.append("\n".join(f"* `{variant.name}`: {variant.words}." for variant in variants))
    for load in loads(cells):
        parts += [f"## {_towns(load).capitalize()}", _table(cells, variants, load)]
    parts += ["## Setting", "\n".join(_setting_lines(settings))]
    return "\n\n".join(parts) + "\n"


def _towns(load: int) -> str:
    return "one town" if load == 1 else f"{load} towns"


def _setting_lines(settings: Mapping[int, Mapping[str, str]]) -> list[str]:
    """A line for each name whose value all loads share, else a line for each load."""
    names = next(iter(settings.values()), {})
    lines = []
    for name in names:
        values = {load: setting[name] for load, setting in settings.items()}
        if len(set(values.values())) == 1:
            lines.append(f"* {name}: {values.popitem()[1]}")
        else:
            lines += [f"* {name}, {_towns(load)}: {value}" for load, value in values.items()]
    return lines


def loads(cells: Cells) -> list[int]:
    """The loads that have results."""
    return sorted({load for load, _ in cells})


def above(ours: Sequence[Result], theirs: Sequence[Result]) -> bool:
    """Whether every interval of `cross` of one variant's seeds lies above every interval of the other's."""
    lows = [score_of(result).low for result in ours]
    highs = [score_of(result).high for result in theirs]
    known = [x for x in (*lows, *highs) if x is not None]
    return len(known) == len(ours) + len(theirs) and min(known[: len(ours)]) > max(known[len(ours) :])


def _mean(results: Sequence[Result], value: Callable[[Result], float | None]) -> float | None:
    return mean([value(result) for result in results])


def _cross(result: Result) -> float | None:
    return score_of(result).value


def _routed(result: Result, how: str) -> float | None:
    """Exact match of `cross` when the same model routes evenly (`uniform`) or as for another document (`shuffled`).

    None without a router.
    """
    if how not in (result.metrics.get("routing_ablation") or {}):
        return None
    return score_of(result, ablation=how, of="routing_ablation").value


def _lost(result: Result, how: str = "uniform") -> float | None:
    routed, learned = _routed(result, how), _cross(result)
    return None if routed is None or learned is None else learned - routed


def _solved(cells: Cells, variants: Sequence[Variant]) -> list[str]:
    """For each load: which variants solve it, and whether any does."""
    said = []
    for load in loads(cells):
        shares = {}
        for variant in variants:
            results = cells.get((load, variant.name), ())
            count = sum((_cross(result) or 0.0) >= SOLVED for result in results)
            if count:
                shares[variant.name] = f"`{variant.name}` ({count} of {len(results)} seeds)"
        best = max((_mean(results, _cross) or 0.0, name) for (its, name), results in cells.items() if its == load)
        which = (
            f"solved by {', '.join(shares.values())}" if shares else f"solved by none; best `{best[1]}`, {best[0]:.1f}"
        )
        said.append(f"Load {load}: {which}.")
    return said


def _differences(cells: Cells) -> list[str]:
    """The differences that were fixed beforehand, and what the present routing is worth."""
    said = []
    for load in loads(cells):
        for name, other, words in DIFFERENCES:
            ours, theirs = cells.get((load, name), ()), cells.get((load, other), ())
            first, second = _mean(ours, _cross), _mean(theirs, _cross)
            if first is None or second is None:
                continue
            clear = above(ours, theirs) or above(theirs, ours)
            how = "intervals of all seeds apart" if clear else "intervals overlap"
            count = f"{len(ours)} and {len(theirs)} seeds"
            said.append(f"Load {load}, {words}: {first - second:+z.1f} points of EM ({how}; {count}).")
        for (its, name), results in sorted(cells.items()):
            lost = _mean(results, _lost)
            if its != load or lost is None or name == ALWAYS_EVEN:
                continue
            verdict = "the experts divide the work" if lost >= MATTERS else "**the experts do not divide the work**"
            moved = _mean(results, lambda one: _lost(one, "shuffled"))
            others = "" if moved is None else f", with another document's {-moved:+z.1f}"
            count = "1 seed" if len(results) == 1 else f"{len(results)} seeds"
            said.append(
                f"Load {load}, `{name}` with even routing instead of its own: {-lost:+z.1f} points{others} ({count}); "
                f"{verdict}."
            )
    return said


def _table(cells: Cells, variants: Sequence[Variant], load: int) -> str:
    rows = []
    for variant in variants:
        results = cells.get((load, variant.name), ())
        if not results:
            continue
        seconds = [known for one in results if (known := one.measured_cost("training_seconds")) is not None]
        each = ", ".join(f"{result.seed}: {number(_cross(result))}" for result in results)
        rows.append(
            {
                "variant": variant.name,
                "EM of cross by seed": each,
                "mean": number(_mean(results, _cross)),
                "memory zeroed": number(_mean(results, lambda one: score_of(one, ablation="zeroed").value)),
                "routing even": number(_mean(results, lambda one: _routed(one, "uniform"))),
                "routing of another": number(_mean(results, lambda one: _routed(one, "shuffled"))),
                "early": number(_mean(results, lambda one: score_of(one, "early").value)),
                "local": number(_mean(results, lambda one: score_of(one, "local").value)),
                "solved": f"{sum((_cross(one) or 0.0) >= SOLVED for one in results)} of {len(results)}",
                "parameters": number(results[0].measured_cost("parameters"), 0),
                "training, s": number(min(seconds, default=None), 0),
            }
        )
    return f"{tables.markdown_table(pd.DataFrame(rows))}\n\n{LEGEND}"


def write_csv(path: str | Path, cells: Cells) -> None:
    """One line per load, variant and seed: `cross` with its interval and under each ablation, `early`, cost."""
    rows = []
    for (load, name), results in sorted(cells.items()):
        for result in results:
            score = score_of(result)
            row: dict[str, object] = {"load": load, "variant": name, "seed": result.seed}
            row |= {"cross": score.value, "cross_low": score.low, "cross_high": score.high}
            row |= {f"cross_memory_{how}": score_of(result, ablation=how).value for how in ("zeroed", "shuffled")}
            row |= {f"cross_routing_{how}": _routed(result, how) for how in ("uniform", "shuffled")}
            row |= {"early": score_of(result, "early").value}
            rows.append(row | {"training_seconds": result.measured_cost("training_seconds")})
    tables.write_csv(path, pd.DataFrame(rows, dtype=object).fillna(""))


def plot_capacity(cells: Cells, variants: Sequence[Variant]) -> Figure:
    """EM of `cross` against load, a line a variant, its seeds as marks; below, the loss under even routing.

    A bar is the interval of one seed. Variants stand beside each other at each load.
    """
    figure = Figure(figsize=(7, 7.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 2))
    known = loads(cells)
    for place, variant in enumerate(variants):
        aside = 2 ** (APART * (place - (len(variants) - 1) / 2))
        mine = {load * aside: cells[load, variant.name] for load in known if (load, variant.name) in cells}
        style = {"color": f"C{place % 10}", "marker": "osD^vP*X<>"[place % 10], "markersize": 5}
        style |= {"fillstyle": "full" if place < 10 else "none"}  # there are ten colors
        points = [(x, value) for x, results in mine.items() if (value := _mean(results, _cross)) is not None]
        if points:
            top.plot(*zip(*points, strict=True), label=variant.name, linewidth=1, **style)
            seeds = [(x, score_of(one)) for x, results in mine.items() for one in results]
            top.plot(*zip(*((x, seed.value) for x, seed in seeds), strict=True), linestyle="", alpha=0.4, **style)
            for x, seed in seeds:
                if seed.low is not None:
                    top.vlines(x, seed.low, seed.high, color=style["color"], linewidth=1, alpha=0.6)
        losses = [(x, value) for x, results in mine.items() if (value := _mean(results, _lost)) is not None]
        if losses and variant.name != ALWAYS_EVEN:
            bottom.plot(*zip(*losses, strict=True), label=variant.name, linewidth=1, **style)
    top.axhline(CHANCE, color=SOFT, linestyle=":", label="chance")
    top.set(ylabel="EM of cross (%)", ylim=(-3, 103), title="How many facts are kept until one of them counts")
    bottom.axhline(MATTERS, color=INK, linestyle=":", label="divides the work")
    bottom.set(
        xlabel="load: towns whose flag must be kept", ylabel="EM lost", title="What even routing costs the same model"
    )
    for axes in (top, bottom):
        axes.set_xscale("log", base=2)
        axes.set_xticks(known, [str(load) for load in known])
        axes.minorticks_off()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure

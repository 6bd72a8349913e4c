"""A comparison's tables, as Markdown and as CSV: a row a variant and seed, and a row of means where there are several.

All numbers are rounded here and only here.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from gmmxlnet.comparison.results import ABLATIONS, Result, Score, by_variant, columns, mean
from gmmxlnet.utils.files import atomic_file

NONE = "n/a"  # no such value, or not measured
Cells = list[str]


def write_csv(path: str | Path, results: Sequence[Result]) -> None:
    """One line a result, all columns, in percent, bits, MiB and seconds as their names say; empty: no such value."""
    rows = [columns(result) for result in results]
    header = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_file(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[_plain(row.get(name)) for name in header] for row in rows])


def scores_table(results: Sequence[Result]) -> str:
    """Exact match and F1 over all questions and by type, with intervals."""
    metrics = (("exact_match", "EM"), ("f1", "F1"))
    groups = results[0].groups
    header = [f"{group} {short}" for group in groups for _, short in metrics] + ["floor EM"]

    def cells(result: Result) -> Cells:
        scores = [score_cell(result.score(metric, group)) for group in groups for metric, _ in metrics]
        return [*scores, number(result.floor)]

    def means(chosen: Sequence[Result]) -> Cells:
        pairs = [(metric, group) for group in groups for metric, _ in metrics]
        values = [mean([result.score(metric, group).value for result in chosen]) for metric, group in pairs]
        return [number(value) for value in [*values, mean([result.floor for result in chosen])]]

    return _table(results, header, cells, means)


def ablation_table(results: Sequence[Result]) -> str:
    """Exact match of the telling questions with memory and without, and what all questions lose."""
    group = results[0].telling_group
    header = [f"{group} EM, {name}" for name in ABLATIONS] + ["all EM, loss when zeroed"]

    def cells(result: Result) -> Cells:
        scores = [score_cell(result.score("exact_match", group, name)) for name in ABLATIONS]
        return [*scores, score_cell(result.loss("zeroed"))] if result.has_memory else [scores[0], *[NONE] * 4]

    def means(chosen: Sequence[Result]) -> Cells:
        values = [mean([result.score("exact_match", group, name).value for result in chosen]) for name in ABLATIONS]
        if not chosen[0].has_memory:
            values[1:] = [None] * 3
        loss = mean([result.loss("zeroed").value for result in chosen]) if chosen[0].has_memory else None
        return [number(value) for value in [*values, loss]]

    return _table(results, header, cells, means)


def routing_table(results: Sequence[Result]) -> str:
    """How evenly the experts are used, and what the router's choice tells; only variants with experts."""
    header = [
        *("least used expert, %", "most used expert, %", "entropy, nats"),
        *("information, bits", "by chance, bits (95th percentile)", "p"),
    ]

    def cells(result: Result) -> Cells:
        least, most = result.utilization or (None, None)
        shown = [number(None if share is None else 100 * share) for share in (least, most)]
        shown.append(number(result.routing["mean_entropy"], 2))
        known = result.information
        if known is None:
            return [*shown, NONE, NONE, NONE]
        chance = f"{known['chance_bits']:.3f} ({known['chance_bits_95']:.3f})"
        return [*shown, number(known["bits"], 3), chance, number(known["p_value"], 3)]

    return _table([result for result in results if result.utilization], header, cells, None)


def cost_table(results: Sequence[Result]) -> str:
    """What a variant is in parameters, and what its training took."""
    on_gpu = any("peak_gpu_memory_mib" in result.cost for result in results)
    names = ["parameters", "tokens_per_second", "training_seconds", "peak_memory_mib"]
    header = ["parameters", "tokens/s", "training, s", "peak memory, MiB"]
    if on_gpu:
        names.append("peak_gpu_memory_mib")
        header.append("peak GPU memory, MiB")

    def cells(result: Result) -> Cells:
        shown = [_count(result.cost.get(name)) for name in names]
        return [*shown, *[str(result.cost.get(name, NONE)) for name in ("threads", "device")]]

    def means(chosen: Sequence[Result]) -> Cells:
        values = [mean([_number(result.cost.get(name)) for result in chosen]) for name in names]
        return [*[_count(value) for value in values], NONE, NONE]

    return _table(results, [*header, "threads", "device"], cells, means)


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table cell."""
    return NONE if value is None else f"{value:.{digits}f}"


def score_cell(score: Score) -> str:
    """A score with its interval: `98.8 (97.1 to 100.0)`."""
    if score.low is None:
        return number(score.value)
    return f"{number(score.value)} ({number(score.low)} to {number(score.high)})"


def _table(
    results: Sequence[Result],
    header: Cells,
    cells: Callable[[Result], Cells],
    means: Callable[[Sequence[Result]], Cells] | None,
) -> str:
    """A Markdown table; a variant with several seeds has a row of means before theirs."""
    lines = [_line(["variant", "seed", *header]), _line(["---", "---:", *["---:"] * len(header)])]
    for variant, chosen in by_variant(results).items():
        if len(chosen) > 1 and means:
            lines.append(_line([f"**{variant}**", f"mean of {len(chosen)}", *means(chosen)]))
        lines += [_line([variant, str(result.seed), *cells(result)]) for result in chosen]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: str | float | None) -> str:
    """A CSV cell: enough digits to tell results apart, no noise after them."""
    if value is None:
        return ""
    return (
        f"{value:.6g}"
        if isinstance(value, float) and not value.is_integer()
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


def _number(value: str | float | None) -> float | None:
    return None if value is None else float(value)


def _count(value: str | float | None) -> str:
    return NONE if value is None else f"{float(value):,.0f}"

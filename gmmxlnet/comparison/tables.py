"""A comparison's tables as Markdown and CSV: one row per variant and seed, and a row of means for several seeds.

Numbers are rounded only here.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from gmmxlnet.comparison.results import ABLATIONS, Result, Score, by_variant, columns, mean
from gmmxlnet.messages import markdown
from gmmxlnet.utils import tables

NONE = "n/a"  # no such value, or not measured
NOTHING = "Nothing is finished yet."
COSTS = {  # a result's costs and their headers
    "parameters": "parameters",
    "tokens_per_second": "tokens/s",
    "training_seconds": "training, s",
    "peak_memory_mib": "peak memory, MiB",
    "peak_gpu_memory_mib": "peak GPU memory, MiB",
}
Value = Score | float | str | None


def page_start(title: str, command: str, missing: Sequence[str], *shared: str) -> list[str]:
    """A page's first paragraphs: title, origin, what all results share, the experiments without a result."""
    parts = [f"# {title}", f"Made by `{command}`; do not edit.", *shared]
    if missing:
        parts.append(f"**Not finished, hence not in here:** {', '.join(f'`{name}`' for name in missing)}.")
    return parts


def write_csv(path: str | Path, results: Sequence[Result]) -> None:
    """One line per result with all columns; units are in the names (percent without one), missing values are empty."""
    tables.write_csv(path, pd.DataFrame([columns(result) for result in results], dtype=object).fillna(""))


def scores_table(results: Sequence[Result]) -> str:
    """Exact match and F1 over all questions and by type, with intervals."""

    def values(result: Result) -> Mapping[str, Value]:
        metrics = (("exact_match", "EM"), ("f1", "F1"))
        scores = {
            f"{markdown(group)} {short}": result.score(name, group)
            for group in result.groups
            for name, short in metrics
        }
        return {**scores, "floor EM": result.floor}

    return _table(results, values)


def ablation_table(results: Sequence[Result]) -> str:
    """Exact match of the memory-sensitive questions under each ablation, and the loss over all questions."""
    group = results[0].telling_group

    def values(result: Result) -> Mapping[str, Value]:
        shown: dict[str, Value] = {
            f"{markdown(group)} EM, {name}": result.score("exact_match", group, name) for name in ABLATIONS
        }
        shown["all EM, loss when zeroed"] = result.loss("zeroed")
        if not result.has_memory:
            shown |= dict.fromkeys(list(shown)[1:])
        return shown

    return _table(results, values)


def routing_table(results: Sequence[Result]) -> str:
    """How evenly the experts are used, and how informative the routing is; only variants with experts."""

    def values(result: Result) -> Mapping[str, Value]:
        least, most = result.utilization or (0.0, 0.0)
        known = result.information
        return {
            "least used expert, %": 100 * least,
            "most used expert, %": 100 * most,
            "entropy, nats": number(result.routing["mean_entropy"], 2),
            "information, bits": number(known["bits"], 3) if known else None,
            "by chance, bits (95th percentile)": (
                f"{number(known['chance_bits'], 3)} ({number(known['chance_bits_95'], 3)})" if known else None
            ),
            "p": number(known["p_value"], 3) if known else None,
        }

    return _table([result for result in results if result.utilization], values, means=False)


def cost_table(results: Sequence[Result]) -> str:
    """Parameters, and the time and memory of the training."""
    on_gpu = any("peak_gpu_memory_mib" in result.cost for result in results)
    names = [name for name in COSTS if on_gpu or name != "peak_gpu_memory_mib"]

    def values(result: Result) -> Mapping[str, Value]:
        numbers = {COSTS[name]: result.measured_cost(name) for name in names}
        return numbers | {name: result.cost.get(name, NONE) for name in ("threads", "device")}

    return _table(results, values, "{:,.0f}".format)


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
    values: Callable[[Result], Mapping[str, Value]],
    figure: Callable[[float], str] = number,
    *,
    means: bool = True,
) -> str:
    """A Markdown table of each result's values, by column; a variant with several seeds has a row of means first."""

    def cell(value: Value) -> str:
        if isinstance(value, Score):
            return score_cell(value)
        if isinstance(value, int | float):
            return figure(value)
        return NONE if value is None else value

    def mean_of(column: Sequence[Value]) -> str:
        plain = [value.value if isinstance(value, Score) else value for value in column]
        return cell(mean([None if isinstance(value, str) else value for value in plain]))

    rows = []
    for variant, chosen in by_variant(results).items():
        found = [values(result) for result in chosen]
        if len(chosen) > 1 and means:
            averages = {name: mean_of([one[name] for one in found]) for name in found[0]}
            rows.append({"variant": f"**{variant}**", "seed": f"mean of {len(chosen)}", **averages})
        for result, one in zip(chosen, found, strict=True):
            rows.append({"variant": variant, "seed": str(result.seed)} | {name: cell(v) for name, v in one.items()})
    return tables.markdown_table(pd.DataFrame(rows))

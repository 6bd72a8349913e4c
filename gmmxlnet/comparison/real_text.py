"""`reports/real-text.md`: does memory help on real text, by how much, where, at what cost?

Results come in tasks: code-word documents of a load, their controls, whole stories, whole articles. On code words the
score to beat is that of `none`, between the floor (definitions removed) and the ceiling (definitions repeated).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmmxlnet.analysis.plots import INK
from gmmxlnet.comparison.findings import BASELINE
from gmmxlnet.comparison.long_documents import (
    against,
    beyond_chance,
    difference_cell,
    differences_table,
    family_of,
    gains,
    listed,
    setting_lines,
    where_tables,
)
from gmmxlnet.comparison.questions import ScoredDocuments, average, pairs
from gmmxlnet.comparison.results import Score, mean
from gmmxlnet.comparison.tables import NONE, NOTHING, ablation_table, cost_table, number, page_start, score_cell
from gmmxlnet.data.code_words import Definitions
from gmmxlnet.utils import tables

CODE_WORDS = "code-words"  # what the names of code-word tasks begin with: code-words-load4, code-words-load4-repeated
CONTROLS: dict[Definitions, str] = {
    "repeated": "ceiling: definitions repeated",
    "removed": "floor: definitions removed",
}
TASKS = {"stories": "Whole stories", "articles": "Whole articles"}
LIMITS = """A memory is needed where the evidence for an answer lies in several segments. In SQuAD and in most questions
about stories the sentence with the answer is enough, so there a memory can only help to choose among segments. The
code words are real text with one artificial link, so they show what a memory can do, not how often it is needed."""
Tasks = Mapping[str, Sequence[ScoredDocuments]]


def render_real_text(tasks: Tasks, missing: Sequence[str], plot: str) -> str:
    """The report as Markdown.

    Args:
        tasks: results by task.
        missing: names of experiments without a result.
        plot: file name of the plot, in the report's folder.
    """
    parts = page_start("Does memory help on real text?", "make real-text", missing)
    if not tasks:
        return "\n\n".join([*parts, NOTHING]) + "\n"
    parts += ["## In words", "\n".join(f"* {said}" for task in compared(tasks) for said in describe(task, tasks))]
    parts.append(f"![Exact match by task and variant]({plot})")
    for task in compared(tasks):
        scored = tasks[task]
        parts += [f"## {title_of(task)}", setting_lines(scored)]
        family = family_of(scored)
        parts.append(_code_words_table(task, tasks) if task.startswith(CODE_WORDS) else differences_table(family))
        parts += [part.replace("## ", "### ", 1) if part.startswith("## ") else part for part in where_tables(family)]
        results = [one.result for one in scored]
        parts += ["### The same models with their memory taken away", ablation_table(results)]
        parts += ["### At what cost", cost_table(results)]
    parts += ["## What would have to be true for more", LIMITS]
    return "\n\n".join(parts) + "\n"


def compared(tasks: Tasks) -> list[str]:
    """The tasks that are no control of another, code words first, by load."""
    own = [task for task in tasks if not any(task.endswith(f"-{control}") for control in CONTROLS)]
    return sorted(own, key=lambda task: (not task.startswith(CODE_WORDS), _load_of(task), task))


def title_of(task: str) -> str:
    """The task in words."""
    return TASKS.get(task, f"Code words, {_load_of(task)} in a document")


def control_score(task: str, control: Definitions, tasks: Tasks) -> Score | None:
    """Exact match of the baseline on a control, averaged over seeds; None if it was not run."""
    chosen = family_of(tasks.get(f"{task}-{control}", ())).get(BASELINE, [])
    return average(chosen, "exact_match") if chosen else None


def describe(task: str, tasks: Tasks) -> list[str]:
    """Sentences on one task: whether a memory helps, and how far it is from the ceiling."""
    family, name = family_of(tasks[task]), title_of(task)
    known = gains(family)
    if not known:
        return [f"{name}: no variant shares a seed with `{BASELINE}`, so whether memory helps is unknown."]
    compared_with, _ = pairs(family[BASELINE], [one for variant in known for one in family[variant]])
    base = score_cell(average(compared_with, "exact_match"))
    better, worse = beyond_chance(known)
    said = [
        f"{name}: **better than `{BASELINE}` ({base} EM) beyond chance:** {listed(better)} points of EM."
        if better
        else f"{name}: **no variant is better than `{BASELINE}` ({base} EM) beyond chance.**"
    ]
    if worse:
        said.append(f"{name}: worse beyond chance: {', '.join(worse)}.")
    for control, words in CONTROLS.items():
        score = control_score(task, control, tasks)
        if score is not None:
            said.append(f"{name}: {words}, `{BASELINE}` reaches {score_cell(score)} EM.")
    return said


def write_csv(path: str | Path, tasks: Tasks) -> None:
    """One line per task, variant and seed: scores with intervals, and with the memory zeroed."""
    rows = []
    for task, scored in tasks.items():
        for one in scored:
            row: dict[str, object] = {"task": task, "variant": one.result.variant, "seed": one.result.seed}
            row["questions"] = one.result.metrics["total"]
            for metric in ("exact_match", "f1"):
                score = one.result.score(metric)
                row |= {metric: score.value, f"{metric}_low": score.low, f"{metric}_high": score.high}
            row["exact_match_memory_zeroed"] = one.result.score("exact_match", ablation="zeroed").value
            rows.append(row)
    tables.write_csv(path, pd.DataFrame(rows, dtype=object).fillna(""))


def plot_real_text(tasks: Tasks) -> Figure:
    """One panel per task: exact match of each variant, one mark per seed, with the controls as lines."""
    shown = compared(tasks)
    most = max(len(family_of(tasks[task])) for task in shown)
    figure = Figure(figsize=(6, (1.1 + 0.36 * most) * len(shown)), layout="constrained")
    for axes, task in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        _panel(axes, task, tasks)
    return figure


def _panel(axes: Axes, task: str, tasks: Tasks) -> None:
    family = family_of(tasks[task])
    for place, chosen in enumerate(family.values()):
        for height, one in zip(place + np.linspace(-0.2, 0.2, len(chosen) + 2)[1:-1], chosen, strict=True):
            score = one.result.score("exact_match")
            ends = (score.value, score.low, score.high)
            value, low, high = (np.nan if end is None else end for end in ends)  # matplotlib draws no NaN
            axes.errorbar(
                value,
                height,
                xerr=[[value - low], [high - value]],
                fmt="o",
                color=INK,
                capsize=3,
                markersize=5,
                linewidth=1,
            )
    for control, style in zip(CONTROLS, ("-", ":"), strict=True):
        found = control_score(task, control, tasks)
        if found is not None and found.value is not None:
            axes.axvline(found.value, color=INK, linestyle=style, linewidth=1, label=CONTROLS[control])
    axes.set(title=title_of(task), xlim=(-3, 103), xlabel="exact match (%), bars: 95% intervals")
    axes.set(yticks=range(len(family)), yticklabels=list(family), ylim=(len(family) - 0.5, -0.5))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _code_words_table(task: str, tasks: Tasks) -> str:
    """Scores, differences from the baseline and the ceiling, and the score with the memory zeroed."""
    family, ceiling = family_of(tasks[task]), control_score(task, "repeated", tasks)
    rows = []
    for variant, chosen in family.items():
        score = average(chosen, "exact_match")
        zeroed = mean([one.result.score("exact_match", ablation="zeroed").value for one in chosen])
        gap = None if ceiling is None or ceiling.value is None else ceiling.value - (score.value or 0.0)
        shown = difference_cell(against(family, variant, BASELINE, "exact_match")) if variant != BASELINE else NONE
        seeds = ", ".join(str(one.result.seed) for one in chosen)
        rows.append(
            [variant, seeds, score_cell(score), shown, number(gap), NONE if variant == BASELINE else number(zeroed)]
        )
    for control, words in CONTROLS.items():
        found = control_score(task, control, tasks)
        if found is not None:
            rows.append([f"{BASELINE}, {words}", NONE, score_cell(found), NONE, NONE, NONE])
    header = ["variant", "seeds", "EM", f"less {BASELINE}", "below the ceiling", "EM, memory zeroed"]
    chance = f"Chance, one of {_load_of(task)}: {100 / _load_of(task):.1f}."
    return f"{tables.markdown_table(pd.DataFrame(rows, columns=header))}\n\n{chance}"


def _load_of(task: str) -> int:
    """The load in `code-words-load4`; 0 for other tasks."""
    return int(task.removeprefix(f"{CODE_WORDS}-load").partition("-")[0]) if task.startswith(CODE_WORDS) else 0

"""`reports/comparison.md`: what was compared, the findings in words, then all numbers."""

from collections.abc import Mapping, Sequence

from gmmxlnet.comparison.findings import describe
from gmmxlnet.comparison.results import ALL, Result
from gmmxlnet.comparison.tables import NOTHING, ablation_table, cost_table, routing_table, scores_table
from gmmxlnet.messages import code_span, markdown


def render_report(
    title: str, results: Sequence[Result], setting: Mapping[str, str], missing: Mapping[str, str], plot: str
) -> str:
    """The report as Markdown.

    Args:
        setting: what all results share (profile, budget, data), by name.
        missing: experiments without a result, with the reason.
        plot: file name of the plot, in the report's folder.
    """
    parts = [f"# {title}", "Made by `make compare` from DVC's experiments and MLflow's runs; do not edit."]
    parts.append("\n".join(f"* {name}: {markdown(value)}" for name, value in setting.items()))
    if missing:
        parts.append(
            "**Without a result:**\n\n"
            + "\n".join(f"* {code_span(name)}: {markdown(why)}" for name, why in missing.items())
        )
    if not results:
        return "\n\n".join([*parts, NOTHING]) + "\n"
    group = results[0].telling_group
    of = "all questions" if group == ALL else f"questions of type {code_span(group)}"
    parts += ["## In words", "\n".join(f"* {sentence}" for sentence in describe(results))]
    parts.append(f"![Exact match by variant, with and without memory]({plot})")
    parts += [
        "## Scores",
        "Exact match (EM) and F1 in percent, with 95% confidence intervals: a bootstrap over contexts, or the Wilson "
        "interval where all contexts score the same.",
        scores_table(results),
        "## The same model with its memory taken away",
        f"Exact match on {of} with the memory as trained, zeroed, taken from another document, or reset at every "
        "segment; last, the loss over all questions with a zeroed memory, paired by question.",
        ablation_table(results),
    ]
    if any(result.utilization for result in results):
        parts += [
            "## Routing",
            "Mean routing probability of the least and the most used expert; mean entropy of a segment's routing; "
            "mutual information of the most probable expert and the document's condition, and the same with conditions "
            "shuffled. docs/guide.md explains the figures.",
            routing_table(results),
        ]
    parts += [
        "## Cost",
        "Tokens of the training without padding; peak memory is the largest resident set size of the training process. "
        "Seconds and tokens/s depend on the machine and on its load.",
        cost_table(results),
    ]
    return "\n\n".join(parts) + "\n"

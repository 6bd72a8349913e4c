"""`reports/comparison.md`: what was compared, what it shows in words, then every number."""

from collections.abc import Mapping, Sequence

from gmmxlnet.comparison.findings import describe
from gmmxlnet.comparison.results import ALL, Result
from gmmxlnet.comparison.tables import ablation_table, cost_table, routing_table, scores_table

NOTHING = "Nothing is finished yet."


def render_report(
    title: str, results: Sequence[Result], setting: Mapping[str, str], missing: Mapping[str, str], plot: str
) -> str:
    """The report as Markdown.

    Args:
        setting: what all results share (profile, budget, data), by its name.
        missing: experiments without a result, and why.
        plot: file name of the picture, beside the report.
    """
    parts = [f"# {title}", "Made by `make compare` from DVC's experiments and MLflow's runs; do not edit."]
    parts.append("\n".join(f"* {name}: {value}" for name, value in setting.items()))
    if missing:
        parts.append("**Without a result:**\n\n" + "\n".join(f"* `{name}`: {why}" for name, why in missing.items()))
    if not results:
        return "\n\n".join([*parts, NOTHING]) + "\n"
    group = results[0].telling_group
    of = "all questions" if group == ALL else f"questions of type `{group}`"
    parts += ["## In words", "\n".join(f"* {sentence}" for sentence in describe(results))]
    parts.append(f"![Exact match by variant, with and without memory]({plot})")
    parts += [
        "## Scores",
        "Exact match (EM) and F1 in percent, with 95% bootstrap intervals over contexts.",
        scores_table(results),
        "## The same model with its memory taken away",
        f"Exact match on {of}: memory normal, zeroed, another document's, or reset at every segment; and what all "
        "questions lose when it is zeroed, paired by question.",
        ablation_table(results),
    ]
    if any(result.utilization for result in results):
        parts += [
            "## Routing",
            "Mean routing probability of the least and the most used expert; the mean entropy of a segment's routing; "
            "how many bits the most probable expert tells about the document's condition (mutual information), beside "
            "what shuffled conditions give.",
            routing_table(results),
        ]
    parts += [
        "## Cost",
        "Tokens are the training's, padding left out; memory is the largest resident set of the training process. "
        "Seconds and tokens/s are of this machine, with whatever else it was doing.",
        cost_table(results),
    ]
    return "\n\n".join(parts) + "\n"

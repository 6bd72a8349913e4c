"""Describes training and results in words, for MLflow's run description and for the page."""

from collections.abc import Mapping
from typing import Any

from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.messages import code_span, markdown
from pipeline.experiment import Experiment

UNITS = (
    "Units: `dev/…exact_match` and `f1` in percent of the dev questions, `…_interval` their 95% limits; "
    "`dev/memory_ablation/…` the same model with its memory zeroed, shuffled across documents, reset at every segment; "
    "`routing/…` probabilities, entropy in nats, information in bits; `train/…` by optimizer step, losses in nats; "
    "`cost/…` of the training, in seconds, tokens per second and MiB."
)


def describe_training(experiment: Experiment) -> str:
    """Which memory was trained, on what, with which seed."""
    values = experiment.parameters
    memory = KINDS[values["memory_type"]].load().description.format_map(values)
    return f"{memory}. Profile {values['profile']}, seed {values['seed']}."


def describe_run(experiment: Experiment, metrics: Mapping[str, Any]) -> str:
    """Markdown for `mlflow.note.content`; `metrics` is `reports/metrics.json`, or empty before there is one."""
    parts = [f"**{experiment.name}**: {markdown(describe_training(experiment))}"]
    if metrics:
        parts.append(_results(metrics))
    return "\n\n".join([*parts, UNITS])


def _results(metrics: Mapping[str, Any]) -> str:
    floor = metrics["always_no_answer"]["exact_match"]
    said = [
        f"Exact match {_score(metrics['memory_ablation']['normal'])}, F1 {metrics['f1']:.1f}% of "
        f"{metrics['total']:,} questions; always answering “no answer”: {floor:.1f}%."
    ]
    note = metrics.get("memory_ablation_note")  # there was no memory to take away, or no other document's
    without = None if note else metrics["memory_ablation"]["zeroed"]["by_question_type"]
    for kind, summary in metrics["by_question_type"].items():
        zeroed = f", memory zeroed {without[kind]['exact_match']:.1f}%" if without else ""
        said.append(f"* {code_span(kind)}: exact match {_score(summary)}{zeroed}")
    return "\n".join(said)


def _score(summary: Mapping[str, Any]) -> str:
    limits = summary["exact_match_interval"]
    return f"{summary['exact_match']:.1f}%" + (f" ({limits[0]:.1f} to {limits[1]:.1f})" if limits else "")

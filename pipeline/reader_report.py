"""`reports/reader.md`: what a reader of real text was made from, and what it reaches beside the floor."""

from typing import Any

import pandas as pd

from gmmxlnet.data.dataset_names import held_by
from gmmxlnet.devices import choose_device, choose_precision
from gmmxlnet.messages import code_span
from gmmxlnet.utils.tables import markdown_table
from pipeline.params import Params

PAGE = """# A reader of real text

{source}, converted into an XLNet ({parameters:,} parameters, {conversion_steps:,} steps of distillation on
{conversion_tokens:,} tokens, cosine {cosine:.3f} in the last layer), was trained on questions of {dataset}:
{steps:,} steps of {batch} questions ({share:.3g}% of the {train:,} there are), segments of {length} tokens, learning
rate {rate:g} ({rate_memory:g} for what the encoder does not bring along), {precision}, memory `{memory}`, seed {seed}.

{table}

On all {total:,} dev questions; 95% intervals over contexts. *Best threshold* is chosen on the dev set itself, as the
official script does: a bound. The calibrated one is chosen on {calibration:,} training questions that were kept out.

Made by `make reader`, which prints how to repeat it.
"""


def render_reader(params: Params, conversion: dict[str, Any], data: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The page in Markdown.

    Args:
        conversion: `conversion.json` of the encoder. data, metrics: `reports/data.json` and `reports/metrics.json`.
    """
    active, train = params.active, data["train"]["documents"]
    batch = active.batch_size * active.gradient_accumulation_steps
    done = conversion["distillation"]
    return PAGE.format(
        source=code_span(conversion["source"]["name"]),
        parameters=conversion["parameters"],
        conversion_steps=done["steps"],
        conversion_tokens=done["tokens_read"],
        cosine=conversion["after"]["distillation"]["cosine_by_layer"][-1],
        dataset=code_span(held_by(params.dataset, "train")),
        steps=active.max_steps,
        batch=batch,
        share=100 * active.max_steps * batch / train,
        train=train,
        length=active.max_seq_length,
        rate=active.learning_rate,
        rate_memory=active.learning_rate_memory or active.learning_rate,
        precision=choose_precision(active.precision, choose_device(params.device)),
        memory=params.memory_type,
        seed=params.seed,
        table=_table(metrics),
        total=metrics["total"],
        calibration=data["calibration"]["documents"],
    )


def _table(metrics: dict[str, Any]) -> str:
    always, oracle = metrics["always_answering"], metrics["oracle_threshold"]
    rows = {
        "all, calibrated threshold": _scores(metrics["exact_match"], metrics["f1"], metrics["intervals"]),
        "all, best threshold": _scores(oracle["exact_match"], oracle["f1"]),
        "all, always “no answer” (the floor)": _scores(*metrics["always_no_answer"].values()),
    }
    if always is not None:
        limits = {name: always[f"{name}_interval"] for name in ("exact_match", "f1")}
        rows["answerable, always answered"] = _scores(always["exact_match"], always["f1"], limits)
    for group, title in (("HasAns", "answerable"), ("NoAns", "unanswerable")):
        if metrics[f"{group}_total"]:
            rows[f"{title}, calibrated threshold"] = _scores(metrics[f"{group}_exact"], metrics[f"{group}_f1"])
    table = pd.DataFrame([(name, *scores) for name, scores in rows.items()], columns=["questions", "exact match", "F1"])
    return markdown_table(table)


def _scores(exact_match: float, f1: float, intervals: dict[str, Any] | None = None) -> tuple[str, str]:
    limits = intervals or {}
    return _shown(exact_match, limits.get("exact_match")), _shown(f1, limits.get("f1"))


def _shown(score: float, interval: list[float] | None) -> str:
    return f"{score:.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")

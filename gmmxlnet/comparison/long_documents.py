"""`reports/long-documents.md`: whether memory helps on long documents, by how much, where, and at what cost.

Differences are paired by question and averaged over a variant's seeds, with a 95% interval over documents.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gmmxlnet.comparison.findings import BASELINE, describe_models, floor
from gmmxlnet.comparison.questions import ScoredDocuments, average, difference, groups, pairs
from gmmxlnet.comparison.results import Score, by_variant, mean
from gmmxlnet.comparison.tables import (
    NONE,
    NOTHING,
    ablation_table,
    cost_table,
    number,
    page_start,
    routing_table,
    score_cell,
)
from gmmxlnet.messages import markdown
from gmmxlnet.utils.tables import markdown_table

NO_RECONSTRUCTION = "-norec"  # what the names of variants without memory reconstruction end in
LIMITS = """Every answer in SQuAD lies in one sentence of one paragraph, and a segment is longer than a paragraph. A
model that reads single segments can find every answer; a memory can only help it to choose among segments, and to tell
that there is no answer. A larger effect is to be expected on questions whose evidence lies in several segments (`cross`
in the sample, which cannot be answered without a memory), with an encoder that was pretrained on far more text, and
with more training on documents of full length."""
Family = Mapping[str, Sequence[ScoredDocuments]]


def render_long_documents(scored: Sequence[ScoredDocuments], missing: Sequence[str] = ()) -> str:
    """The report as Markdown; `missing` names experiments without a result."""
    shared = [setting_lines(scored)] if scored else []
    parts = page_start("Does memory help on long documents?", "make long-documents", missing, *shared)
    if not scored:
        return "\n\n".join([*parts, NOTHING]) + "\n"
    family, results = family_of(scored), [one.result for one in scored]
    sentences = [*_answer(family), *_reconstruction(family), *_cost(family), floor(results), *describe_models(results)]
    parts += ["## In words", "\n".join(f"* {sentence}" for sentence in sentences)]
    parts += [
        "## By how much",
        f"EM and F1 in percent, and their difference from `{BASELINE}` with the same seeds and questions.",
        differences_table(family),
        *where_tables(family),
        "## The same models with their memory taken away",
        ablation_table(results),
    ]
    if any(result.utilization for result in results):
        parts += ["## The experts: use", routing_table(results)]
        parts += ["## The experts: specialization", _SPECIALIZATION, _specialization(family)]
    parts += ["## At what cost", cost_table(results), "## What would have to be true for more", LIMITS]
    return "\n\n".join(parts) + "\n"


def setting_lines(scored: Sequence[ScoredDocuments]) -> str:
    """`settings_of` as a list."""
    return "\n".join(f"* {name}: {values}" for name, values in settings_of(scored).items())


def settings_of(scored: Sequence[ScoredDocuments]) -> dict[str, str]:
    """The setting of the results by name, as Markdown; where it differs among them, all values."""
    return {
        markdown(name): "; **or** ".join(dict.fromkeys(markdown(one.setting.get(name, "not said")) for one in scored))
        for name in scored[0].setting
    }


def family_of(scored: Sequence[ScoredDocuments]) -> dict[str, list[ScoredDocuments]]:
    """The results of each variant."""
    return {
        variant: [one for one in scored if one.result.variant == variant]
        for variant in by_variant([one.result for one in scored])
    }


def against(family: Family, variant: str, baseline: str, metric: str, mask: np.ndarray | None = None) -> Score | None:
    """The paired difference of two variants; None where they share no seed."""
    ours, theirs = pairs(family[variant], family.get(baseline, []))
    return difference(ours, theirs, metric, mask) if ours else None


def gains(family: Family) -> dict[str, Score]:
    """EM of each variant less the baseline's; variants that share no seed with it are left out."""
    found = {variant: against(family, variant, BASELINE, "exact_match") for variant in family if variant != BASELINE}
    return {variant: score for variant, score in found.items() if score is not None}


def beyond_chance(found: Mapping[str, Score]) -> tuple[dict[str, Score], dict[str, Score]]:
    """The differences whose intervals lie above 0, and those whose intervals lie below."""
    better = {variant: score for variant, score in found.items() if score.low is not None and score.low > 0}
    worse = {variant: score for variant, score in found.items() if score.high is not None and score.high < 0}
    return better, worse


def _answer(family: Family) -> list[str]:
    """Whether memory helps, and by how much."""
    known = gains(family)
    if not known:
        return [f"No variant shares a seed with `{BASELINE}`, so whether memory helps is unknown."]
    if not any((one.result.score("exact_match").low or 0) > one.result.floor for one in family[BASELINE]):
        weak = [f"`{BASELINE}` itself is not clearly above the floor: what follows says little about memory."]
    else:
        weak = []
    better, worse = beyond_chance(known)
    rest = [variant for variant in known if variant not in better and variant not in worse]
    said = weak
    if better:
        said.append(f"**Better than `{BASELINE}` beyond chance:** {listed(better)} points of EM.")
    else:
        said.append(
            f"**No variant is better than `{BASELINE}` beyond chance: here memory has not been shown to help.**"
        )
    if worse:
        said.append(f"Worse beyond chance: {listed(worse)}.")
    if rest:
        said.append(f"No difference beyond chance (the interval holds 0): {', '.join(rest)}.")
    if len(known) > 1:
        said.append(
            f"{len(known)} variants were compared: about {0.05 * len(known):.1f} would stand out by chance alone."
        )
    return said


def _reconstruction(family: Family) -> list[str]:
    """The effect of memory reconstruction, for variants trained with and without it."""
    found = {
        variant: score
        for variant in family
        if (score := against(family, variant, variant + NO_RECONSTRUCTION, "exact_match")) is not None
    }
    return [f"With memory reconstruction against without it, points of EM: {listed(found)}."] if found else []


def _cost(family: Family) -> list[str]:
    """Speed and size relative to the model without memory."""
    if BASELINE not in family:
        return []
    said = []
    speed, size = (_mean_cost(family[BASELINE], name) for name in ("tokens_per_second", "parameters"))
    for variant, chosen in family.items():
        own_speed, own_size = (_mean_cost(chosen, name) for name in ("tokens_per_second", "parameters"))
        if variant == BASELINE or not (speed and size and own_speed and own_size):
            continue
        said.append(f"{variant} {100 * own_speed / speed:.0f}% and {100 * own_size / size:.0f}%")
    return [f"Training speed and parameters relative to `{BASELINE}`: {'; '.join(said)}."] if said else []


def differences_table(family: Family) -> str:
    """EM and F1 of each variant, and their difference from the baseline's with the same seeds and questions."""
    header = ["variant", "seeds", "EM", "F1", "EM, difference", "F1, difference", "EM, by seed"]
    rows = []
    for variant, chosen in family.items():
        cells = [score_cell(average(chosen, metric)) for metric in ("exact_match", "f1")]
        shown = [difference_cell(against(family, variant, BASELINE, metric)) for metric in ("exact_match", "f1")]
        by_seed = "; ".join(number(one.result.score("exact_match").value) for one in chosen)
        seeds = ", ".join(str(one.result.seed) for one in chosen)
        rows.append([variant, seeds, *cells, *(shown if variant != BASELINE else [NONE, NONE]), by_seed])
    return _table(header, rows)


def where_tables(family: Family) -> list[str]:
    """EM of the baseline and the others' difference from it, by length, place and sentence of the answer."""
    if BASELINE not in family:
        return []
    base = family[BASELINE][0]
    told = {
        "segments": ("## Where: by number of segments", "The document's number of segments."),
        "place": (
            "## Where: by distance of the answer from the document's start",
            "The first segment that holds the answer, counted from 1; `no answer`: questions without one.",
        ),
        "subject": (
            "## Where: by how the sentence with the answer names its subject",
            "`name`: it has a capitalized word of the question; `pronoun`: it has none, but *he*, *she*, *it* or the "
            "like; `neither`.",
        ),
    }
    parts = []
    for of, (title, said) in told.items():
        masks = groups(base, of)
        header = ["variant", *(f"{name} ({int(mask.sum())})" for name, mask in masks.items())]
        scores = [average(family[BASELINE], "exact_match", mask) for mask in masks.values()]
        rows = [[f"{BASELINE}, EM", *map(score_cell, scores)]]
        for variant, chosen in family.items():
            if variant != BASELINE and chosen[0].questions == base.questions:
                shown = [
                    difference_cell(against(family, variant, BASELINE, "exact_match", mask)) for mask in masks.values()
                ]
                rows.append([f"{variant}, difference", *shown])
        parts += [title, f"{said} In brackets: how many questions.", _table(header, rows)]
    return parts


_SPECIALIZATION = (
    "Similarity: mean cosine similarity of two experts' initial memories. Consistency: share of neighboring segments "
    "with the same top expert. The patterns and their thresholds are in docs/guide.md."
)


def _specialization(family: Family) -> str:
    rows = []
    for variant, chosen in family.items():
        for one in chosen:
            routing = one.result.routing
            if not one.result.utilization:
                continue
            similarity = np.array(routing["expert_diversity"])
            unlike = similarity[~np.eye(len(similarity), dtype=bool)].mean()
            steady = number(routing["routing_consistency"], 2)
            rows.append([variant, str(one.result.seed), number(float(unlike), 2), steady, str(routing["pattern"])])
    return _table(["variant", "seed", "similarity", "consistency", "pattern"], rows)


def _mean_cost(chosen: Sequence[ScoredDocuments], name: str) -> float | None:
    return mean([one.result.measured_cost(name) for one in chosen])


def listed(found: Mapping[str, Score]) -> str:
    """`token +1.2 (0.3 to 2.1); mems …`."""
    return "; ".join(f"{variant} {difference_cell(score)}" for variant, score in found.items())


def difference_cell(score: Score | None) -> str:
    """`+1.2 (0.3 to 2.1)`."""
    if score is None:
        return NONE
    shown = score_cell(score)
    return shown if shown.startswith("-") else f"+{shown}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(pd.DataFrame(rows, columns=list(header)))

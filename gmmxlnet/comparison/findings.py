"""The findings of a comparison in sentences: the floor, which variants beat the model without memory, which read their
memory, how the experts are used, and where seeds disagree.

Two scores are called different only if their 95% intervals do not overlap. This test is conservative: intervals of
models that truly differ can overlap.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

from gmmxlnet.comparison.results import ALL, Result, by_variant
from gmmxlnet.comparison.tables import number, score_cell

BASELINE = "none"
COLLAPSED_SHARE, STARVED_SHARE = 0.60, 0.05  # of the routing, by one expert
CHANCE = 0.05


def describe(results: Sequence[Result]) -> list[str]:
    """The report's sentences, the most important first; at least one."""
    return [sentence for sentence in (floor(results), _against_baseline(results)) if sentence] + describe_models(
        results
    )


def describe_models(results: Sequence[Result]) -> list[str]:
    """Sentences on memory, routing, seeds and machines, which need no baseline."""
    sentences = [_memory(results), _routing(results), _information(results), *_seeds(results), _threads(results)]
    return [sentence for sentence in sentences if sentence]


def label(result: Result) -> str:
    """A result's name: `gmm-k4-write (seed 13)`."""
    return f"{result.variant} (seed {result.seed})"


def floor(results: Sequence[Result]) -> str:
    """The score of always answering "no answer", and the results that are not clearly above it."""
    at_floor = [result for result in results if not result.above_floor]
    floors = {result.seed: number(result.floor) for result in results}
    said = f"Always answering “no answer” reaches {next(iter(floors.values()))} EM: the floor."
    if len(set(floors.values())) > 1:
        shown = ", ".join(f"{floor} with seed {seed}" for seed, floor in floors.items())
        said = (
            f"Always answering “no answer” reaches {shown} EM: the floor. **The seeds drew different dev questions** "
            "(`max_eval_documents`), so their scores differ for that reason too."
        )
    if not at_floor:
        return f"{said} Every result's interval lies above it."
    return f"{said} Not clearly above it: {_listed(at_floor)}."


def _against_baseline(results: Sequence[Result]) -> str:
    """Each result against the model without memory that was trained with the same seed."""
    baselines = {result.seed: result for result in results if result.variant == BASELINE}
    others = [result for result in results if result.variant != BASELINE and result.seed in baselines]
    if not others:
        return ""
    group = results[0].telling_group
    of = "" if group == ALL else f" on the questions of type `{group}`"
    better: list[Result] = []
    worse: list[Result] = []
    same: list[Result] = []
    for result in others:
        ours, theirs = result.score("exact_match", group), baselines[result.seed].score("exact_match", group)
        if not ours.clear_of(theirs):
            same.append(result)
        else:
            (better if (ours.value or 0) > (theirs.value or 0) else worse).append(result)
    parts = [
        f"{verdict}: {_listed(chosen)}"
        for verdict, chosen in (("better", better), ("no clear difference", same), ("worse", worse))
        if chosen
    ]
    shown = ", ".join(
        f"{score_cell(result.score('exact_match', group))} EM with seed {seed}" for seed, result in baselines.items()
    )
    return f"Against `none` ({shown}){of}, by intervals that do not overlap: {'; '.join(parts)}."


def _memory(results: Sequence[Result]) -> str:
    with_memory = [result for result in results if result.has_memory]
    if not with_memory:
        return ""
    reading = [result for result in with_memory if result.reads_memory]
    abstaining = [result for result in with_memory if result.loses_without_memory and not result.reads_memory]
    idle = [result for result in with_memory if not result.loses_without_memory]
    said = []
    if reading:
        said.append(
            "Taking the memory away (zeroed, shuffled or reset) costs exact match beyond chance, so the memory is read "
            f"by: {_listed(reading)}."
        )
    if abstaining:
        said.append(
            "Not clearly above the floor, where taking the memory away may change only how often the answer is “no "
            f"answer”, which is no evidence either way: {_listed(abstaining)}."
        )
    if idle:
        said.append(f"No such loss, so no evidence that the memory is read, by: {_listed(idle)}.")
    return " ".join(said)


def _routing(results: Sequence[Result]) -> str:
    routed = [(result, result.utilization) for result in results if result.utilization]
    if not routed:
        return ""
    uneven = [
        f"{label(result)}: {100 * least:.0f}% to {100 * most:.0f}%"
        for result, (least, most) in routed
        if most > COLLAPSED_SHARE or least < STARVED_SHARE
    ]
    if uneven:
        return f"Uneven use of the experts (one above 60% or below 5% of the routing): {'; '.join(uneven)}."
    return "No expert has more than 60% or less than 5% of the routing."


def _information(results: Sequence[Result]) -> str:
    known = [(result, result.information) for result in results if result.information]
    if not known:
        return ""
    telling = [(result, found) for result, found in known if found["p_value"] < CHANCE]
    by_luck = f"{CHANCE * len(known):.1f} of {len(known)} expected by chance"
    if not telling:
        return f"No router carries information about the document's condition beyond chance (p < {CHANCE}; {by_luck})."
    bits = ", ".join(f"{label(result)}, {found['bits']:.3f} bits" for result, found in telling)
    said = f"The routing carries information about the document's condition beyond chance (p < {CHANCE}; {by_luck})"
    return f"{said} in: {bits}."


def _seeds(results: Sequence[Result]) -> Iterable[str]:
    """Where seeds of a variant disagree: in score, or in whether the memory is read."""
    groups = list(dict.fromkeys([results[0].telling_group, ALL]))
    several = {variant: chosen for variant, chosen in by_variant(results).items() if len(chosen) > 1}
    found = []
    for variant, chosen in several.items():
        for group in groups:
            apart = [
                (one, other)
                for one, other in combinations(chosen, 2)
                if one.score("exact_match", group).clear_of(other.score("exact_match", group))
            ]
            if apart:
                involved = dict.fromkeys(result.seed for pair in apart for result in pair)
                scores = {result.seed: score_cell(result.score("exact_match", group)) for result in chosen}
                shown = ", ".join(f"{scores[seed]} with seed {seed}" for seed in involved)
                found.append(f"Seeds disagree: {variant}, {group} EM {shown}.")
        readers = [result.seed for result in chosen if result.reads_memory]
        if readers and len(readers) < len(chosen):
            idle = [result.seed for result in chosen if not result.reads_memory]
            found.append(f"Seeds disagree: {variant} reads its memory with seed {_words(readers)}, not {_words(idle)}.")
    if several and not found:
        return ["No two seeds of a variant disagree beyond their intervals, nor on whether the memory is read."]
    return found


def _threads(results: Sequence[Result]) -> str:
    """Devices and thread counts: both change the order of floating-point sums, and with it the result."""
    known = sorted({int(result.cost["threads"]) for result in results if "threads" in result.cost})
    devices = sorted({str(result.cost["device"]) for result in results if "device" in result.cost})
    if not known:
        return ""
    said = f"Trained on {' and '.join(devices)}, with {_words(known)} CPU thread{'s' if known != [1] else ''} each"
    if len(known) > 1 or len(devices) > 1:
        return f"{said}: **these differ**, so part of a difference in score or speed may come from them."
    return f"{said}. Another number of threads sums in another order, which can change a result slightly."


def _words(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in values)


def _listed(results: Iterable[Result]) -> str:
    """Variants with their seeds: `token (13, 14), gmm-k4-write (13)`."""
    return ", ".join(
        f"{variant} ({_words(result.seed for result in chosen)})"
        for variant, chosen in by_variant(list(results)).items()
    )

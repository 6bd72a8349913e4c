"""`reports/index.html`: one self-contained page with the result, what it is worth, and where the memory matters.

This module prepares plain values; `page.html.j2` says what stands where. Pictures are inlined. The page is the same for
the same inputs; commit, time and machine, which are not, are shown by a script beside it (`provenance_script`).
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gmmxlnet.analysis.experts import ExpertProfile
from gmmxlnet.analysis.shown_answers import ShownAnswer, ShownSegment

DESCRIPTIONS = {  # of the plots, by name
    "memory_ablation": "Exact match with and without memory",
    "segments": "Scores by number of segments",
    "training": "Loss, use of the experts and learning rate over the steps",
    "utilization": "Use of the experts",
    "question_types": "Use of the experts by type of question",
    "heatmap": "Routing probabilities segment by segment",
    "entropy": "Routing entropy segment by segment",
    "similarity": "Similarity of the experts",
}
ABLATIONS = {
    "normal": "normal: memory as trained",
    "zeroed": "zeroed: an empty memory",
    "shuffled": "shuffled: another document's",
    "reset": "reset: cleared at every segment",
}
ROUTINGS = {
    "learned": "learned: the router's own",
    "uniform": "uniform: every expert alike",
    "shuffled": "shuffled: another document's routing",
    "hardened": "hardened: the most probable expert alone",
}
DIVIDED = "The experts divide the work: written and read all alike, the same model answers fewer questions."
NOT_DIVIDED = (
    "The experts do not divide the work: written and read all alike, they answer as many questions, within chance. One "
    "memory with as many slots may do as well; the advice under Routing says what to try."
)
USED = "The memory is used: with another document's memory the same model answers fewer questions."
NOT_SHOWN = "No use of the memory is shown: another document's memory makes no difference beyond chance."
NONE = "\N{EN DASH}"  # where there is no figure
LIMITS = {
    "most_rows": 12,  # of a table that is not folded
    "longest_example": 400,  # characters of a segment shown for an expert
    "notable_ratio": 1.1,  # times as frequent as elsewhere: words below are not worth showing
}
MOST_SEGMENTS = 8  # of a document that are shown; those around the answers come first


def number(value: float | None, digits: int = 1) -> str:
    """A rounded figure; a dash for None."""
    return NONE if value is None else f"{value:.{digits}f}"


def interval(limits: Sequence[float] | None) -> str:
    """[low, high] in words; a dash for None."""
    return NONE if limits is None else f"{limits[0]:.1f} to {limits[1]:.1f}"


def sentence(text: str) -> str:
    """A note as a sentence: first letter in upper case, rest unchanged, a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def render_page(
    title: str,
    about: str,
    metrics: Mapping[str, Any],
    routing: Mapping[str, Any],
    plots: Mapping[str, Path],
    profiles: Sequence[ExpertProfile] = (),
    answers: Sequence[ShownAnswer] = (),
    *,
    origin: Mapping[str, str] | None = None,
    comparison: str | None = None,
    provenance: str | None = None,
) -> str:
    """The page's HTML.

    Args:
        about: what was trained, in a sentence or two.
        metrics: the contents of `reports/metrics.json`, ablations included. routing: of `reports/routing.json`.
        plots: PNG files by name (see `DESCRIPTIONS`); the page has a place for each.
        profiles: of the experts, if the model has some. answers: to show in their documents.
        origin: what the page was made from (hashes of data and parameters), by name.
        comparison: relative link to a comparison of variants.
        provenance: name of the file beside the page that holds its `provenance_script`; shown with `origin` only.
    """
    lost = metrics["memory_ablation"]["shuffled"].get("exact_match_loss_interval")
    note = metrics.get("memory_ablation_note")
    rerouted = metrics.get("routing_ablation", {})
    routing_lost = rerouted["uniform"]["exact_match_loss_interval"] if rerouted else None
    sections = {
        "Result": True,
        "What the memory is worth": True,
        "What the routing is worth": rerouted,
        "By type of question": metrics["by_question_type"],
        "By number of segments": True,
        "Training": True,
        "Routing": True,
        "What each expert is given": profiles,
        "Answers in their documents": answers,
        "Origin": origin,
    }
    values = dict(
        title=title,
        about=about[:1].upper() + about[1:],
        metrics={**metrics, "memory_ablation_note": note},
        threshold_choice=metrics["null_score_diff_threshold_choice"],
        verdict=None if note or not lost else USED if lost[0] > 0 else NOT_SHOWN,
        ablation_names=ABLATIONS,
        rerouted={_routing_name(name): row for name, row in rerouted.items()},
        routing_verdict=None if routing_lost is None else DIVIDED if routing_lost[0] > 0 else NOT_DIVIDED,
        routing=routing,
        plots={name: {"description": DESCRIPTIONS[name], "source": _inlined(path)} for name, path in plots.items()},
        profiles=profiles,
        answers=_by_outcome(answers),
        anchors={name: name.lower().replace(" ", "-") for name, there in sections.items() if there},
        origin=origin,
        comparison=comparison,
        provenance=provenance,
        **LIMITS,
    )
    template = _environment().get_template("page.html.j2")
    content = template.render(values, key="")
    return template.render(values, key=hashlib.sha256(content.encode()).hexdigest()) if provenance else content


def provenance_script(page: str, facts: Mapping[str, str]) -> str:
    """JavaScript by which a page shows facts that differ from run to run; it has no effect on any other page.

    Args:
        page: as `render_page` returned it, with `provenance`. facts: texts by name, in their order.
    """
    key = re.search(r'<ul id="provenance" data-page="([0-9a-f]{64})">', page)
    if key is None:
        raise ValueError("this page has no place for its provenance")
    return _environment().get_template("provenance.js.j2").render(made={"page": key[1], "facts": dict(facts)})


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gmmxlnet", "analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "interval": interval, "count": "{:,}".format, "sentence": sentence}
    environment.policies["json.dumps_kwargs"] = {}  # names in their order
    return environment


def _routing_name(name: str) -> str:
    return ROUTINGS.get(name) or name.replace("_", " ")  # "without expert 2", counted from 0 as everywhere


def _inlined(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _by_outcome(answers: Sequence[ShownAnswer]) -> dict[str, list[tuple[ShownAnswer, list[dict[str, Any]]]]]:
    """Right answers, then wrong ones, each with its `_parts`; empty without answers."""
    if not answers:
        return {}
    return {
        name: [(answer, _parts(answer)) for answer in answers if answer.right == right]
        for name, right in (("Right", True), ("Wrong", False))
    }


def _parts(answer: ShownAnswer) -> list[dict[str, Any]]:
    """The segments to show, and how many are hidden wherever some are left out."""
    parts: list[dict[str, Any]] = []
    before = -1
    for s in [*_near_the_answers(answer), len(answer.segments)]:
        if s - before > 1:
            parts.append({"hidden": s - before - 1})
        if s < len(answer.segments):
            segment = answer.segments[s]
            parts.append({"hidden": 0, "segment": segment, "pieces": _pieces(answer, segment)})
        before = s
    return parts


def _near_the_answers(answer: ShownAnswer) -> list[int]:
    """Up to `MOST_SEGMENTS` indices: those that hold an answer, then their neighbors, else the first ones."""
    spans = [span for span in (answer.span, answer.gold_span) if span]
    held = [s.index for s in answer.segments if any(s.start < end and start < s.end for start, end in spans)] or [0]
    ranked = sorted(range(len(answer.segments)), key=lambda s: (min(abs(s - h) for h in held), s))
    return sorted(ranked[:MOST_SEGMENTS])


def _pieces(answer: ShownAnswer, segment: ShownSegment) -> list[dict[str, Any]]:
    """The segment's text, cut where an answer begins or ends: whether it is the answer given, the expected one."""
    cuts = {segment.start, segment.end}
    for span in (answer.span, answer.gold_span):
        cuts |= {min(max(place, segment.start), segment.end) for place in span or ()}

    def within(span: tuple[int, int] | None, left: int, right: int) -> bool:
        return span is not None and span[0] <= left and right <= span[1]

    return [
        {
            "text": answer.text[left:right],
            "given": within(answer.span, left, right),
            "gold": within(answer.gold_span, left, right),
        }
        for left, right in pairwise(sorted(cuts))
    ]

"""Two parts of the page that show the data itself: what each expert is given, and answers in their documents."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from gmmxlnet.analysis.experts import ExpertProfile
from gmmxlnet.analysis.html import number, paragraph
from gmmxlnet.analysis.shown_answers import ShownAnswer, ShownSegment, Span

LONGEST_EXAMPLE = 400  # characters of a segment shown for an expert
NOTABLE = 1.1  # times as frequent as elsewhere: words below are not worth a person's time
MOST_SEGMENTS = 8  # of a document that are shown; those around the answers come first


def expert_cards(profiles: Sequence[ExpertProfile]) -> str:
    """What is routed to each expert: types of question, words, one segment."""
    even = 1 / len(profiles)
    return '<div class="cards">\n' + "".join(_card(profile, even) for profile in profiles) + "</div>\n"


def _card(profile: ExpertProfile, even: float) -> str:
    types = ", ".join(f"{name} {100 * share:.0f}%" for name, share in profile.share_by_type.items())
    words = ", ".join(f"{word} ({ratio:.1f})" for word, ratio in profile.words if ratio >= NOTABLE) or "none stands out"
    example = profile.example[:LONGEST_EXAMPLE] + ("…" if len(profile.example) > LONGEST_EXAMPLE else "")
    return (
        f'<div class="card">\n<h3>Expert {profile.expert}</h3>\n'
        + paragraph(f"{100 * profile.share:.1f}% of the routing (even: {100 * even:.1f}%)")
        + (paragraph(f"By type of question: {types}.") if types else "")
        + paragraph(f"Words: {words}.")
        + paragraph(f"Routed here most clearly ({100 * profile.example_probability:.0f}%):", style="small")
        + f"<blockquote>{escape(example)}</blockquote>\n</div>\n"
    )


def shown_answers(answers: Sequence[ShownAnswer]) -> str:
    """Right answers, then wrong ones, each in its document."""
    parts = []
    for right, heading in ((True, "Right"), (False, "Wrong")):
        shown = [answer for answer in answers if answer.right == right]
        parts.append(f"<h3>{heading}</h3>\n")
        parts.append("".join(_answer(answer) for answer in shown) or paragraph("None."))
    return "".join(parts)


def _answer(answer: ShownAnswer) -> str:
    kind = f'<span class="small"> ({escape(answer.question_type)})</span>' if answer.question_type else ""
    given = f"Answered “{answer.given}”" if answer.given else "No answer given"
    golds = ", ".join(f"“{gold}”" for gold in dict.fromkeys(answer.golds)) or "no answer"
    found = f", found in segment {answer.segment + 1} of {len(answer.segments)}" if answer.segment is not None else ""
    verdict = "right" if answer.right else f"wrong; expected {golds}"
    return (
        f'<div class="answer">\n<p class="question">{escape(answer.question)}{kind}</p>\n'
        + paragraph(f"{given}{found}: {verdict}. Null odds {number(answer.null_odds, 2)}.")
        + "".join(_segments(answer))
        + "</div>\n"
    )


def _segments(answer: ShownAnswer) -> list[str]:
    """The segments to show, and a line wherever some are left out."""
    shown = _near_the_answers(answer)
    parts, before = [], -1
    for s in shown:
        if s - before > 1:
            parts.append(paragraph(f"… {s - before - 1} segments not shown …", style="small"))
        parts.append(_segment(answer, answer.segments[s]))
        before = s
    if before < len(answer.segments) - 1:
        parts.append(paragraph(f"… {len(answer.segments) - 1 - before} segments not shown …", style="small"))
    return parts


def _near_the_answers(answer: ShownAnswer) -> list[int]:
    """Up to `MOST_SEGMENTS` indices: those that hold an answer, then their neighbors, else the first ones."""
    spans = [span for span in (answer.span, answer.gold_span) if span]
    held = [s.index for s in answer.segments if any(s.start < end and start < s.end for start, end in spans)] or [0]
    ranked = sorted(range(len(answer.segments)), key=lambda s: (min(abs(s - h) for h in held), s))
    return sorted(ranked[:MOST_SEGMENTS])


def _segment(answer: ShownAnswer, segment: ShownSegment) -> str:
    """Number and routing of a segment, and its text with the answers marked."""
    head = f"segment {segment.index + 1}"
    bars = ""
    if segment.routing is not None:
        bars = "".join(
            f'<span class="bar" title="expert {j}: {p:.2f}"><span style="width:{100 * p:.0f}%"></span>'
            f"<i>{j}: {p:.2f}</i></span>"
            for j, p in enumerate(segment.routing)
        )
    text = _marked(answer.text, segment.start, segment.end, answer.span, answer.gold_span)
    return f'<div class="segment"><div class="head">{head}{bars}</div><p>{text}</p></div>\n'


def _marked(text: str, start: int, end: int, given: Span | None, gold: Span | None) -> str:
    """Characters [start, end) with the answer given in <mark> and the expected one in <u>; where both, in both."""
    cuts = {start, end}
    for span in (given, gold):
        cuts |= {min(max(place, start), end) for place in span or ()}
    edges, parts = sorted(cuts), []
    for left, right in pairwise(edges):
        piece = escape(text[left:right])
        if gold and gold[0] <= left and right <= gold[1]:
            piece = f"<u>{piece}</u>"
        if given and given[0] <= left and right <= given[1]:
            piece = f"<mark>{piece}</mark>"
        parts.append(piece)
    return "".join(parts)

"""`reports/index.html`: one page that opens from disk, with the result, what it is worth, and where the memory matters.

Plain HTML from string templates; pictures are inlined. Every text from data is escaped.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from gmmxlnet.analysis.experts import ExpertProfile
from gmmxlnet.analysis.html import folded, interval, number, paragraph, picture, table
from gmmxlnet.analysis.page_details import expert_cards, shown_answers
from gmmxlnet.analysis.shown_answers import ShownAnswer

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2a41; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #c5cbd5; padding-bottom: .3rem; }
.wide { overflow-x: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figure { border: 1px solid #c5cbd5; border-radius: .4rem; padding: .8rem 1.2rem; min-width: 9rem; }
.figure b { display: block; font-size: 1.9rem; line-height: 1.2; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e3e6eb; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #1b2a41; }
.small { color: #56607a; font-size: .9rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
nav { font-size: .9rem; margin-bottom: 1rem; }
a { color: #1f4e9e; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; align-items: end; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(25rem, 1fr)); gap: 1rem; }
.card, .answer { border: 1px solid #c5cbd5; border-radius: .4rem; padding: .2rem 1.2rem .8rem; }
.card p { margin: .4rem 0; }
.answer { margin: 1rem 0; }
.question { font-weight: 600; margin-bottom: .2rem; }
blockquote { margin: .4rem 0; padding-left: .8rem; border-left: 3px solid #c5cbd5; font-size: .9rem; }
.segment { border-top: 1px solid #e3e6eb; padding-top: .4rem; }
.segment p { margin: .2rem 0 .6rem; }
.head { font-size: .8rem; color: #56607a; display: flex; flex-wrap: wrap; gap: .2rem .8rem; align-items: center; }
.bar { position: relative; width: 5rem; height: 1.1rem; border: 1px solid #8d99ae; overflow: hidden; }
.bar span { position: absolute; inset: 0 auto 0 0; background: #c3cede; }
.bar i { position: relative; font-style: normal; color: #1b2a41; padding-left: .3rem; line-height: 1.1rem; }
mark { background: #ffe08a; color: inherit; font-weight: 700; padding: 0 .1rem; }
u { text-decoration: underline dashed 2px; text-underline-offset: .2rem; }
@media print { .answer, .card, img { break-inside: avoid; } }
</style>
</head>
<body>
<h1>$title</h1>
$about<nav>$links</nav>
$body
</body>
</html>
""")
PLOTS = {  # by name, what each shows
    "memory_ablation": "Exact match with and without memory",
    "segments": "Scores by number of segments",
    "training": "Loss, use of the experts and learning rate over the steps",
    "utilization": "Use of the experts",
    "question_types": "Use of the experts by type of question",
    "heatmap": "Routing probabilities segment by segment",
    "entropy": "Routing entropy segment by segment",
    "similarity": "Similarity of the experts",
}
USED = "The memory is used: with another document's in its place the same model answers fewer questions."
NOT_SHOWN = "No use of the memory is shown: another document's in its place makes no difference beyond chance."
MOST_ROWS = 12  # of a table that is not folded
WORDS_EXPLAINED = (
    "A segment counts for an expert with its routing probability. Words: those most surely more frequent in what is "
    "routed to the expert; 2.0 means twice as frequent as in all segments. Where none stands out, and shares are even, "
    "the experts have not divided the work."
)
TYPES_EXPLAINED = (  # of the sample; other datasets name none
    "cross: which answer is right is said in an earlier segment than the one with the answer; local: one segment is "
    "enough; unanswerable: the document does not say."
)
ANSWERS_EXPLAINED = (
    '<p class="small">The answer given is <mark>marked</mark>, the expected one is <u>underlined</u>. Beside each '
    "segment, where the model routes: the probability with which it is written to each expert. What a segment shares "
    "with the one before is shown there only.</p>\n"
)
ABLATIONS = {
    "normal": "normal: memory as trained",
    "zeroed": "zeroed: an empty memory",
    "shuffled": "shuffled: another document's",
    "reset": "reset: begun anew at each segment",
}


def _result(metrics: Mapping[str, Any]) -> str:
    floor, limits = metrics["always_no_answer"], metrics["intervals"]
    figures = [
        (f"exact match ({interval(limits['exact_match'])})", metrics["exact_match"]),
        (f"F1 ({interval(limits['f1'])})", metrics["f1"]),
        ("floor: always “no answer”", floor["exact_match"]),
    ]
    boxes = "".join(f'<div class="figure"><b>{number(value)}%</b>{escape(name)}</div>\n' for name, value in figures)
    told = metrics["null_score_diff_threshold_choice"]
    split = f" (chosen on the {told['split']} split, {told['questions']} questions)" if "split" in told else ""
    rows = [
        ["exact match (%)", *(number(metrics[name]) for name in ("exact_match", "HasAns_exact", "NoAns_exact"))],
        ["F1 (%)", *(number(metrics[name]) for name in ("f1", "HasAns_f1", "NoAns_f1"))],
        ["questions", *(f"{metrics[name]:,}" for name in ("total", "HasAns_total", "NoAns_total"))],
    ]
    return (
        f'<div class="figures">\n{boxes}</div>\n'
        + table(["", "all", "answerable", "unanswerable"], rows)
        + paragraph(
            f"In brackets: 95% intervals, from resampling the {limits['contexts']:,} contexts; they do not cover other "
            "seeds. A question is left unanswered when its "
            f"null odds exceed {number(metrics['null_score_diff_threshold'], 2)}{split}.",
            style="small",
        )
    )


def _group_table(name: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    header = [name, "questions", "exact match (%)", "95% interval", "F1 (%)", "95% interval"]
    return table(
        header,
        [
            [
                label,
                f"{group['total']:,}",
                number(group["exact_match"]),
                interval(group["exact_match_interval"]),
                number(group["f1"]),
                interval(group["f1_interval"]),
            ]
            for label, group in groups.items()
        ],
    )


def _ablations(metrics: Mapping[str, Any]) -> str:
    rows_by_name, types = metrics["memory_ablation"], list(metrics["by_question_type"])
    header = ["the same model", "EM (%)", "95% interval", "lost", "F1 (%)", *(f"{kind} EM" for kind in types)]
    rows = [
        [
            ABLATIONS[name],
            number(row["exact_match"]),
            interval(row["exact_match_interval"]),
            interval(row.get("exact_match_loss_interval")),
            number(row["f1"]),
            *(
                number(row["by_question_type"][kind]["exact_match"] if row["by_question_type"] else None)
                for kind in types
            ),
        ]
        for name, row in rows_by_name.items()
    ]
    note = metrics.get("memory_ablation_note")
    lost = rows_by_name["shuffled"].get("exact_match_loss_interval")
    verdict = "" if note or not lost else paragraph(USED if lost[0] > 0 else NOT_SHOWN)
    explained = "Lost: 95% interval of the points of exact match that go with the memory; above 0, the memory was used."
    return (
        verdict
        + f'<div class="wide">{table(header, rows)}</div>\n'
        + paragraph(explained, style="small")
        + (paragraph(note.capitalize() + ".") if note else "")
    )


def _routing(routing: Mapping[str, Any]) -> str:
    if routing["note"]:
        return paragraph(routing["note"].capitalize() + ".")
    experts = range(len(routing["expert_utilization"]))
    rows = [
        [
            f"expert {j}",
            number(100 * routing["expert_utilization"][j]),
            number(100 * routing["top_expert_share"][j]),
        ]
        for j in experts
    ]
    text = (
        paragraph(f"Pattern: {routing['pattern']}. {routing['pattern_advice']}")
        + paragraph(
            f"Seen over {routing['total_segments']:,} segments: {routing['pattern_observation']}.", style="small"
        )
        + table(["", "share (%)", "is top (%)"], rows)
    )
    known = routing["condition_information"]
    if known:
        text += paragraph(
            f"The top expert tells {known['bits']:.3f} of {known['label_bits']:.2f} bits about what the dataset calls "
            f"the document's condition; by chance it would seem to tell {known['chance_bits']:.3f} (95% of the time "
            f"less than {known['chance_bits_95']:.3f}; p = {known['p_value']:.3f})."
        )
    return text


def _by_segments(metrics: Mapping[str, Any]) -> str:
    groups = metrics["by_segments"]
    text = _group_table("segments", groups)
    return text if len(groups) <= MOST_ROWS else folded(f"Table of {len(groups)} lengths", text)


def render_page(
    title: str,
    about: str,
    metrics: Mapping[str, Any],
    routing: Mapping[str, Any],
    plots: Mapping[str, Path],
    profiles: Sequence[ExpertProfile] = (),
    answers: Sequence[ShownAnswer] = (),
) -> str:
    """The page's HTML.

    Args:
        about: what was trained, in a sentence or two.
        metrics: the contents of `reports/metrics.json`, ablations included. routing: of `reports/routing.json`.
        plots: PNG files by name (`PLOTS` says which there may be); each has its place on the page.
        profiles: of the experts, for models that have some. answers: to show in their documents.
    """

    def shown(*names: str) -> str:
        return "".join(picture(plots[name], PLOTS[name]) for name in names if name in plots)

    sections = {"Result": _result(metrics), "What the memory is worth": _ablations(metrics) + shown("memory_ablation")}
    if metrics["by_question_type"]:
        explained = paragraph(TYPES_EXPLAINED, style="small") if "cross" in metrics["by_question_type"] else ""
        sections["By type of question"] = _group_table("type", metrics["by_question_type"]) + explained
    sections["By number of segments"] = shown("segments") + _by_segments(metrics)
    sections["Training"] = shown("training")
    pair = f'<div class="pair">{shown("utilization", "similarity")}</div>\n' if "utilization" in plots else ""
    sections["Routing"] = _routing(routing) + pair + shown("question_types", "heatmap", "entropy")
    if profiles:
        sections["What each expert is given"] = paragraph(WORDS_EXPLAINED, style="small") + expert_cards(profiles)
    if answers:
        sections["Answers in their documents"] = ANSWERS_EXPLAINED + shown_answers(answers)
    anchors = {name: name.lower().replace(" ", "-") for name in sections}
    links = " · ".join(f'<a href="#{anchor}">{escape(name)}</a>' for name, anchor in anchors.items())
    body = "".join(f'<h2 id="{anchors[name]}">{escape(name)}</h2>\n{text}' for name, text in sections.items())
    about = about[:1].upper() + about[1:]
    return PAGE.substitute(title=escape(title), about=paragraph(about), links=links, body=body)

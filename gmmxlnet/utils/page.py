"""`reports/index.html`: one page that opens from disk, with the result, what it is worth, and where the memory matters.

Plain HTML from string templates; pictures are inlined. Every text from data is escaped. Rounding happens here only.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

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
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figure { border: 1px solid #c5cbd5; border-radius: .4rem; padding: .8rem 1.2rem; min-width: 9rem; }
.figure b { display: block; font-size: 1.9rem; line-height: 1.2; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #e3e6eb; }
td { font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #1b2a41; }
.small { color: #56607a; font-size: .9rem; }
img { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")
NONE = "\N{EN DASH}"  # where there is no figure
ABLATIONS = {
    "normal": "memory as trained",
    "zeroed": "memory zeroed",
    "shuffled": "memory of another document",
    "reset": "memory reset at every segment",
}


def number(value: float | None, digits: int = 1) -> str:
    """A rounded figure; a dash where there is none."""
    return NONE if value is None else f"{value:.{digits}f}"


def interval(limits: Sequence[float] | None) -> str:
    """[low, high] as the page shows it."""
    return NONE if limits is None else f"{limits[0]:.1f} to {limits[1]:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; all cells are escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def paragraph(text: str, style: str = "plain") -> str:
    """A paragraph of escaped text; `style` is a class of the page's style sheet."""
    return f'<p class="{style}">{escape(text)}</p>\n'


def picture(path: Path, description: str) -> str:
    """A PNG as part of the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">\n'


def _result(metrics: Mapping[str, Any]) -> str:
    floor, limits = metrics["always_no_answer"], metrics["intervals"]
    figures = [("exact match", metrics["exact_match"]), ("F1", metrics["f1"])]
    figures.append(("floor: always “no answer”", floor["exact_match"]))
    boxes = "".join(f'<div class="figure"><b>{number(value)}</b>{escape(name)}</div>\n' for name, value in figures)
    told = metrics["null_score_diff_threshold_choice"]
    split = f" (chosen on the {told['split']} split, {told['questions']} questions)" if "split" in told else ""
    rows = [
        ["exact match", *(number(metrics[name]) for name in ("exact_match", "HasAns_exact", "NoAns_exact"))],
        ["F1", *(number(metrics[name]) for name in ("f1", "HasAns_f1", "NoAns_f1"))],
        ["questions", *(f"{metrics[name]:,}" for name in ("total", "HasAns_total", "NoAns_total"))],
    ]
    return (
        f'<h2>Result</h2>\n<div class="figures">\n{boxes}</div>\n'
        + table(["percent", "all", "answerable", "unanswerable"], rows)
        + paragraph(
            f"95% intervals, from resampling the {limits['contexts']:,} contexts: exact match "
            f"{interval(limits['exact_match'])}, F1 {interval(limits['f1'])}. A question is left unanswered when its "
            f"null odds exceed {number(metrics['null_score_diff_threshold'], 2)}{split}.",
            style="small",
        )
    )


def _group_table(name: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    header = [name, "questions", "exact match", "95% interval", "F1", "95% interval"]
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
    header = ["the same model, with", "exact match", "95% interval", "lost", "F1", *(f"{kind}: EM" for kind in types)]
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
    explained = "Lost: 95% interval of the points of exact match that go with the memory; above 0, the memory was used."
    return (
        "<h2>What the memory is worth</h2>\n"
        + table(header, rows)
        + paragraph(explained, style="small")
        + (paragraph(note.capitalize() + ".") if note else "")
    )


def _routing(routing: Mapping[str, Any]) -> str:
    if routing["note"]:
        return "<h2>Routing</h2>\n" + paragraph(routing["note"].capitalize() + ".")
    experts = range(len(routing["expert_utilization"]))
    rows = [
        [
            f"expert {j}",
            number(100 * routing["expert_utilization"][j]),
            number(100 * routing["top_expert_share"][j]),
            *(number(routing["expert_diversity"][j][other], 2) for other in experts),
        ]
        for j in experts
    ]
    text = (
        "<h2>Routing</h2>\n"
        + paragraph(f"Pattern: {routing['pattern']}. {routing['pattern_advice']}")
        + paragraph(
            f"Seen over {routing['total_segments']:,} segments: {routing['pattern_observation']}.", style="small"
        )
        + table(["", "share (%)", "is top (%)", *(f"similarity to {j}" for j in experts)], rows)
    )
    known = routing["condition_information"]
    if known:
        text += paragraph(
            f"The top expert tells {known['bits']:.3f} of {known['label_bits']:.2f} bits about the document's "
            f"condition; by chance it would seem to tell {known['chance_bits']:.3f} (95% of the time less than "
            f"{known['chance_bits_95']:.3f}; p = {known['p_value']:.3f})."
        )
    return text


def render_page(title: str, metrics: Mapping[str, Any], routing: Mapping[str, Any], plots: Mapping[str, Path]) -> str:
    """The page's HTML.

    Args:
        metrics: the contents of `reports/metrics.json`, ablations included. routing: of `reports/routing.json`.
        plots: PNG files by description, shown in this order.
    """
    parts = [_result(metrics), _ablations(metrics)]
    if metrics["by_question_type"]:
        parts.append("<h2>By type of question</h2>\n" + _group_table("type", metrics["by_question_type"]))
    parts.append("<h2>By number of segments</h2>\n" + _group_table("segments", metrics["by_segments"]))
    parts.append(_routing(routing))
    parts += [picture(path, description) for description, path in plots.items()]
    return PAGE.substitute(title=escape(title), body="".join(parts))

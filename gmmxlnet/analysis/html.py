"""Pieces of HTML: figures, tables, paragraphs, pictures. Every text is escaped; rounding happens here only."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

NONE = "\N{EN DASH}"  # where there is no figure


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


def folded(summary: str, content: str) -> str:
    """Content that opens when its summary is clicked."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{content}</details>\n"

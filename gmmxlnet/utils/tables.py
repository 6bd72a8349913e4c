"""Writes tables as Markdown for reports and CSV for spreadsheets. Callers round the numbers."""

import re
from pathlib import Path

import pandas as pd

from gmmxlnet.messages import printable
from gmmxlnet.utils.files import atomic_file

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets evaluate text with these prefixes


def markdown_table(table: pd.DataFrame) -> str:
    """Formats text cells as a Markdown table; the first column is left-aligned, the others right-aligned."""
    escaped = table.map(_escape).rename(columns=_escape)
    alignment = ["left", *["right"] * (table.shape[1] - 1)]
    return escaped.to_markdown(index=False, disable_numparse=True, colalign=alignment)


def csv_text(table: pd.DataFrame, line_terminator: str = "\n") -> str:
    """Formats a table as CSV: floats with six significant digits, missing values empty, text safe for spreadsheets.

    Text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe, also in the header.
    """
    safe = table.map(_plain).rename(columns=_plain)
    return safe.to_csv(index=False, lineterminator=line_terminator)


def write_csv(path: str | Path, table: pd.DataFrame, line_terminator: str = "\n") -> None:
    """Writes `csv_text` atomically."""
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        stream.write(csv_text(table, line_terminator))


def _escape(cell: object) -> str:
    return re.sub(r"(?<!\\)\|", r"\|", printable(str(cell)))


def _plain(cell: object) -> object:
    if isinstance(cell, str):
        safe = f"'{cell}" if cell.startswith(FORMULA) else cell
        return safe.replace("\r", " ")  # the writer does not quote it, and readers treat it as a line break
    if isinstance(cell, float):
        return "" if pd.isna(cell) else f"{cell:.6g}" if not cell.is_integer() else f"{cell:.0f}"
    return cell

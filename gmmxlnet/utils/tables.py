"""Tables of people: Markdown for reports, CSV for spreadsheets. Numbers are rounded by whoever fills the table."""

from pathlib import Path

import pandas as pd

from gmmxlnet.utils.files import atomic_file

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates text that begins so


def markdown_table(table: pd.DataFrame) -> str:
    """A Markdown table of text cells, the first column aligned to the left and the others to the right."""
    escaped = table.map(_escape).rename(columns=_escape)
    alignment = ["left", *["right"] * (table.shape[1] - 1)]
    return escaped.to_markdown(index=False, disable_numparse=True, colalign=alignment)


def csv_text(table: pd.DataFrame, line_terminator: str = "\n") -> str:
    """A CSV file's text: floats to six significant digits, missing values empty, text safe for spreadsheets.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, also in the header.
    """
    safe = table.map(_plain).rename(columns=_plain)
    return safe.to_csv(index=False, lineterminator=line_terminator)


def write_csv(path: str | Path, table: pd.DataFrame, line_terminator: str = "\n") -> None:
    """Write `csv_text`, complete or absent."""
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        stream.write(csv_text(table, line_terminator))


def _escape(cell: object) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def _plain(cell: object) -> object:
    if isinstance(cell, str):
        safe = f"'{cell}" if cell.startswith(FORMULA) else cell
        return safe.replace("\r", " ")  # the writer does not quote it, and readers end the line there
    if isinstance(cell, float):
        return "" if pd.isna(cell) else f"{cell:.6g}" if not cell.is_integer() else f"{cell:.0f}"
    return cell

"""Tables as Markdown and CSV: cells stay what they were, and text from data cannot become a formula or a column."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.utils.tables import csv_text, markdown_table, write_csv


def read(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_markdown_keeps_text_and_alignment():
    table = pd.DataFrame({"name": ["a|b", "c\nd"], "value": ["1.50", "-0.0"]})
    header, line, first, second = markdown_table(table).splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["name", "value"]
    assert line.replace("-", "") == "|:|:|"
    assert first.split() == ["|", "a\\|b", "|", "1.50", "|"]
    assert second.split() == ["|", "c", "d", "|", "-0.0", "|"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_evaluate_is_quoted(text):
    header, row = read(csv_text(pd.DataFrame({text: [text], "number": [-1.5]})))
    quoted = f"'{text}".replace("\r", " ")
    assert header == [quoted, "number"]
    assert row == [quoted, "-1.5"]


def test_numbers_have_six_significant_digits_and_missing_ones_are_empty():
    table = pd.DataFrame({"x": [1 / 3, 100.0, 1234567.0, np.nan, 1e-9], "n": range(5)})
    assert [row[0] for row in read(csv_text(table))] == ["x", "0.333333", "100", "1234567", "", "1e-09"]
    assert [row[1] for row in read(csv_text(table))] == ["n", "0", "1", "2", "3", "4"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")))
def test_text_comes_back_as_it_was(text):
    _, row = read(csv_text(pd.DataFrame({"text": [text], "name": ["x"]})))
    assert row == [f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text, "x"]


def test_the_file_is_the_text(tmp_path):
    table = pd.DataFrame({"name": ["é"], "x": [0.5]})
    write_csv(tmp_path / "t.csv", table, line_terminator="\r\n")
    assert (tmp_path / "t.csv").read_bytes() == "name,x\r\né,0.5\r\n".encode()

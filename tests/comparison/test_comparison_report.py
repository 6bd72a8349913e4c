"""The comparison's files: every variant and seed has its row, missing values are said to be missing."""

import csv
import re

import pytest

from gmmxlnet.analysis.plots import save_figure
from gmmxlnet.comparison import plot_comparison, render_report, write_csv


@pytest.fixture
def results(make_result):
    return [
        make_result("none", 13, normal=(70.0, 25.0)),
        make_result("gmm-k4-write", 13, normal=(97.0, 95.0), zeroed=(71.0, 0.0), shares=[0.3, 0.2, 0.3, 0.2]),
        make_result("gmm-k4-write", 14, normal=(99.0, 99.0), parameters=1000, tokens_per_second=12345.6),
    ]  # fmt: skip


def plain(text):
    """The report without the padding of its tables."""
    return re.sub(r" {2,}(?=\S)|(?<=\S) {2,}", " ", text)


def rows(text, first):
    return [line for line in plain(text).splitlines() if line.startswith(f"| {first} |")]


def test_a_row_a_variant_and_seed_and_one_of_means(results):
    text = render_report("Title", results, {"profile": "sample"}, {}, "plot.png")
    scores, ablation, cost = (
        rows(text, "gmm-k4-write | 13")[0],
        rows(text, "**gmm-k4-write**")[1],
        rows(text, "none")[-1],
    )
    assert scores.startswith("| gmm-k4-write | 13 | 97.0 (95.0 to 99.0) | 97.0 (95.0 to 99.0) | 95.0 (93.0 to 97.0)")
    assert scores.endswith("| 28.6 |")
    assert ablation == "| **gmm-k4-write** | mean of 2 | 97.0 | 49.5 | 49.5 | 49.5 | 13.0 |"
    assert cost == "| none | 13 | n/a | n/a | n/a | n/a | n/a | n/a |"
    assert len(rows(text, "gmm-k4-write | 13")) == 4  # scores, ablation, routing, cost
    assert len(rows(text, "gmm-k4-write | 14")) == 3  # it routes nothing here
    assert "![Exact match by variant, with and without memory](plot.png)" in text


def test_a_model_without_memory_has_none_taken_away(results):
    text = plain(render_report("Title", results, {}, {}, "plot.png"))
    assert "| none | 13 | 25.0 (23.0 to 27.0) | n/a | n/a | n/a | n/a |" in text


def test_what_is_missing_is_named(results):
    text = render_report("Title", results, {}, {"token-s13": "failed: out of memory"}, "plot.png")
    assert "* `token-s13`: failed: out of memory" in text
    nothing = render_report("Title", [], {}, {"token-s13": "not run"}, "plot.png")
    assert nothing.endswith("Nothing is finished yet.\n")


def test_a_set_without_types_is_compared_over_all_questions(make_result):
    results = [make_result("none", typed=False), make_result("token", typed=False, zeroed=(60.0, 60.0))]
    text = plain(render_report("Title", results, {}, {}, "plot.png"))
    assert "| variant | seed | all EM | all F1 | floor EM |" in text
    assert "| variant | seed | all EM, normal |" in text
    plot_comparison(results)


def test_the_csv_has_every_number_under_the_same_names(results, tmp_path):
    write_csv(tmp_path / "c.csv", results)
    with (tmp_path / "c.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [(row["variant"], row["seed"]) for row in table] == [(r.variant, str(r.seed)) for r in results]
    assert table[1]["cross_exact_match_memory_zeroed"] == "0"
    assert (table[1]["cross_exact_match_low"], table[1]["utilization_min"]) == ("93", "0.2")
    assert (table[2]["tokens_per_second"], table[2]["utilization_min"]) == ("12345.6", "")
    assert not any(None in row or None in row.values() for row in table)


def test_an_interval_that_cannot_be_had_is_left_out(make_result):
    result = make_result("token")
    result.metrics["memory_ablation"]["normal"]["exact_match_interval"] = None
    text = plain(render_report("Title", [result], {}, {}, "plot.png"))
    assert "| token | 13 | 90.0 | 90.0 (88.0 to 92.0) |" in text
    plot_comparison([result])


def test_the_plot_shows_every_variant_and_is_the_same_file_each_time(results, tmp_path):
    figure = plot_comparison(results)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["none", "gmm-k4-write"]
    assert "%" in left.get_xlabel()
    assert len(left.containers) == 3
    assert len(right.containers) == 1 + 4 + 4
    for name in ("a.png", "b.png"):
        save_figure(plot_comparison(results), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

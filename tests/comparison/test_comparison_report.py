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
        make_result("gmm-k4-write", 13, normal=(97.0, 95.0), zeroed=(71.0, 0.0), shares=[0.3, 0.12, 0.38, 0.2]),
        make_result("gmm-k4-write", 14, normal=(99.0, 99.0), parameters=1000, tokens_per_second=12345.6),
    ]  # fmt: skip


def plain(text):
    """The report without the padding of its tables."""
    return re.sub(r" {2,}(?=\S)|(?<=\S) {2,}", " ", text)


def rows(text, first):
    return [line for line in plain(text).splitlines() if line.startswith(f"| {first} |")]


def test_a_row_a_variant_and_seed_and_one_of_means(results):
    """Whole rows: exact match and F1 of all, cross and local, the floor; each ablation and the loss; routing; cost."""
    text = render_report("Title", results, {"profile": "sample"}, {}, "plot.png")
    scores, ablation, routing, cost = rows(text, "gmm-k4-write | 13")
    assert scores == (
        "| gmm-k4-write | 13 | 97.0 (95.0 to 98.0) | 97.8 (96.8 to 99.8) | 95.0 (93.0 to 96.0) | 95.8 (94.8 to 97.8) "
        "| 99.0 (97.0 to 100.0) | 99.8 (98.8 to 100.0) | 28.6 |"
    )
    assert ablation == (
        "| gmm-k4-write | 13 | 95.0 (93.0 to 96.0) | 0.0 (0.0 to 1.0) | 1.2 (0.0 to 2.2) | 0.5 (0.0 to 1.5) "
        "| 26.0 (25.0 to 28.0) |"
    )
    assert routing == "| gmm-k4-write | 13 | 12.0 | 38.0 | 0.90 | 0.200 | 0.100 (0.150) | 0.500 |"
    assert cost == "| gmm-k4-write | 13 | n/a | n/a | n/a | n/a | n/a | n/a |"
    assert rows(text, "gmm-k4-write | 14")[2] == "| gmm-k4-write | 14 | 1,000 | 12,346 | n/a | n/a | n/a | n/a |"
    means = rows(text, "**gmm-k4-write**")
    assert means[1] == "| **gmm-k4-write** | mean of 2 | 97.0 | 49.5 | 50.1 | 49.8 | 13.0 |"
    assert means[2] == "| **gmm-k4-write** | mean of 2 | n/a | n/a | n/a | n/a | n/a | n/a |"
    assert len(means) == 3
    assert "![Exact match by variant, with and without memory](plot.png)" in text


def test_costs_are_averaged_where_all_are_known(make_result):
    costs = {"parameters": 1000, "tokens_per_second": 20.0, "training_seconds": 300.0, "peak_memory_mib": 40.0}
    results = [
        make_result("token", 13, **costs, peak_gpu_memory_mib=50.0, threads="2", device="CPU"),
        make_result("token", 14, **{name: 3 * cost for name, cost in costs.items()}),
    ]
    text = render_report("Title", results, {}, {}, "plot.png")
    assert rows(text, "token | 13")[-1] == "| token | 13 | 1,000 | 20 | 300 | 40 | 50 | 2 | CPU |"
    assert rows(text, "**token**")[-1] == "| **token** | mean of 2 | 2,000 | 40 | 600 | 80 | n/a | n/a | n/a |"


def test_a_model_without_memory_has_none_taken_away(results):
    text = plain(render_report("Title", results, {}, {}, "plot.png"))
    assert "| none | 13 | 25.0 (23.0 to 26.0) | n/a | n/a | n/a | n/a |" in text


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
    assert (table[1]["cross_exact_match_low"], table[1]["utilization_min"]) == ("93", "0.12")
    told = ("condition_bits", "condition_bits_by_chance", "condition_bits_by_chance_95", "condition_p_value")
    assert [table[1][name] for name in told] == ["0.2", "0.1", "0.15", "0.5"]
    assert (table[2]["tokens_per_second"], table[2]["utilization_min"]) == ("12345.6", "")
    assert not any(None in row or None in row.values() for row in table)


def test_an_interval_that_cannot_be_had_is_left_out(make_result):
    result = make_result("token")
    result.metrics["memory_ablation"]["normal"]["exact_match_interval"] = None
    text = plain(render_report("Title", [result], {}, {}, "plot.png"))
    assert "| token | 13 | 90.0 | 90.8 (89.8 to 92.8) |" in text
    plot_comparison([result])


def drawn(axes):
    """Of each mark with an error bar: its marker, its place and the ends of its bar."""
    found = []
    for line, _, (bar,) in axes.containers:
        ((low, high),) = [segment[:, 0] for segment in bar.get_segments()]
        found.append((line.get_marker(), line.get_xdata()[0], low, high))
    return found


def test_the_plot_draws_every_variant_seed_and_ablation(results):
    left, right = plot_comparison(results).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["none", "gmm-k4-write"]
    assert "%" in left.get_xlabel()
    assert drawn(left) == [("o", 70, 68, 71), ("o", 97, 95, 98), ("o", 99, 97, 100)]
    normal, zeroed, shuffled, reset = ("o", 95, 93, 96), ("v", 0, 0, 1), ("s", 1.25, 0, 2.25), ("D", 0.5, 0, 1.5)
    assert drawn(right)[:5] == [("o", 25, 23, 26), normal, zeroed, shuffled, reset]
    assert drawn(right)[5:] == [(marker, 99, 97, 100) for marker in "ovsD"]
    legend = {text.get_text(): line.get_marker() for text, line in zip(*legend_of(left.figure), strict=True)}
    assert {name: legend[name] for name in ("normal", "zeroed", "shuffled", "reset")} == {
        "normal": "o", "zeroed": "v", "shuffled": "s", "reset": "D"
    }  # fmt: skip


def legend_of(figure):
    (legend,) = figure.legends
    return legend.get_texts(), legend.legend_handles


def test_the_plot_is_the_same_file_each_time(results, tmp_path):
    for name in ("a.png", "b.png"):
        save_figure(plot_comparison(results), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

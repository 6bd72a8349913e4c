"""The page on capacity: who solves which load, the differences fixed beforehand, and what even routing costs."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from gmmxlnet.comparison import Result
from gmmxlnet.comparison.capacity import (
    Variant,
    above,
    plot_capacity,
    render_capacity,
    score_of,
    write_csv,
)

VARIANTS = tuple(
    Variant(name=name, words=f"words of {name}", overrides=())
    for name in ("none", "token", "token-wide", "token-slow", "gmm-write", "gmm-read", "gmm-uniform")
)


def row(value, total=100, width=3.0):
    return {"exact_match": value, "exact_match_interval": [value - width, value + width], "total": total}


@pytest.fixture
def make_cell():
    """A function to a result with `cross` and `early` EM, under an empty memory and under even routing."""

    def make(variant, seed, cross, *, zeroed=24.0, uniform=None, load=2):
        cost = {"parameters": 4567, "training_seconds": 300.0 + seed}

        def types(value, early):
            name = f"load{load}_lag1"
            return {"by_question_type": {f"cross_{name}": row(value), f"early_{name}": row(early), "local": row(99.0)}}

        metrics = {
            "memory_ablation": {
                "normal": types(cross, 88.0),
                "zeroed": types(zeroed, 21.0),
                "shuffled": types(zeroed + 1.5, 22.0),
            },
            "routing_ablation": None
            if uniform is None
            else {"uniform": types(uniform, 33.0), "shuffled": types(uniform + 1.0, 34.0)},
        }
        return Result(variant=variant, seed=seed, metrics=metrics, routing={}, cost=cost)

    return make


@pytest.fixture
def cells(make_cell):
    return {
        (2, "none"): [make_cell("none", 13, 25.0)],
        (2, "token"): [make_cell("token", 13, 97.0), make_cell("token", 14, 61.0)],
        (2, "token-wide"): [make_cell("token-wide", 13, 70.0), make_cell("token-wide", 14, 72.0)],
        (2, "gmm-write"): [
            make_cell("gmm-write", 13, 90.0, uniform=88.0),
            make_cell("gmm-write", 14, 92.0, uniform=90.5),
        ],
        (4, "gmm-write"): [make_cell("gmm-write", 13, 80.0, uniform=40.0, load=4)],
        (4, "gmm-uniform"): [make_cell("gmm-uniform", 13, 35.0, uniform=35.0, load=4)],
    }


def test_words_follow_from_the_numbers(cells):
    page = render_capacity(
        cells, VARIANTS, {2: {"budget": "9 steps"}, 4: {"budget": "9 steps"}}, ["capacity-load4-token-s13"], "plot.png"
    )
    assert "**Not finished, hence not in here:** `capacity-load4-token-s13`." in page
    assert "Load 2: solved by `token` (1 of 2 seeds)." in page
    assert "Load 4: solved by none; best `gmm-write`, 80.0." in page
    wide = "write-based mixture less one memory with as many slots in all"
    assert f"Load 2, {wide}: +20.0 points of EM (intervals of all seeds apart; 2 and 2 seeds)." in page
    assert "Load 4, learned routing less routing that is always even: +45.0 points of EM" in page
    assert (
        "Load 2, `gmm-write` with even routing instead of its own: -1.8 points, with another document's -0.8 "
        "(2 seeds); **the experts do not divide the work**." in page
    )
    assert (
        "Load 4, `gmm-write` with even routing instead of its own: -40.0 points, with another document's -39.0 "
        "(1 seed); the experts divide the work." in page
    )
    assert "`gmm-uniform` with even routing" not in page
    assert "read-based mixture" not in page  # was not run
    assert "![Exact match by load, and what even routing costs](plot.png)" in page
    assert "* budget: 9 steps" in page
    line = next(line for line in page.splitlines() if line.startswith("| token "))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("token", "13: 97.0, 14: 61.0", "79.0", "24.0", "n/a", "n/a", "88.0", "99.0", "1 of 2", "4567", "313"),
    ]


def test_nothing_is_not_said_as_less_than_nothing(make_cell):
    cells = {(2, "gmm-write"): [make_cell("gmm-write", 13, 60.0, uniform=60.04)]}
    page = render_capacity(cells, VARIANTS, {}, [], "plot.png")
    assert "with even routing instead of its own: +0.0 points" in page
    cells = {(2, "gmm-write"): [make_cell("gmm-write", 13, 60.0, uniform=59.96)]}
    assert "-0.0 points" not in render_capacity(cells, VARIANTS, {}, [], "plot.png")


def test_a_setting_that_differs_by_load_is_said_for_each(cells):
    settings = {2: {"budget": "9 steps", "questions": "8"}, 4: {"budget": "9 steps", "questions": "16"}}
    page = render_capacity(cells, VARIANTS, settings, [], "plot.png")
    assert page.endswith("## Setting\n\n* budget: 9 steps\n* questions, 2 towns: 8\n* questions, 4 towns: 16\n")


def test_without_a_clock_the_cost_is_not_known(make_cell):
    results = [replace(make_cell("token", 13, 60.0), cost={})]
    line = next(
        line
        for line in render_capacity({(2, "token"): results}, VARIANTS, {}, [], "plot.png").splitlines()
        if line.startswith("| token ")
    )
    assert [cell.strip() for cell in line.strip("|").split("|")][-2:] == ["n/a", "n/a"]


def test_without_results_the_page_says_so():
    assert "Nothing is finished yet." in render_capacity({}, VARIANTS, {}, ["capacity-load2-none-s13"], "plot.png")


def test_one_is_above_another_only_if_all_seeds_are(make_cell):
    low, high, middle = (make_cell("token", 13, value) for value in (50.0, 90.0, 55.0))
    assert above([high], [low, middle])
    assert not above([low, high], [middle])
    assert not above([middle], [low])  # intervals overlap
    assert not above([low], [high])


def test_questions_of_several_types_are_weighed_by_their_number():
    types = {
        "cross_load2_lag1_updated": row(40.0, 30),
        "cross_load2_lag1_untouched": row(80.0, 10),
        "early_x": row(1.0),
    }
    metrics = {"memory_ablation": {"normal": {"by_question_type": types}}}
    score = score_of(Result(variant="token", seed=13, metrics=metrics, routing={}))
    assert (score.value, score.low) == (50.0, None)
    assert score_of(Result(variant="token", seed=13, metrics=metrics, routing={}), "nothing").value is None


def test_the_table_of_all_cells(cells, tmp_path):
    write_csv(tmp_path / "capacity.csv", cells)
    table = pd.read_csv(tmp_path / "capacity.csv")
    assert len(table) == sum(map(len, cells.values()))
    one = table[(table.load == 4) & (table.variant == "gmm-write")].iloc[0]
    assert (one.seed, one.cross, one.cross_low, one.cross_high, one.early) == (13, 80.0, 77.0, 83.0, 88.0)
    assert (one.cross_memory_zeroed, one.cross_memory_shuffled, one.cross_routing_uniform) == (24.0, 25.5, 40.0)


def points(lines):
    """The points of each variant's line, at the load that is nearest on the plot's scale."""
    named = {line.get_label(): line.get_xydata() for line in lines}
    return {
        variant.name: [[2 ** round(math.log2(x)), y] for x, y in named[variant.name]]
        for variant in VARIANTS
        if variant.name in named
    }


def test_the_plot_shows_means_and_losses(cells):
    top, bottom = plot_capacity(cells, VARIANTS).axes
    lines = points(top.lines)
    assert lines["token"] == [[2, 79.0]]
    assert lines["gmm-write"] == [[2, 91.0], [4, 80.0]]
    lost = points(bottom.lines)
    assert lost["gmm-write"] == [[2, 1.75], [4, 40.0]]
    assert "token" not in lost
    assert "gmm-uniform" not in lost


def test_each_variant_has_its_intervals_and_a_place_of_its_own(make_cell):
    cells = {(2, name): [make_cell(name, 13, 60.0), make_cell(name, 14, 90.0)] for name in ("token", "gmm-write")}
    bars = [bar.get_segments()[0] for bar in plot_capacity(cells, VARIANTS).axes[0].collections]
    assert [segment[:, 1].tolist() for segment in bars] == [[57.0, 63.0], [87.0, 93.0]] * 2
    places = [float(segment[0, 0]) for segment in bars]
    assert places[0] == places[1] < places[2] == places[3]
    assert all(1.8 < place < 2.2 for place in places)


def test_no_two_variants_look_alike(make_cell):
    variants = [Variant(name=f"v{number}", words="", overrides=()) for number in range(11)]
    cells = {(2, one.name): [make_cell(one.name, 13, 50.0)] for one in variants}
    lines = [line for line in plot_capacity(cells, variants).axes[0].lines if line.get_label().startswith("v")]
    looks = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in lines}
    assert len(looks) == len(lines) == len(variants)

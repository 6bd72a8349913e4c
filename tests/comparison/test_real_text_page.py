"""The page on real text: which memory helps on which task, and how far it is from ceiling and floor."""

import re

import numpy as np
import pandas as pd
import pytest

from gmmxlnet.comparison.questions import ScoredDocuments
from gmmxlnet.comparison.real_text import compared, plot_real_text, render_real_text, title_of, write_csv

D, DOCUMENTS = 240, 60


@pytest.fixture
def make_scored(make_result):
    """A function to results: each question is right where a fixed draw lies below `share`."""

    def make(variant, share, seed=13, budget="9 steps"):
        right_D = 100 * (np.random.default_rng(seed).random(D) < share).astype(np.float32)
        score = float(right_D.mean())
        zeroed = None if variant == "none" else (20.0, 20.0)
        result = make_result(variant, seed, normal=(score, score), zeroed=zeroed, typed=False, floor=0.0, parameters=5)
        return ScoredDocuments(
            result=result,
            identity="i",
            questions="q",
            setting={"budget": budget},
            exact_match=right_D,
            f1=right_D,
            context=np.repeat(np.arange(DOCUMENTS), D // DOCUMENTS).astype(np.int32),
            segments=np.full(D, 4, np.int32),
            place=(2 + np.arange(D) % 3).astype(np.int32),
            subject=np.full(D, 3, np.int32),
        )

    return make


@pytest.fixture
def tasks(make_scored):
    return {
        "stories": [make_scored("none", 0.3), make_scored("token", 0.3)],
        "code-words-load8": [make_scored("none", 0.12)],
        "code-words-load4": [
            make_scored("none", 0.25),
            make_scored("token", 0.6),
            make_scored("none", 0.25, seed=14),
            make_scored("token", 0.7, seed=14),
            make_scored("mems", 0.1),
        ],
        "code-words-load4-repeated": [make_scored("none", 0.9), make_scored("none", 0.9, seed=14)],
        "code-words-load4-removed": [make_scored("none", 0.25)],
    }


def test_the_baseline_is_averaged_over_the_seeds_that_it_is_compared_on(tasks, make_scored):
    one, other = (make_scored("none", share, seed) for share, seed in ((0.2, 13), (0.3, 14)))
    alone = make_scored("none", 0.9, seed=15)
    tasks["stories"] = [one, other, alone, make_scored("token", 0.6), make_scored("token", 0.6, seed=14)]
    page = render_real_text(tasks, [], "plot.png")
    said = re.search(r"Whole stories: \*\*better than `none` \((\S+) ", page)
    assert float(said[1]) == pytest.approx((one.exact_match.mean() + other.exact_match.mean()) / 2, abs=0.06)


def test_a_gain_stands_between_floor_and_ceiling(tasks):
    page = render_real_text(tasks, ["real-text-articles-none-s13"], "plot.png")
    assert re.search(r"Code words, 4 in a document: \*\*better than `none` .* beyond chance:\*\* token \+\d", page)
    assert "Code words, 4 in a document: worse beyond chance: mems." in page
    assert re.search(r"4 in a document: ceiling: definitions repeated, `none` reaches 8\d", page)
    assert "Whole stories: **no variant is better than `none`" in page
    assert "Code words, 8 in a document: no variant shares a seed with `none`" in page
    assert "Not finished, hence not in here:** `real-text-articles-none-s13`" in page
    assert "![Exact match by task and variant](plot.png)" in page
    assert "Chance, one of 4: 25.0." in page
    token = next(line for line in page.splitlines() if re.match(r"\| token +\| +13, 14 ", line))
    cells = [cell.strip() for cell in token.strip("|").split("|")]
    scored = [one.exact_match.mean() for one in tasks["code-words-load4"]]
    ceiling = np.mean([one.exact_match.mean() for one in tasks["code-words-load4-repeated"]])
    found = (scored[1] + scored[3]) / 2
    assert float(cells[2].split()[0]) == pytest.approx(found, abs=0.06)
    assert float(cells[3].split()[0]) == pytest.approx(found - (scored[0] + scored[2]) / 2, abs=0.06)
    assert float(cells[4]) == pytest.approx(ceiling - found, abs=0.06)
    assert float(cells[5]) == pytest.approx(20.0)


def test_controls_are_no_tasks_of_their_own(tasks):
    assert compared(tasks) == ["code-words-load4", "code-words-load8", "stories"]
    assert title_of("articles") == "Whole articles"
    assert render_real_text({}, [], "plot.png").endswith("Nothing is finished yet.\n")


def test_unlike_budgets_are_said(make_scored):
    tasks = {"articles": [make_scored("none", 0.5), make_scored("token", 0.5, budget="10 steps")]}
    assert "* budget: 9 steps; **or** 10 steps\n" in render_real_text(tasks, [], "plot.png")


def test_the_plot_has_a_panel_a_task_and_the_table_a_line_a_result(tasks, tmp_path):
    figure = plot_real_text(tasks)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Code words, 4 in a document", "Code words, 8 in a document", "Whole stories"]
    lines = [line.get_label() for line in figure.axes[0].lines]
    assert {"ceiling: definitions repeated", "floor: definitions removed"} <= set(lines)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["none", "token", "mems"]
    write_csv(tmp_path / "table.csv", tasks)
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == sum(map(len, tasks.values()))
    token = table[(table.task == "code-words-load4") & (table.variant == "token") & (table.seed == 14)]
    assert token.exact_match.item() == pytest.approx(tasks["code-words-load4"][3].exact_match.mean(), abs=1e-3)
    assert token.exact_match_memory_zeroed.item() == pytest.approx(20.0)

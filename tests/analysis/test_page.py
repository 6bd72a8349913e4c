"""The page: whole, self-contained, and safe from what stands in the data."""

import re
from html.parser import HTMLParser

import pytest

from gmmxlnet.analysis.analyzer import no_routing_report
from gmmxlnet.analysis.experts import ExpertProfile
from gmmxlnet.analysis.page import render_page
from gmmxlnet.analysis.page_details import shown_answers
from gmmxlnet.analysis.plots import plot_expert_utilization, save_figure
from gmmxlnet.analysis.shown_answers import ShownAnswer, ShownSegment

SUMMARY = {"exact_match": 81.25, "exact_match_interval": [79.04, 83.06], "f1": 82.5, "f1_interval": None, "total": 1234}
EVIL = "<script>alert('1')</script>"


def metrics(question_type):
    by_type = {question_type: SUMMARY}
    row = {**SUMMARY, "by_question_type": by_type, "exact_match_loss_interval": [0.5, 2.5]}
    missing = dict.fromkeys(row)
    return {
        **{"exact_match": 81.25, "f1": 82.5, "total": 1234, "NoAns_exact": None, "NoAns_f1": None, "NoAns_total": 0},
        **{"HasAns_exact": 81.25, "HasAns_f1": 82.5, "HasAns_total": 1234, "null_score_diff_threshold": -1.5},
        "null_score_diff_threshold_choice": {"method": "not chosen from data"},
        "always_no_answer": {"exact_match": 33.3, "f1": 33.3},
        "intervals": {"exact_match": [79.04, 83.06], "f1": None, "contexts": 120},
        "by_question_type": by_type,
        "by_segments": {"1": SUMMARY},
        "memory_ablation": {"normal": row, "zeroed": row, "shuffled": missing, "reset": row},
        "memory_ablation_note": "all documents share one context",
    }


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that are not closed in order."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def answer(text, given, gold, num_segments=1):
    """An answer in a text cut into equal segments."""
    edges = [len(text) * s // num_segments for s in range(num_segments + 1)]
    return ShownAnswer(
        question=f"Who? {EVIL}",
        question_type=EVIL,
        right=given == gold,
        given=text[slice(*given)] if given else "",
        golds=[text[slice(*gold)]] if gold else [],
        null_odds=-1.25,
        span=given,
        segment=0 if given else None,
        gold_span=gold,
        text=text,
        segments=[ShownSegment(s, edges[s], edges[s + 1], [0.25, 0.75]) for s in range(num_segments)],
    )


@pytest.fixture
def page(tmp_path):
    save_figure(plot_expert_utilization([0.5, 0.5]), tmp_path / "use.png")
    profile = ExpertProfile(0, 0.5, {EVIL: 0.5}, [(EVIL, 1.5), ("commonplace", 1.04)], f"{EVIL} and more", 0.9)
    plots = {"training": tmp_path / "use.png"}
    answers = [answer(f"Anna & Boris {EVIL}", (0, 4), (0, 4)), answer("Anna and Boris", (0, 4), (9, 14))]
    routing, about = no_routing_report("none"), f"a memory {EVIL}."
    return Page(render_page(f"Title {EVIL}", about, metrics(EVIL), routing, plots, [profile], answers))


def test_data_cannot_become_markup(page):
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 13


def test_what_was_trained_stands_above_the_result(page):
    assert page.text.index("A memory") < page.text.index("exact match")


def test_words_as_frequent_as_elsewhere_are_left_out(page):
    assert "(1.5)" in page.text
    assert "commonplace" not in page.text


def test_nothing_is_fetched_from_elsewhere(page):
    assert page.tags.count("img") == 1
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)


def test_figures_are_rounded_and_missing_ones_are_dashes(page):
    for text in ("81.2", "79.0 to 83.1", "1,234", "–", "All documents share one context.", "Memory_type none has no"):  # noqa: RUF001
        assert text in page.text


def test_answers_are_marked_where_they_stand():
    both, wrong = (shown_answers([answer("Anna and Boris", given, (9, 14), 2)]) for given in ((9, 14), (4, 10)))
    assert "Anna an</p>" in both
    assert "d <mark><u>Boris</u></mark></p>" in both
    assert "Anna<mark> an</mark></p>" in wrong
    assert "<mark>d </mark><mark><u>B</u></mark><u>oris</u></p>" in wrong
    assert "expected “Boris”" in wrong


def test_a_long_document_shows_the_segments_around_its_answers():
    text = "x" * 1000
    shown = shown_answers([answer(text, (505, 508), None, 100)])
    assert "segment 51<" in shown
    assert shown.count('class="segment"') == 8
    assert sum(int(count) for count in re.findall(r"… (\d+) segments", shown)) == 92

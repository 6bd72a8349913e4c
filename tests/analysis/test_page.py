"""The page: whole, self-contained, safe from what stands in the data, and every figure from its own column."""

import html
import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from gmmxlnet.analysis.analyzer import no_routing_report
from gmmxlnet.analysis.experts import ExpertProfile
from gmmxlnet.analysis.page import ABLATIONS, ROUTINGS, provenance_script, render_page
from gmmxlnet.analysis.plots import plot_expert_utilization, save_figure
from gmmxlnet.analysis.shown_answers import ShownAnswer, ShownSegment

EVIL = "<script>alert('1')</script>"
TYPES = ("cross", "local")


class Figures:
    """Metrics in which no two figures are equal."""

    def __init__(self):
        self.fresh = (round(10 + 0.7 * n, 1) for n in itertools.count())

    def summary(self):
        names = ("exact_match", "f1")
        values = {name: next(self.fresh) for name in names}
        limits = {f"{name}_interval": [next(self.fresh), next(self.fresh)] for name in names}
        return {**values, **limits, "total": int(10 * next(self.fresh))}

    def ablation(self, types, *, lost=True):
        loss = {"exact_match_loss_interval": [next(self.fresh), next(self.fresh)]} if lost else {}
        return {**self.summary(), **loss, "by_question_type": {kind: self.summary() for kind in types}}

    def metrics(self, types=TYPES):
        overall = self.summary()
        groups = {
            f"{group}_{name}": next(self.fresh) for group in ("HasAns", "NoAns") for name in ("exact", "f1", "total")
        }
        groups |= {name: int(10 * value) for name, value in groups.items() if name.endswith("total")}
        return {
            **{name: overall[name] for name in ("exact_match", "f1", "total")},
            **groups,
            "null_score_diff_threshold": -1.5,
            "null_score_diff_threshold_choice": {"split": "calibration", "questions": 4321},
            "always_no_answer": {"exact_match": next(self.fresh), "f1": next(self.fresh)},
            "intervals": {
                "exact_match": overall["exact_match_interval"],
                "f1": overall["f1_interval"],
                "contexts": 1234,
            },
            "by_question_type": {kind: self.summary() for kind in types},
            "by_segments": {str(n): self.summary() for n in (1, 3)},
            "memory_ablation": {name: self.ablation(types, lost=name != "normal") for name in ABLATIONS},
            "routing_ablation": {
                name: self.ablation(types, lost=name != "learned") for name in (*ROUTINGS, "without_expert_1")
            },
        }


class Page(HTMLParser):
    """Collects tags, links, text and the cells of tables, and fails on tags that are not closed in order."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.text, self.tables = [], [], [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag == "table":
            assert self.open[-1] == "div", "tables scroll in a container of their own"
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, first_header):
        """The rows of every table with this header above its first column, by their first cell."""
        tables = (table for table in self.tables if table[0][0] == first_header and len(table[0]) > 3)
        return {row[0]: row[1:] for table in tables for row in table[1:]}


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


ROUTING = {
    "note": None,
    "pattern": "mixed",
    "pattern_advice": "Advice.",
    "pattern_observation": "seen",
    "total_segments": 240,
    "expert_utilization": [0.31, 0.69],
    "top_expert_share": [0.22, 0.78],
    "mean_entropy": 0.55,
    "condition_information": None,
}


def rendered(metrics=None, routing=ROUTING, plots=None, profiles=(), answers=(), **more):
    return render_page(
        "Title", "a memory.", metrics or Figures().metrics(), routing, plots or {}, profiles, answers, **more
    )


@pytest.fixture
def evil_page(tmp_path):
    save_figure(plot_expert_utilization([0.5, 0.5]), tmp_path / "use.png")
    metrics = Figures().metrics([EVIL])
    metrics["memory_ablation"]["shuffled"] = dict.fromkeys(metrics["memory_ablation"]["shuffled"])
    metrics |= {"NoAns_exact": None, "memory_ablation_note": f"all share {EVIL}"}
    profile = ExpertProfile(0, 0.5, {EVIL: 0.5}, [(EVIL, 1.5), ("commonplace", 1.04)], f"{EVIL} and more", 0.9)
    answers = [answer(f"Anna & Boris {EVIL}", (0, 4), (0, 4)), answer("Anna and Boris", (0, 4), (9, 14))]
    plots, origin = {"training": tmp_path / "use.png"}, {"data": EVIL}
    text = render_page(
        f"Title {EVIL}", f"a memory {EVIL}.", metrics, no_routing_report(EVIL), plots, [profile], answers,
        origin=origin, comparison="comparison.md",
    )  # fmt: skip
    return Page(text)


def test_data_cannot_become_markup(evil_page):
    assert "script" not in evil_page.tags
    assert evil_page.text.count(EVIL) >= 15


def test_what_was_trained_stands_above_the_result(evil_page):
    assert evil_page.text.index("A memory") < evil_page.text.index("exact match")


def test_words_as_frequent_as_elsewhere_are_left_out(evil_page):
    assert "(1.5)." in evil_page.text
    assert "commonplace" not in evil_page.text


def test_nothing_is_fetched_from_elsewhere(evil_page):
    assert evil_page.tags.count("img") == 1
    links = [source for source in evil_page.sources if not source.startswith(("data:image/png;base64,", "#"))]
    assert links == ["comparison.md"]


def test_missing_figures_are_dashes(evil_page):
    assert evil_page.table("the same model")[ABLATIONS["shuffled"]] == ["–"] * 5  # noqa: RUF001
    assert f"All share {EVIL}." in evil_page.text
    assert f"Memory_type {EVIL} has no experts" in evil_page.text


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MEASURE = """<script>
  const root = document.documentElement, tables = [...document.querySelectorAll(".wide")];
  const wide = tables.filter(box => box.scrollWidth > box.clientWidth);
  parent.document.title = [root.scrollWidth, root.clientWidth, wide.length];
</script>"""


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no browser that runs without a screen")


def as_shown(file):
    """The document that a browser has made of a file, as HTML."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent}", "--dump-dom"]
    command = [BROWSER, *options, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@needs_browser
@pytest.mark.parametrize(("width", "some_are_wide"), [(420, True), (1200, False)])
def test_a_phone_scrolls_tables_and_not_the_page(tmp_path, width, some_are_wide):
    save_figure(plot_expert_utilization([0.5, 0.5]), tmp_path / "use.png")
    page = rendered(
        plots={"training": tmp_path / "use.png"},
        answers=[answer("Llanfairpwllgwyngyll" * 20 + " and Anna", (0, 20), (0, 4), num_segments=4)],
        origin={"data (SHA-256)": "0123456789abcdef" * 4},
    )
    page = html.escape(page.replace("</body>", f"{MEASURE}</body>"))
    frame = f'<iframe srcdoc="{page}" style="width: {width}px; height: 900px; border: 0"></iframe>'  # windows are wider
    (tmp_path / "frame.html").write_text(f"<title></title>{frame}", encoding="utf-8")
    dom = as_shown(tmp_path / "frame.html")
    needed, there, num_wide = map(int, re.search(r"<title>(\d+),(\d+),(\d+)</title>", dom).groups())
    assert needed <= there <= width
    assert (num_wide > 0) == some_are_wide


def shown(value):
    return f"{value:.1f}"


def span(limits):
    return f"{limits[0]:.1f} to {limits[1]:.1f}"


def test_every_cell_is_the_figure_of_its_row_and_column():
    metrics = Figures().metrics()
    page = Page(rendered(metrics))
    for header, groups in (("type", metrics["by_question_type"]), ("segments", metrics["by_segments"])):
        assert page.table(header) == {
            name: [
                f"{group['total']:,}",
                *(shown(group["exact_match"]), span(group["exact_match_interval"])),
                *(shown(group["f1"]), span(group["f1_interval"])),
            ]
            for name, group in groups.items()
        }
    rows = {ABLATIONS[name]: row for name, row in metrics["memory_ablation"].items()}
    rows |= {ROUTINGS.get(name, "without expert 1"): row for name, row in metrics["routing_ablation"].items()}
    assert len(rows) == 4 + 5
    assert page.table("the same model") == {
        name: [
            *(shown(row["exact_match"]), span(row["exact_match_interval"])),
            span(row["exact_match_loss_interval"]) if "exact_match_loss_interval" in row else "–",  # noqa: RUF001
            shown(row["f1"]),
            *(shown(row["by_question_type"][kind]["exact_match"]) for kind in TYPES),
        ]
        for name, row in rows.items()
    }
    assert page.table("") == {
        "exact match (%)": [shown(metrics[name]) for name in ("exact_match", "HasAns_exact", "NoAns_exact")],
        "F1 (%)": [shown(metrics[name]) for name in ("f1", "HasAns_f1", "NoAns_f1")],
        "questions": [f"{metrics[name]:,}" for name in ("total", "HasAns_total", "NoAns_total")],
    }
    assert ["expert 1", "69.0", "78.0"] in page.tables[-1]
    boxes = [
        f"{shown(metrics['exact_match'])}%exact match ({span(metrics['intervals']['exact_match'])})",
        f"{shown(metrics['f1'])}%F1 ({span(metrics['intervals']['f1'])})",
        f"{shown(metrics['always_no_answer']['exact_match'])}%floor",
    ]
    assert all(box in page.text for box in boxes)


def test_names_of_ablations_are_their_own():
    memory = {"zeroed": "empty", "shuffled": "another document", "reset": "every segment"}
    routing = {"uniform": "alike", "shuffled": "another document", "hardened": "most probable"}
    for names, meanings in ((ABLATIONS, memory), (ROUTINGS, routing)):
        for name, words in meanings.items():
            assert names[name].startswith(name)
            assert words in names[name]


@pytest.mark.parametrize(("low", "words"), [(0.1, "The memory is used"), (-0.1, "No use of the memory is shown")])
def test_the_verdict_follows_the_loss_with_another_documents_memory(low, words):
    metrics = Figures().metrics()
    metrics["memory_ablation"]["shuffled"]["exact_match_loss_interval"] = [low, 5.0]
    text = rendered(metrics)
    assert words in text
    assert text.count("memory is used") + text.count("No use of the memory") == 1


@pytest.mark.parametrize(("low", "words"), [(0.1, "experts divide the work"), (-0.1, "experts do not divide the work")])
def test_the_verdict_on_the_routing_follows_the_loss_with_uniform_routing(low, words):
    metrics = Figures().metrics()
    metrics["routing_ablation"]["uniform"]["exact_match_loss_interval"] = [low, 5.0]
    assert words in rendered(metrics)
    del metrics["routing_ablation"]
    assert "the work" not in rendered(metrics)


def test_even_routing_is_said_in_a_sentence():
    assert "there is nothing to draw" in rendered(routing={**ROUTING, "pattern": "diffuse"})
    assert "there is nothing to draw" not in rendered()


def test_many_lengths_are_folded():
    metrics = Figures().metrics()
    few = rendered(metrics)
    metrics["by_segments"] = {str(n): metrics["by_segments"]["1"] for n in range(1, 20)}
    assert "<details>" not in few
    assert "Table of 19 lengths" in rendered(metrics)


def test_answers_are_marked_where_they_stand():
    both, wrong = (rendered(answers=[answer("Anna and Boris", given, (9, 14), 2)]) for given in ((9, 14), (4, 10)))
    assert "Anna an</p>" in both
    assert "d <mark><u>Boris</u></mark></p>" in both
    assert "Anna<mark> an</mark></p>" in wrong
    assert "<mark>d </mark><mark><u>B</u></mark><u>oris</u></p>" in wrong
    assert "expected “Boris”" in wrong
    assert Page(both).text.index("Right") < Page(both).text.index("Who?") < Page(both).text.index("Wrong")


def test_a_long_document_shows_the_segments_around_its_answers():
    text = rendered(answers=[answer("x" * 1000, (505, 508), None, 100)])
    assert "segment 51<" in text
    assert text.count('class="segment"') == 8
    assert sum(int(count) for count in re.findall(r"… (\d+) segments", text)) == 92


OF_A_PAGE = {"origin": {"data": "abc"}, "provenance": "made.js"}
FACTS = {"trained": f"commit 0123 {EVIL}", "analyzed": 'on "another" machine'}


def test_the_same_page_each_time():
    assert rendered(**OF_A_PAGE) == rendered(**OF_A_PAGE)


@needs_browser
def test_commit_time_and_machine_are_shown_from_beside_the_page(tmp_path):
    page = rendered(**OF_A_PAGE)
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    assert "made.js</code> of this page is not beside it" in as_shown(tmp_path / "index.html")
    (tmp_path / "made.js").write_text(provenance_script(page, FACTS), encoding="utf-8")
    shown_items = [f"<li>{name}: <code>{html.escape(fact, quote=False)}</code></li>" for name, fact in FACTS.items()]
    assert f">{''.join(shown_items)}</ul>" in as_shown(tmp_path / "index.html")


@needs_browser
def test_facts_about_another_page_are_not_shown(tmp_path):
    (tmp_path / "index.html").write_text(rendered(**OF_A_PAGE), encoding="utf-8")
    other = rendered({**Figures().metrics(), "f1": 12.5}, **OF_A_PAGE)
    (tmp_path / "made.js").write_text(provenance_script(other, FACTS), encoding="utf-8")
    found = as_shown(tmp_path / "index.html")
    assert "commit 0123" not in found
    assert "made.js</code> of this page is not beside it" in found


def test_facts_are_about_one_page():
    scripts = {provenance_script(rendered(**{**OF_A_PAGE, "origin": {"data": data}}), FACTS) for data in ("abc", "abd")}
    assert len(scripts) == 2


def test_a_page_without_a_place_for_them_takes_no_facts():
    with pytest.raises(ValueError, match="no place"):
        provenance_script(rendered(origin={"data": "abc"}), FACTS)

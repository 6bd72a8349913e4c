"""The contents of `reports/metrics.json` agree with the files they are computed from."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gmmxlnet.data.documents import Documents
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.evaluation.metrics import assemble_metrics, official_figures
from gmmxlnet.evaluation.squad_metric import raw_scores, squad_v2_metrics
from gmmxlnet.evaluation.threshold import ThresholdChoice, choose_threshold


@pytest.fixture(scope="module")
def evaluator(make_model, sample_tokenizer):
    return QAEvaluator(make_model(), sample_tokenizer, batch_size=7)


@pytest.fixture(scope="module")
def normal(evaluator, dev_documents):
    return evaluator.predict(dev_documents)


@pytest.fixture(scope="module")
def choice(evaluator, sample_chunks):
    return choose_threshold(evaluator.predict(Documents.open(sample_chunks, "calibration")))


@pytest.fixture(scope="module")
def metrics(evaluator, normal, choice):
    return assemble_metrics(normal, choice, evaluator.ablate(normal))


def test_official_figures_are_those_of_the_files(metrics, normal, choice):
    answers, odds = (json.loads(json.dumps(x)) for x in (normal.answers(choice.value), normal.odds_by_id()))
    official = squad_v2_metrics(normal.golds(), answers, odds, metrics["null_score_diff_threshold"])
    for name, value in official.items():
        assert metrics["exact_match" if name == "exact" else name] == value


def test_every_figure_is_at_the_threshold_that_was_chosen(normal):
    """All null odds lie above 0, some below the threshold: at 0 every question would go unanswered."""
    odds = normal.null_odds
    shifted = replace(normal, null_start_logit=normal.null_start_logit - odds.min() + 1)
    silent = np.array([not golds for golds in normal.golds().values()])
    other = replace(shifted, start_logit=shifted.start_logit - np.ptp(odds))  # null odds are higher, all above it
    threshold = float(np.median(shifted.null_odds[silent]))
    assert (shifted.null_odds > 0).all()
    metrics = assemble_metrics(shifted, ThresholdChoice(threshold), {"zeroed": other})
    scores = {}
    for name, predictions in (("normal", shifted), ("zeroed", other)):
        exact = np.array(list(raw_scores(predictions.golds(), predictions.answers(1e9))[0].values()), float)
        scores[name] = np.where(predictions.null_odds > threshold, silent, exact)
        assert metrics["memory_ablation"][name]["exact_match"] == pytest.approx(100 * scores[name].mean())
    assert metrics["exact_match"] == pytest.approx(100 * scores["normal"].mean())
    assert metrics["NoAns_exact"] == pytest.approx(100 * scores["normal"][silent].mean())
    assert scores["normal"].mean() < scores["zeroed"].mean() == silent.mean()
    lost = metrics["memory_ablation"]["zeroed"]
    assert lost["exact_match_loss"] == pytest.approx(100 * (scores["normal"].mean() - scores["zeroed"].mean()))
    low, high = lost["exact_match_loss_interval"]
    assert low < lost["exact_match_loss"] < min(high, 0)  # without it nothing is lost, but won


def test_threshold_comes_from_calibration(metrics, choice):
    assert metrics["null_score_diff_threshold"] == choice.value
    told = metrics["null_score_diff_threshold_choice"]
    assert (told["split"], told["metric"], told["questions"]) == ("calibration", "f1", 6)


def test_floor_is_the_share_of_unanswerable_questions(metrics):
    assert metrics["always_no_answer"] == {"exact_match": 100 * 12 / 34, "f1": 100 * 12 / 34}


def test_always_answering_scores_the_best_spans_of_answerable_questions(normal):
    """At a threshold that leaves every question unanswered; every other best span is (about) the gold one."""
    rows = np.flatnonzero(normal.documents.has_label())[::2]
    first, last = normal.first_token.copy(), normal.last_token.copy()
    for extra, row in enumerate(rows):
        first[row, 0], last[row, 0] = normal.documents[int(row)].label
        first[row, 0] -= extra % 2  # a word more
    normal = replace(normal, first_token=first, last_token=last)
    metrics = assemble_metrics(normal, ThresholdChoice(float(normal.null_odds.min()) - 1), {})
    assert metrics["HasAns_f1"] == 0
    golds = {question: answers for question, answers in normal.golds().items() if answers}
    exact, f1 = raw_scores(golds, dict(zip(normal.question_ids, normal.best_texts, strict=True)))
    found = metrics["always_answering"]
    assert found["total"] == len(golds) == 22
    assert found["exact_match"] == pytest.approx(100 * np.mean(list(exact.values())))
    assert found["f1"] == pytest.approx(100 * np.mean(list(f1.values())))
    assert 0 < found["exact_match"] < found["f1"]
    low, high = found["f1_interval"]
    assert low < found["f1"] < high


def test_groups_add_up(metrics):
    by_type, by_segments = metrics["by_question_type"], metrics["by_segments"]
    assert list(by_type) == ["cross", "local", "unanswerable"]
    assert {name: group["total"] for name, group in by_type.items()} == dict.fromkeys(by_type, 10)
    assert by_segments["1"]["total"] == 4
    assert sum(group["total"] for group in by_segments.values()) == metrics["total"] == 34
    f1 = sum(group["total"] * group["f1"] for group in by_segments.values()) / 34
    assert f1 == pytest.approx(metrics["f1"])


def test_ablation_table(metrics):
    table = metrics["memory_ablation"]
    assert list(table) == ["normal", "zeroed", "shuffled", "reset"]
    assert table["normal"]["exact_match"] == metrics["exact_match"]
    assert table["normal"]["f1"] == metrics["f1"]
    assert table["normal"]["by_question_type"] == metrics["by_question_type"]
    for name in ("zeroed", "shuffled", "reset"):
        assert table[name]["f1_loss"] == pytest.approx(metrics["f1"] - table[name]["f1"])
        low, high = table[name]["f1_loss_interval"]
        assert low <= table[name]["f1_loss"] <= high
        assert set(table[name]["by_question_type"]) == {"cross", "local", "unanswerable"}


def test_intervals_hold_the_figures(metrics):
    for name in ("exact_match", "f1"):
        low, high = metrics["intervals"][name]
        assert low <= metrics[name] <= high
    assert metrics["intervals"]["contexts"] == 12


def test_oracle_is_a_bound(metrics):
    assert metrics["oracle_threshold"]["f1"] >= max(metrics["f1"], metrics["always_no_answer"]["f1"])


def test_absent_groups_are_null():
    answerable = SimpleNamespace(
        golds=lambda: {"q": ["Anna"]}, answers=lambda threshold: {"q": "Anna"}, odds_by_id=lambda: {"q": -1.0}
    )
    figures = official_figures(answerable, ThresholdChoice(0.0))
    assert (figures["NoAns_exact"], figures["NoAns_f1"], figures["NoAns_total"]) == (None, None, 0)
    assert figures["HasAns_exact"] == figures["exact_match"] == 100.0


def test_can_be_written_and_is_repeatable(metrics, evaluator, normal, choice):
    text = json.dumps(metrics, allow_nan=False)
    assert text == json.dumps(assemble_metrics(normal, choice, evaluator.ablate(normal)))

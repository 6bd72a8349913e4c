"""The no-answer threshold against trying every threshold there is."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.evaluation.squad_metric import squad_v2_metrics
from gmmxlnet.evaluation.threshold import ThresholdChoice, choose_threshold


def predictions(rows):
    """Calibration predictions from (golds, best text, null odds) triples."""
    ids = [str(i) for i in range(len(rows))]
    return SimpleNamespace(
        question_ids=ids,
        best_texts=[text for _, text, _ in rows],
        null_odds=np.array([odds for _, _, odds in rows], float),
        golds=lambda: dict(zip(ids, (golds for golds, _, _ in rows), strict=True)),
    )


ROW = st.tuples(
    st.sampled_from([[], ["red fox"], ["blue", "green"]]),
    st.sampled_from(["red fox", "fox", "blue"]),
    st.integers(-3, 3).map(float),
)


@given(st.lists(ROW, min_size=1, max_size=10), st.sampled_from(["f1", "exact_match"]))
def test_no_other_threshold_is_better(rows, metric):
    calibration = predictions(rows)
    answers = dict(zip(calibration.question_ids, calibration.best_texts, strict=True))
    odds = dict(zip(calibration.question_ids, calibration.null_odds.tolist(), strict=True))

    def score(threshold):
        return squad_v2_metrics(calibration.golds(), answers, odds, threshold)["f1" if metric == "f1" else "exact"]

    choice = choose_threshold(calibration, metric)
    assert score(choice.value) == pytest.approx(choice.score)
    assert choice.score == pytest.approx(max(map(score, [-math.inf, *odds.values()])))


def test_lies_midway_between_its_neighbors():
    rows = [(["red"], "red", -4.0), (["red"], "red", 1.0), ([], "blue", 2.0), ([], "blue", 7.0)]
    assert choose_threshold(predictions(rows)).value == 1.5


def test_takes_the_widest_of_equally_good_gaps():
    """Answering up to 0 or up to 2 scores the same; the gap from 2 to 9 is wider than that from 0 to 1."""
    rows = [(["red"], "red", 0.0), ([], "red", 1.0), (["red"], "red", 2.0), ([], "blue", 9.0)]
    assert choose_threshold(predictions(rows)).value == 5.5


def test_stays_outside_when_nothing_or_everything_is_best():
    assert choose_threshold(predictions([([], "blue", 3.0), ([], "blue", 4.0)])).value == 2.0
    assert choose_threshold(predictions([(["red"], "red", 3.0)])).value == 4.0


def test_without_calibration_documents_it_is_zero_and_says_so():
    choice = choose_threshold(predictions([]))
    assert choice.value == 0.0
    assert choice.describe() == {"method": "not chosen from data"}


def test_the_report_says_how_it_was_chosen():
    rows = [(["red"], "red", -4.0), (["red"], "red", 1.0), ([], "blue", 2.0), (["green"], "blue", 7.0)]
    described = choose_threshold(predictions(rows), "exact_match").describe()
    assert described.pop("method") == (
        "maximizes the metric on the calibration split, which is never trained on nor reported; "
        "midpoint of the widest of equally good gaps between neighboring null odds"
    )
    assert described == {"split": "calibration", "metric": "exact_match", "questions": 4, "score": 75.0}
    assert ThresholdChoice(2.5).describe() == {"method": "not chosen from data"}


def test_without_predictions_it_is_0():
    assert choose_threshold(predictions([])) == ThresholdChoice(0.0)


def test_an_inner_gap_is_preferred_to_an_equally_good_outer_one():
    """Whatever the width: what is chosen beyond all odds holds for these questions alone."""
    wrong, none = ["red"], []
    assert choose_threshold(predictions([(wrong, "blue", 0.0), (none, "blue", 0.5)])).value == 0.25
    assert choose_threshold(predictions([(wrong, "red", 0.0), (wrong, "blue", 0.5)])).value == 0.25


def test_f1_decides_by_default():
    choice = choose_threshold(predictions([(["red fox"], "fox", 0.0), ([], "fox", 1.0)]))
    assert (choice.metric, choice.score) == ("f1", pytest.approx(100 * (2 / 3 + 1) / 2))

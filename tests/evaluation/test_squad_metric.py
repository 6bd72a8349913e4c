"""The official SQuAD 2.0 figures: by hand, and by brute force on generated predictions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.errors import DataError
from gmmxlnet.evaluation.squad_metric import (
    exact_score,
    f1_score,
    find_best_threshold,
    normalize_answer,
    raw_scores,
    squad_v2_metrics,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat,\tan Owl!", "cat owl"),
        ("a.b-c", "abc"),
        ("an-the", "anthe"),  # punctuation goes first, so no article stands there any more
        ("THEATRE a", "theatre"),
        ("the_end", "theend"),
        ("”quoted” …1½", "”quoted” …1½"),  # only ASCII punctuation is deleted
        ("a\u00a0b\u2003c", "b c"),
        ("The", ""),
    ],
)
def test_normalization(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("gold", "prediction", "exact", "f1"),
    [
        ("the Eiffel Tower", "Eiffel tower.", 1, 1.0),
        ("Eiffel Tower in Paris", "tower in Rome", 0, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        ("red red blue", "red green", 0, 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        ("", "", 1, 1),
        ("", "the", 1, 1),  # an article alone normalizes to the empty answer
        ("", "cat", 0, 0),
        ("cat", "", 0, 0),
        ("cat", "dog", 0, 0),
    ],
)
def test_exact_and_f1_by_hand(gold, prediction, exact, f1):
    assert exact_score(gold, prediction) == exact
    assert f1_score(gold, prediction) == f1


def test_maximum_over_golds_leaves_out_empty_ones():
    exact, f1 = raw_scores({"q": ["the", "big cat", "cat"], "only-empty": ["the"]}, {"q": "cat", "only-empty": ""})
    assert exact == {"q": 1, "only-empty": 1}
    assert f1 == {"q": 1.0, "only-empty": 1}


def test_all_figures_by_hand():
    golds = {"a": ["red fox"], "b": ["blue"], "c": [], "d": []}
    predictions = {"a": "fox", "b": "blue", "c": "green", "d": "grey"}
    null_odds = {"d": 2.0, "a": -1.0, "b": 1.0, "c": 0.0}
    metrics = squad_v2_metrics(golds, predictions, null_odds, threshold=0.5)
    f1_of_a = 2 / 3
    assert metrics == pytest.approx(
        {
            # a answered in part, b silenced though it was right, c answered wrongly, d silenced rightly
            "exact": 25.0,
            "f1": 100 * (f1_of_a + 1) / 4,
            "total": 4,
            "HasAns_exact": 0.0,
            "HasAns_f1": 100 * f1_of_a / 2,
            "HasAns_total": 2,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
            "NoAns_total": 2,
            # nothing answered: 2; then a: 2 (F1 2.67), c: 1 (1.67), b: 2 (2.67), d: 1 (1.67)
            "best_exact": 50.0,
            "best_exact_thresh": 0.0,
            "best_f1": 100 * (2 + f1_of_a) / 4,
            "best_f1_thresh": -1.0,
        }
    )
    assert list(metrics)[:3] == ["exact", "f1", "total"]


def test_without_odds_no_threshold_is_searched_and_groups_without_questions_are_absent():
    assert squad_v2_metrics({"a": ["x"]}, {"a": "x"}) == {
        "exact": 100.0,
        "f1": 100.0,
        "total": 1,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
    }


def test_ties_are_searched_in_the_order_of_the_odds_file():
    """Right before wrong at equal odds reaches a score no threshold could: the official search does count it."""
    golds, predictions = {"right": ["x"], "wrong": []}, {"right": "x", "wrong": "y"}
    exact, _ = raw_scores(golds, predictions)
    assert find_best_threshold(predictions, exact, {"right": 3.0, "wrong": 3.0}, golds) == (100.0, 3.0)
    assert find_best_threshold(predictions, exact, {"wrong": 3.0, "right": 3.0}, golds) == (50.0, 0.0)


def test_the_official_default_answers_up_to_null_odds_of_1_and_odds_of_other_questions_are_skipped():
    golds, predictions = {"a": ["x"], "b": ["y"]}, {"a": "x", "b": "y"}
    odds = {"a": 1.0, "of another file": 1.25, "b": 1.5}
    metrics = squad_v2_metrics(golds, predictions, odds)
    assert metrics["exact"] == 50.0
    assert (metrics["best_exact"], metrics["best_exact_thresh"]) == (100.0, 1.5)


WORDS = st.lists(st.sampled_from(["the", "red", "fox", "Fox,", "a", "½"]), max_size=4).map(" ".join)
QUESTION = st.tuples(st.lists(WORDS, max_size=3), WORDS, st.floats(-10, 10))


@given(st.lists(QUESTION, min_size=1, max_size=12, unique_by=lambda question: question[2]), st.floats(-11, 11))
def test_threshold_blanks_answers_and_search_equals_brute_force(questions, threshold):
    golds = {str(i): answers for i, (answers, _, _) in enumerate(questions)}
    # texts of articles only blur "answered" and "empty"; the rules for them are checked by hand above
    golds = {i: [text for text in answers if normalize_answer(text)] for i, answers in golds.items()}
    predictions = {str(i): text if normalize_answer(text) else "" for i, (_, text, _) in enumerate(questions)}
    null_odds = {str(i): odds for i, (_, _, odds) in enumerate(questions)}  # distinct: no ties

    def with_threshold(limit):
        blanked = {i: "" if null_odds[i] > limit else text for i, text in predictions.items()}
        return squad_v2_metrics(golds, blanked)

    metrics = squad_v2_metrics(golds, predictions, null_odds, threshold)
    expected = with_threshold(threshold)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    for name in ("exact", "f1"):
        reachable = [with_threshold(limit)[name] for limit in [-99.0, *null_odds.values()]]
        assert metrics[f"best_{name}"] == pytest.approx(max(reachable))
        if metrics[f"best_{name}"] > reachable[0]:
            assert with_threshold(metrics[f"best_{name}_thresh"])[name] == pytest.approx(max(reachable))


@pytest.mark.parametrize(
    ("golds", "predictions", "null_odds", "message"),
    [
        ({}, {}, None, "no question to score"),
        ({"q1": ["x"], "q2": []}, {"q1": "x"}, None, r"1 of 2 questions have no prediction .*'q2'"),
        ({"q1": ["x"]}, {"q1": "x"}, {}, r"1 of 1 questions have no null odds .*'q1'"),
    ],
)
def test_what_is_missing_is_named(golds, predictions, null_odds, message):
    with pytest.raises(DataError, match=message):
        squad_v2_metrics(golds, predictions, null_odds)

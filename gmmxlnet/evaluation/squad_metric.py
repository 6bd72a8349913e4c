"""The SQuAD 2.0 metric, numerically identical to the official script.

    golds = {"q1": ["Paris", "in Paris"], "q2": []}            # empty list: unanswerable
    squad_v2_metrics(golds, {"q1": "Paris", "q2": ""}, null_odds={"q1": -3.0, "q2": 1.5}, threshold=0.0)

Scores are in percent. Sums are taken in the order of `golds` (threshold search: of the stably sorted `null_odds`) and
over the same mix of ints and floats as in the official script, since both affect the last digit.
Reference: Rajpurkar et al. 2018, "Know What You Don't Know: Unanswerable Questions for SQuAD".
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from gmmxlnet.data.answer_text import normalize_answer
from gmmxlnet.errors import DataError

Scores = dict[str, float]  # question id -> score in [0, 1]


def exact_score(gold: str, prediction: str) -> int:
    """Returns 1 if the normalized texts are equal, else 0."""
    return int(normalize_answer(gold) == normalize_answer(prediction))


def f1_score(gold: str, prediction: str) -> float:
    """F1 of the two bags of normalized words; if either is empty, 1 if both are, else 0."""
    gold_words, predicted_words = normalize_answer(gold).split(), normalize_answer(prediction).split()
    if not gold_words or not predicted_words:
        return int(gold_words == predicted_words)
    num_same = (Counter(gold_words) & Counter(predicted_words)).total()
    if num_same == 0:
        return 0
    precision, recall = num_same / len(predicted_words), num_same / len(gold_words)
    return (2 * precision * recall) / (precision + recall)


def raw_scores(golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> tuple[Scores, Scores]:
    """Exact match and F1 of each question before thresholding: the maximum over its gold answers.

    Gold answers that normalize to "" are ignored; if none is left, the correct answer is empty.
    """
    exact: Scores = {}
    f1: Scores = {}
    for question_id, answers in golds.items():
        texts = [text for text in answers if normalize_answer(text)] or [""]
        exact[question_id] = max(exact_score(text, predictions[question_id]) for text in texts)
        f1[question_id] = max(f1_score(text, predictions[question_id]) for text in texts)
    return exact, f1


def apply_threshold(
    scores: Scores, null_odds: Mapping[str, float], golds: Mapping[str, Sequence[str]], threshold: float
) -> Scores:
    """Returns the scores with the empty string as the answer to questions whose null odds exceed `threshold`."""
    return {
        question_id: float(not golds[question_id]) if null_odds[question_id] > threshold else score
        for question_id, score in scores.items()
    }


def find_best_threshold(
    predictions: Mapping[str, str],
    scores: Scores,
    null_odds: Mapping[str, float],
    golds: Mapping[str, Sequence[str]],
) -> tuple[float, float]:
    """Returns the highest reachable score (percent) and the null odds threshold that reaches it.

    Same search as in the official script: starts with all questions unanswered (threshold 0.0 if nothing beats that)
    and answers one more at a time by ascending odds; the first maximum wins, and tied odds are taken one by one.
    """
    current: float = sum(not answers for answers in golds.values())
    best = current
    best_threshold = 0.0
    for question_id in sorted(null_odds, key=null_odds.__getitem__):
        if question_id not in scores:
            continue
        if golds[question_id]:
            current += scores[question_id]
        elif predictions[question_id]:
            current -= 1
        if current > best:
            best, best_threshold = current, null_odds[question_id]
    return 100.0 * best / len(scores), best_threshold


def _averages(prefix: str, exact: Scores, f1: Scores, question_ids: Iterable[str]) -> dict[str, float]:
    question_ids = list(question_ids)
    total = len(question_ids)
    return {
        f"{prefix}exact": 100.0 * sum(exact[question_id] for question_id in question_ids) / total,
        f"{prefix}f1": 100.0 * sum(f1[question_id] for question_id in question_ids) / total,
        f"{prefix}total": total,
    }


def squad_v2_metrics(
    golds: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """All figures of the official script, under its names (`exact`, `f1`, `total`, `HasAns_exact`, …), in percent.

    Args:
        golds: the gold answers of every question, empty if unanswerable, in the order of the dataset.
        predictions: the answer to every question; answers to other questions are ignored.
        null_odds: null score minus best span score of each question; if given, `best_*` figures are included.
        threshold: questions with null odds above it are scored with the empty answer.

    Raises:
        DataError: there are no questions, or a question has no prediction or no null odds.
    """
    if not golds:
        raise DataError("no question to score: the dataset is empty; give one that holds at least one question")
    for name, given in (("prediction", predictions), ("null odds", null_odds)):
        missing = [question_id for question_id in golds if given is not None and question_id not in given]
        if missing:
            raise DataError(f"{len(missing)} of {len(golds)} questions have no {name} (the first is {missing[0]!r})")
    exact_raw, f1_raw = raw_scores(golds, predictions)
    exact, f1 = exact_raw, f1_raw
    if null_odds is not None:
        exact, f1 = (apply_threshold(scores, null_odds, golds, threshold) for scores in (exact_raw, f1_raw))
    metrics = _averages("", exact, f1, golds)
    answerable = [question_id for question_id, answers in golds.items() if answers]
    unanswerable = [question_id for question_id, answers in golds.items() if not answers]
    if answerable:
        metrics |= _averages("HasAns_", exact, f1, answerable)
    if unanswerable:
        metrics |= _averages("NoAns_", exact, f1, unanswerable)
    if null_odds is not None:
        for name, scores in (("best_exact", exact_raw), ("best_f1", f1_raw)):
            metrics[name], metrics[f"{name}_thresh"] = find_best_threshold(predictions, scores, null_odds, golds)
    return metrics

"""Typical words and chosen answers: what was planted is found."""

import numpy as np
import pytest
import torch

from gmmxlnet.analysis.analyzer import GMMAnalyzer
from gmmxlnet.analysis.experts import expert_profiles, segment_text, typical_words
from gmmxlnet.analysis.shown_answers import choose_answers
from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.evaluation.evaluator import QAEvaluator


@pytest.fixture(scope="module")
def analyzer(make_model, dev_documents):
    torch.manual_seed(0)
    analyzer = GMMAnalyzer(make_model())
    collate = DocumentCollator(layout=dev_documents.layout, memory_tokens=True)
    analyzer.track_routing([collate([dev_documents[i] for i in range(len(dev_documents))])])
    return analyzer


def test_words_of_each_expert_are_found():
    texts = ["the king and the crown", "the river and the ford"] * 20
    words = typical_words(texts, np.array([[0.9, 0.1], [0.1, 0.9]] * 20))
    assert {word for word, _ in words[0]} == {"king", "crown"}
    assert dict(words[1])["river"] == pytest.approx(1.8)


def test_no_word_is_typical_of_even_routing():
    texts = ["the king and the crown", "the river and the ford"] * 20
    assert typical_words(texts, np.full((40, 2), 0.5)) == [[], []]
    assert typical_words(["", "..."], np.full((2, 3), 1 / 3)) == [[], [], []]


def test_segments_texts_make_up_the_document(dev_documents):
    text, bounds = dev_documents.context_text(0), dev_documents[0].segments
    parts = [segment_text(dev_documents, 0, s) for s in range(len(bounds))]
    assert len(parts) == 4
    assert text.startswith(parts[0])
    assert text.endswith(parts[-1])
    assert all(part in text for part in parts)


def test_profiles_add_up(analyzer, dev_documents):
    profiles = expert_profiles(dev_documents, analyzer.table)
    assert sum(profile.share for profile in profiles) == pytest.approx(1)
    for kind in ("cross", "local", "unanswerable"):
        assert sum(profile.share_by_type[kind] for profile in profiles) == pytest.approx(1)
    assert all(profile.example for profile in profiles)


def test_answers_chosen_are_right_or_wrong_as_scored(analyzer, dev_documents, sample_tokenizer):
    predictions = QAEvaluator(analyzer.model, sample_tokenizer).predict(dev_documents)
    threshold = float(np.median(predictions.null_odds))
    shown = choose_answers(dev_documents, predictions.n_best_by_id(), threshold, analyzer.table)
    given = predictions.answers(threshold)
    assert {answer.right for answer in shown} == {True, False}
    for answer in shown:
        same = [
            i
            for i in range(len(dev_documents))
            if (dev_documents.question_text(i), dev_documents.context_text(i)) == (answer.question, answer.text)
        ]
        assert answer.given in [given[dev_documents.question_id(i)] for i in same]
        assert answer.right == (answer.given in (answer.golds or [""]))
        assert "".join(answer.text[s.start : s.end] for s in answer.segments) == answer.text
        assert all(sum(s.routing) == pytest.approx(1) for s in answer.segments)
        if answer.span:
            assert answer.text[slice(*answer.span)] == answer.given
        if answer.gold_span:
            assert answer.text[slice(*answer.gold_span)] in answer.golds


def test_types_take_turns(dev_documents, analyzer, sample_tokenizer):
    predictions = QAEvaluator(analyzer.model, sample_tokenizer).predict(dev_documents)
    never = choose_answers(dev_documents, predictions.n_best_by_id(), -1e9, None, count=3)
    wrong = [answer for answer in never if not answer.right]
    assert [answer.given for answer in never] == [""] * len(never)
    assert {answer.question_type for answer in wrong} == {"cross", "local", None}  # unanswerable ones are all right
    assert all(segment.routing is None for answer in never for segment in answer.segments)


def test_answers_come_from_as_many_contexts_as_possible(dev_documents, analyzer, sample_tokenizer):
    predictions = QAEvaluator(analyzer.model, sample_tokenizer).predict(dev_documents)
    wrong = choose_answers(dev_documents, predictions.n_best_by_id(), 1e9, None, count=4)
    contexts = [answer.text for answer in wrong if not answer.right]
    assert len(contexts) == len(set(contexts)) == 4

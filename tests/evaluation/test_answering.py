"""Asking about one's own text gives what evaluation gives, with characters that point into the text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gmmxlnet.errors import CheckpointError, DataError, GMMXLNetError
from gmmxlnet.evaluation.answering import answer
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.models import GMMXLNetForQA

QUESTION = "Who is the baker?"


@pytest.fixture(scope="module")
def model(sample_checkpoint):
    return GMMXLNetForQA.from_pretrained(sample_checkpoint)


@pytest.fixture(scope="module")
def texts(dev_documents):
    """Contexts of four segments and of one."""
    return [dev_documents.context_text(0), dev_documents.context_text(len(dev_documents) - 1)]


def test_answers_are_those_of_the_evaluation(model, sample_tokenizer, dev_documents):
    rows = [0, 5, len(dev_documents) - 1]
    predictions = QAEvaluator(model, sample_tokenizer).predict(dev_documents)
    for i in rows:
        threshold = float(predictions.null_odds[i]) + 1e-3  # just below it the answer still counts
        found = model.answer(dev_documents.question_text(i), dev_documents.context_text(i), threshold=threshold)
        assert found.text == predictions.best_texts[i] != ""
        assert found.null_odds == pytest.approx(predictions.null_odds[i], abs=1e-4)
        assert found.segment == predictions.segment[i, 0]
        assert found.num_segments == dev_documents.num_segments()[i]


def test_characters_point_into_the_document(model, texts):
    for text in texts:
        found = model.answer(QUESTION, text, threshold=1e9, n_best=4)
        assert found.text == text[found.char_start : found.char_end]
        assert len(found.candidates) == 4
        assert [c.score for c in found.candidates] == sorted((c.score for c in found.candidates), reverse=True)
        for candidate in found.candidates:
            if candidate.char_start is not None:
                assert candidate.text == text[candidate.char_start : candidate.char_end]


def test_above_the_threshold_there_is_no_answer(model, texts):
    found = model.answer(QUESTION, texts[0], threshold=-1e9)
    assert (found.text, found.char_start, found.char_end, found.segment) == ("", None, None, None)


def test_probabilities_do_not_depend_on_how_many_are_asked_for(model, texts):
    one, many = (model.answer(QUESTION, texts[0], n_best=n, threshold=1e9) for n in (1, 10))
    assert one.probability == many.probability
    assert sum(c.probability for c in many.candidates) <= 1


def test_in_bfloat16_the_answers_stay_and_the_scores_move_a_little(model, dev_documents):
    rows = range(0, len(dev_documents), len(dev_documents) // 12)
    asked = [dev_documents.question_text(i) for i in rows], [dev_documents.context_text(i) for i in rows]
    exact, rounded = (answer(model, *asked, precision=precision) for precision in ("float32", "bfloat16"))
    moved = [abs(a.null_odds - b.null_odds) for a, b in zip(exact, rounded, strict=True)]
    assert 0 < max(moved) < 2
    assert [a.candidates[0].text for a in exact] == [b.candidates[0].text for b in rounded]


def test_lists_give_lists_and_batch_mates_change_nothing(model, texts):
    questions = [QUESTION, "Who is the host today?"]
    crossed = [model.answer(q, t, threshold=1e9) for q in questions for t in texts]
    at_once = model.answer([q for q in questions for _ in texts], texts * 2, threshold=1e9)
    assert [a.text for a in at_once] == [a.text for a in crossed]
    assert [a.question for a in model.answer(questions, texts[0])] == questions
    assert len(model.answer(QUESTION, texts)) == 2
    assert model.answer([QUESTION], texts[0], threshold=1e9)[0] == crossed[0]


@settings(max_examples=40)
@given(num_words=st.integers(1, 24), n_best=st.integers(1, 1_000), longest=st.integers(1, 30))
@example(num_words=1, n_best=5, longest=30)
@example(num_words=15, n_best=1_000, longest=30)
def test_a_short_document_has_as_many_candidates_as_spans(model, num_words, n_best, longest):
    words = ("The", "flag", "is", "red", "today", "host")
    text = " ".join(words[i % len(words)] for i in range(num_words))
    found = model.answer(QUESTION, text, n_best=n_best, max_answer_length=longest, threshold=1e9)
    num_spans = sum(min(longest, num_words - first) for first in range(num_words))
    considered = min(max(n_best, 20), num_spans) + 1  # and the empty answer
    assert len(found.candidates) == min(n_best, considered)
    places = {(c.char_start, c.char_end) for c in found.candidates}
    assert len(places) == len(found.candidates)
    for candidate in found.candidates:
        if candidate.char_start is not None:
            assert candidate.text == text[candidate.char_start : candidate.char_end] == candidate.text.strip() != ""


def test_a_document_without_a_token_has_no_answer(model):
    assert model.answer(QUESTION, "\N{COMBINING GRAVE ACCENT}", threshold=1e9).text == ""


def test_a_document_of_many_segments(model):
    text = " ".join(f"House number {n} has a new roof." for n in range(200))
    found = model.answer(QUESTION, text, threshold=1e9)
    assert found.num_segments > 40
    assert text[found.char_start : found.char_end] == found.text


def test_a_model_never_trained_takes_the_usual_segments_or_those_it_is_given(make_model, sample_tokenizer, texts):
    fresh = make_model()
    assert fresh.answer(QUESTION, texts[0], tokenizer=sample_tokenizer).num_segments == 1
    cut = fresh.answer(QUESTION, texts[0], tokenizer=sample_tokenizer, max_seq_length=48, doc_stride=8)
    assert cut.num_segments == 4


@pytest.mark.parametrize(
    ("question", "document", "words"),
    [
        ("Who?", " \n", "document 1 of 1 is empty"),
        (["Who?", ""], "A text.", "question 2 of 2 is empty"),
        (["Who?", "When?"], ["One.", "Two.", "Three."], "2 questions and 3 documents"),
        ("Who " * 40, "A text.", r"question 1 of 1 has 40 tokens; a segment of 48 has room for at most \d+ beside"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(model, question, document, words):
    with pytest.raises(DataError, match=words):
        model.answer(question, document)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"question": 3}, "question must be a text or a list of texts, not int"),
        ({"question": b"Who?"}, "question must be a text or a list of texts, not bytes"),
        ({"document": ["A text.", None]}, "document 2 of 2 must be a text, not NoneType"),
        ({"threshold": "0"}, "threshold must be a number, not '0'"),
        ({"threshold": float("nan")}, "threshold must be a number, not nan"),
        ({"n_best": 2.0}, r"n_best must be an integer from 1 to 10,000, not '2\.0'"),
        ({"n_best": 10**30}, "n_best must be an integer from 1 to 10,000, not '1000"),
        ({"precision": "half"}, "precision must be one of auto, float32, bfloat16, not 'half'"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, not '0'"),
        ({"max_answer_length": True}, "max_answer_length must be an integer >= 1, not 'True'"),
        ({"max_seq_length": "48"}, "max_seq_length must be an integer >= 1"),
        ({"doc_stride": -1}, "doc_stride must be an integer >= 0"),
        ({"tokenizer": "bert"}, "is a str without a fast form"),
        (
            {"document": "Cut \ud83d"},
            r"document 1 of 1: character 4 is a lone surrogate \(\\ud83d\), half of a character",
        ),
    ],
)
def test_wrong_types_and_values_are_named(model, options, words):
    given = {"question": QUESTION, "document": "A text.", **options}
    with pytest.raises(GMMXLNetError, match=words):
        answer(model, given.pop("question"), given.pop("document"), **given)


def test_unfamiliar_words_are_counted(model, texts):
    found = model.answer([QUESTION, "Who xyzzies the baker?"], texts[0], threshold=1e9)
    assert [each.unfamiliar_in_document for each in found] == [0, 0]
    assert [each.unfamiliar_in_question for each in found] == [0, 0.25]
    assert [each.unfamiliar_words for each in found] == [(), ("xyzzies",)]
    other = model.answer(QUESTION, ["The flag. Qwerty", texts[0]], threshold=1e9)
    assert [round(each.unfamiliar_in_document, 3) for each in other] == [0.333, 0]


def test_the_longest_question_that_fits_is_answered(model, texts):
    with pytest.raises(DataError, match="at most") as refused:
        model.answer("Who " * 40, texts[0])
    most = int(str(refused.value).partition("at most ")[2].split()[0])
    assert model.answer("Who " * most, texts[0]).num_segments > 10


def test_a_model_from_nowhere_needs_a_tokenizer(make_model):
    with pytest.raises(CheckpointError, match="pass its tokenizer"):
        make_model().answer("Who?", "A text.")

"""How the sentence with an answer refers to what the question is about."""

import pytest

from gmmxlnet.comparison.subjects import NAME, NEITHER, NO_ANSWER, PRONOUN, answer_subjects, sentence_at, subject_of
from gmmxlnet.data.chunks import build_split
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.named_facts import split_sentences
from gmmxlnet.data.segments import make_layout
from gmmxlnet.data.squad import articles_from_records
from gmmxlnet.data.tokenizer import scratch_tokenizer

TEXT = (
    "Chopin left early. He went to Paris in 1831, where its theaters were. Rain fell on Vienna in May! Nobody minded."
)


@pytest.mark.parametrize(
    ("question", "sentence", "kind"),
    [
        ("When did Chopin leave?", "Chopin left early.", NAME),
        ("When did Chopin leave?", "In 1831 he left, and Liszt stayed.", PRONOUN),
        ("When did Chopin leave?", "The Chopins left in 1831.", NEITHER),  # another word
        ("When did he leave?", "Chopin left.", NEITHER),  # the question has no name; its first word is none
        ("Chopin left when?", "Chopin left their town.", PRONOUN),
        ("When did Chopin leave?", "Items were sold.", NEITHER),  # no pronoun within a word
    ],
)
def test_kinds(question, sentence, kind):
    assert subject_of(question, sentence) == kind


def test_the_sentence_is_the_one_around_the_answer():
    bounds = split_sentences(TEXT)
    assert sentence_at(TEXT, bounds, TEXT.index("Vienna"), TEXT.index(" in May")) == "Rain fell on Vienna in May!"
    across = sentence_at(TEXT, bounds, TEXT.index("May"), TEXT.index(" minded"))
    assert across == "Rain fell on Vienna in May! Nobody minded."


def test_each_question_has_a_kind():
    asked = [
        ("When did Chopin leave?", "early"),
        ("When was Chopin in Paris?", "1831"),
        ("When did Chopin go?", "1831"),
        ("What fell on Chopin?", "Rain"),
        ("Who was Chopin?", None),
    ]
    questions = [
        {
            "id": str(i),
            "question": question,
            "answers": [{"text": answer, "answer_start": TEXT.index(answer)}] if answer else [],
            "is_impossible": answer is None,
        }
        for i, (question, answer) in enumerate(asked)
    ]
    record = {"title": "t", "paragraphs": [{"context": TEXT, "qas": questions}]}
    (passage,) = articles_from_records([record], "here")[0].paragraphs
    tokenizer = scratch_tokenizer([TEXT, *(question for question, _ in asked)])
    layout = make_layout(tokenizer, max_seq_length=64, doc_stride=4, memory_num_tokens=0, max_question_length=20)
    built = build_split(
        [(passage, question) for question in passage.questions], tokenizer, layout, 20, drop_unlabeled=False
    )

    class Answered:
        documents = Documents(built)

    assert answer_subjects(Answered()).tolist() == [NAME, NAME, PRONOUN, NEITHER, NO_ANSWER]

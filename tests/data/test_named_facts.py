"""Facts about names: which sentence, name and answer of a SQuAD question are taken, and of which kind they are."""

import pytest

from gmmxlnet.data.named_facts import facts_of, filler_sentences, shape_of, split_sentences
from gmmxlnet.data.squad import articles_from_records

TEXT = (
    'In 1829 Dr. Chopin returned to Warsaw, as J. S. Bach never did. He said "no." Later, in the spring of that '
    "year,\nhe wrote to Titus in Warsaw. Nobody answered him for weeks."
)


def article(*questions, text=TEXT):
    asked = [
        {"id": str(i), "question": q, "answers": [{"text": a, "answer_start": text.index(a)}]}
        for i, (q, a) in enumerate(questions)
    ]
    (one,) = articles_from_records([{"title": "Chopin", "paragraphs": [{"context": text, "qas": asked}]}], "here")
    return one


def test_sentences_end_neither_at_titles_nor_at_initials():
    first, second, third, last = (TEXT[start:end] for start, end in split_sentences(TEXT))
    assert first == "In 1829 Dr. Chopin returned to Warsaw, as J. S. Bach never did."
    assert second == 'He said "no."'
    assert third.startswith("Later")
    assert last == "Nobody answered him for weeks."
    assert split_sentences("  one ") == [(2, 5)]
    assert split_sentences(" ") == []


def test_a_fact_has_the_names_and_the_kinds_of_its_question():
    (fact,) = facts_of(article(("When did Chopin return to Warsaw?", "1829")), max_sentence_words=25)
    assert (fact.name, fact.name_kind) == ("Chopin", "did")  # the first name that both have
    assert (fact.answer, fact.answer_kind) == ("1829", ("when", "0000"))
    assert fact.sentence == "In 1829 Dr. Chopin returned to Warsaw, as J. S. Bach never did."
    (fact,) = facts_of(article(("In what year did he return to Warsaw?", "1829")), max_sentence_words=25)
    assert (fact.name, fact.name_kind, fact.answer_kind) == ("Warsaw", "to", ("what year", "0000"))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When did he return?", "1829"),  # no name
        ("When did Vienna see Titus?", "1829"),  # no name of the sentence
        ("Who returned to Warsaw?", "Dr. Chopin returned to Warsaw"),  # the name is part of the answer
        ("What did Bach never do?", "returned"),  # of no kind
        ("Who wrote to Titus?", "he"),
        ("Name the town of Bach.", "Warsaw"),  # no question word
        ("To whom in Warsaw did he write in the spring?", "Titus"),  # the sentence is broken by a line's end
    ],
)
def test_other_questions_make_no_fact(question, answer):
    assert facts_of(article((question, answer)), max_sentence_words=25) == []


def test_long_and_short_sentences_are_left_out():
    asked = ("When did Chopin return to Warsaw?", "1829")
    assert facts_of(article(asked), max_sentence_words=17) == []
    assert len(facts_of(article(asked), max_sentence_words=18)) == 1
    assert filler_sentences(article(asked), max_sentence_words=17) == [
        'He said "no."',
        "Later, in the spring of that year, he wrote to Titus in Warsaw.",
        "Nobody answered him for weeks.",
    ]


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        ("1829", "0000"),
        ("50%", None),
        ("513,319", "000,000"),
        ("July 30, 1930", "A 00, 0000"),
        ("the Uzbek SSR", "a A A"),
        ("SV40", "0a"),
        ("30 million", "00 a"),
        ("to find gold", None),
        ("one two Three four five", None),
        ("", None),
    ],
)
def test_the_shape_of_an_answer(answer, shape):
    assert shape_of(answer) == shape

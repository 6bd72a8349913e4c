"""Documents with code words: what they say where, and that they cannot be answered without the definitions."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmxlnet.data.answer_text import normalize_answer
from gmmxlnet.data.code_words import CODE_WORDS, CodeWordSettings, Pool, _Draft, documents, main, write_code_words
from gmmxlnet.data.named_facts import count_words, split_articles
from gmmxlnet.data.squad import Article, articles_from_records, read_squad_file
from gmmxlnet.errors import ConfigError, DataError

PEOPLE = ("Ada Byron", "Boris", "Clara Wieck", "Dante", "Edith Piaf", "Frege", "Greta Thun", "Hume")
PLACES = ("Warsaw", "New Delhi", "Vienna", "Oslo", "Lima Norte", "Kyoto", "Porto", "Quito")
PLAIN = ("The river froze twice in that winter.", "Old bridges were repaired by the guild of masons.")


def record(number):
    """An article with two facts whose names, years and people are its own."""
    person, place, year = PEOPLE[number % 8], PLACES[number % 8], 1800 + number
    fact = f"It is known that {person} first came to {place} in {year}."
    said = f"{fact} {PLAIN[0]} Around {place} lies a forest. {PLAIN[1]}"

    def question(text, answer):
        return {
            "id": f"{number} {text}",
            "question": text,
            "answers": [{"text": answer, "answer_start": said.index(answer)}],
        }

    asked = [
        question(f"When did {person} first come to a city?", str(year)),
        question(f"Who first came to {place}?", person),
    ]
    return {"title": f"Article {number}", "paragraphs": [{"context": said, "qas": asked}]}


ARTICLES = articles_from_records([record(number) for number in range(30)], "here")
SHORT = CodeWordSettings(segment_words=20, passage_words=15)


def made(how=SHORT, count=20, split="dev", articles=ARTICLES, **more):
    pool = Pool.of(articles, how, split)
    return [article["paragraphs"][0] for article in documents(pool, how, split, count, **more)]


def definitions(context):
    """Name by code word, as the first paragraph says."""
    first = context.partition("\n\n")[0]
    return {code: name for code, name in re.findall(r"(\w+) is ([^.]+)\.", first) if code in CODE_WORDS}


def facts(context):
    """The words before and after the code word in each later paragraph that has one, and the code word."""
    return {
        code: paragraph
        for paragraph in context.split("\n\n")[1:]
        for code in CODE_WORDS
        if re.search(rf"\b{code}\b", paragraph)
    }


@given(
    load=st.integers(2, 6),
    control=st.sampled_from(["first", "repeated", "asked", "removed"]),
    seed=st.integers(0, 2**32),
    start=st.integers(0, 10**6),
    segment_words=st.integers(0, 60),
)
@settings(deadline=None, max_examples=60)
def test_answers_stand_where_they_are_said_to(load, control, seed, start, segment_words):
    how = CodeWordSettings(loads=(load,), definitions=control, segment_words=segment_words, passage_words=15)
    for paragraph in made(how, 2, seed=seed, start=start):
        assert len(paragraph["qas"]) == load
        for question in paragraph["qas"]:
            (answer,) = question["answers"]
            first, text = answer["answer_start"], answer["text"]
            assert paragraph["context"][first : first + len(text)] == text
            assert len(re.findall(rf"(?<!\w){re.escape(text)}(?!\w)", paragraph["context"])) == 1
    articles_from_records([{"title": "t", "paragraphs": made(how, 1, seed=seed)}], "what a reader says of it")


def test_the_definitions_lead_to_the_answers():
    for paragraph in made():
        said, later = definitions(paragraph["context"]), facts(paragraph["context"])
        assert sorted(said) == sorted(later)
        for question in paragraph["qas"]:
            (code,) = [code for code, name in said.items() if name in question["question"]]
            assert question["answers"][0]["text"] in later[code]
            assert code not in question["question"]


def test_without_them_the_questions_of_a_document_cannot_be_told_apart():
    """The n sentences differ in code word and answer alone, the n questions in the name alone: 1 of n at best."""
    for paragraph in made(CodeWordSettings(segment_words=20, passage_words=0, definitions="removed")):
        assert not definitions(paragraph["context"])
        answers = [question["answers"][0]["text"] for question in paragraph["qas"]]
        assert len({normalize_answer(answer) for answer in answers}) == 4
        names = [name for name in (*PEOPLE, *PLACES) if any(name in q["question"] for q in paragraph["qas"])]
        questions = {re.sub("|".join(names), "NAME", question["question"]) for question in paragraph["qas"]}
        assert len(questions) == 1
        sentences = {
            re.sub("|".join([*CODE_WORDS, *map(re.escape, answers)]), "X", part)
            for part in paragraph["context"].split("\n\n")[1:]
        }
        assert len(sentences) == 1


def test_any_name_may_stand_for_any_sentence():
    """The name that the sentence really had is as often in each place as any other."""
    places = np.zeros(4)
    pool = Pool.of(ARTICLES, SHORT, "train")
    for i in range(400):
        draft = _Draft.draw(pool, 4, np.random.default_rng([1, i]))
        places[draft.names.index(draft.fact.name)] += 1
        assert draft.answers[0] == draft.fact.answer
    assert places.min() > 70


def test_controls_have_the_same_questions_sentences_and_answers():
    first, repeated, removed = (
        made(CodeWordSettings(segment_words=20, passage_words=15, definitions=control))
        for control in ("first", "repeated", "removed")
    )
    for one, again, without in zip(first, repeated, removed, strict=True):
        for key in ("id", "question"):
            assert [q[key] for q in one["qas"]] == [q[key] for q in again["qas"]] == [q[key] for q in without["qas"]]
        answers = [[q["answers"][0]["text"] for q in each["qas"]] for each in (one, again, without)]
        assert answers[0] == answers[1] == answers[2]
        said = definitions(one["context"])
        for code, paragraph in facts(again["context"]).items():
            assert f"In this text {code} is {said[code]}. " in paragraph
            assert "In this text" not in facts(one["context"])[code]
        assert sorted(facts(without["context"])) == sorted(said)
        assert "In this text" not in without["context"]
    assert {q["question_type"] for each in removed for q in each["qas"]} == {"code_load4_removed"}


def test_the_question_may_name_the_code_word_instead():
    for one, asked in zip(
        made(), made(CodeWordSettings(segment_words=20, passage_words=15, definitions="asked")), strict=True
    ):
        assert one["context"] == asked["context"]
        said = definitions(one["context"])
        for by_name, by_code in zip(one["qas"], asked["qas"], strict=True):
            (code,) = [code for code in said if code in by_code["question"]]
            assert by_code["question"].replace(code, said[code]) == by_name["question"]
            assert by_code["answers"] == by_name["answers"]


@given(words=st.integers(0, 200))
@settings(deadline=None, max_examples=20)
def test_no_short_segment_holds_a_definition_and_a_sentence(words):
    for paragraph in made(CodeWordSettings(segment_words=words, passage_words=15), 3):
        first = paragraph["context"].partition("\n\n")[0]
        last = max(
            first.index(f"{code} is {name}.") + len(f"{code} is {name}.") for code, name in definitions(first).items()
        )
        assert count_words(first[last:]) >= words


@given(count=st.integers(1, 5), start=st.integers(0, 50), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_a_document_depends_on_seed_and_number_alone(count, start, seed):
    assert made(count=count, start=start, seed=seed) == made(count=start + count, seed=seed)[start:]
    assert made(count=1, seed=seed) != made(count=1, seed=seed + 1)
    assert made(count=1, seed=seed, split="train") != made(count=1, seed=seed)


@given(titles=st.lists(st.text(max_size=3), min_size=2, max_size=20), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_articles_are_of_one_split(titles, share, seed):
    articles = [Article(title, ()) for title in titles]
    train, dev = split_articles(articles, share, seed)
    assert len(train) + len(dev) == len(articles)
    assert not {article.title for article in train} & {article.title for article in dev}
    if len(set(titles)) > 1:
        assert train
        assert dev
    again = split_articles(articles[::-1], share, seed)
    assert {article.title for article in again[1]} == {article.title for article in dev}


def test_the_command_writes_disjoint_files_that_the_reader_accepts(tmp_path, monkeypatch):
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [record(number) for number in range(40)]}))
    command = [
        "code_words",
        str(squad),
        str(tmp_path / "out"),
        "--load",
        "2",
        "3",
        "--num-train",
        "12",
        "--num-dev",
        "6",
    ]
    monkeypatch.setattr("sys.argv", [*command, "--dev-fraction", "0.3", "--segment-words", "20"])
    main()
    files = {split: tmp_path / "out" / f"{split}.json" for split in ("train", "dev")}
    bytes_before = files["train"].read_bytes()
    main()
    assert files["train"].read_bytes() == bytes_before
    read = {split: read_squad_file(file) for split, file in files.items()}
    assert [len(article.paragraphs[0].questions) for article in read["dev"]] == [2, 3, 2, 3, 2, 3]
    assert {q.question_type for a in read["dev"] for q in a.paragraphs[0].questions} == {"code_load2", "code_load3"}
    titles = {split: {" ".join(a.title.split()[:2]) for a in articles} for split, articles in read.items()}
    assert not titles["train"] & titles["dev"]
    years = {
        split: {year for a in articles for year in re.findall(r"\b18\d\d\b", a.paragraphs[0].text)}
        for split, articles in read.items()
    }
    assert years["train"]
    assert not years["train"] & years["dev"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"loads": (1,)}, "load must be an integer in"),
        ({"loads": ()}, "load must be an integer in"),
        ({"definitions": "often"}, "definitions must be one of first, repeated, asked, removed, not 'often'"),
        ({"max_sentence_words": 5}, "max_sentence_words must be >= 10"),
        ({"segment_words": -1}, "must be >= 0"),
    ],
)
def test_impossible_settings_are_refused(how, said):
    with pytest.raises(ConfigError, match=said):
        CodeWordSettings(**how)


def test_a_file_without_names_or_with_too_few_is_refused(tmp_path):
    squad = tmp_path / "squad.json"
    paragraph = {"context": "nothing has a name here.", "qas": [
        {"id": "1", "question": "what has a name?", "answers": [{"text": "nothing", "answer_start": 0}]}
    ]}  # fmt: skip
    squad.write_text(
        json.dumps(
            {
                "data": [
                    {"title": t, "paragraphs": [dict(paragraph, qas=[dict(paragraph["qas"][0], id=t)])]} for t in "ab"
                ]
            }
        )
    )
    with pytest.raises(DataError, match="the train articles have no question whose name"):
        write_code_words(squad, tmp_path / "out", SHORT, num_train=1, num_dev=1)
    with pytest.raises(DataError, match="no fact with 16 names and answers of the same kind"):
        made(CodeWordSettings(loads=(16,)), articles=ARTICLES[:5])

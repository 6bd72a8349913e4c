"""The load world: what a document says where, and what its questions ask."""

import json
import re

import pytest

from gmmxlnet.data.load import ALL_TOWNS, TOWNS_ASKED, LoadWorld, articles, main
from gmmxlnet.data.sample import FLAGS, HELD_OUT, PEOPLE, ROLES
from gmmxlnet.errors import ConfigError
from gmmxlnet.options import MAX_TOWNS

WORLD = LoadWorld(num_towns=4, num_updates=2, lag=2)


def paragraphs(world, split="dev", count=40, **how):
    return [article["paragraphs"][0] for article in articles(world, split, count, **how)]


def words(text):
    return re.findall(r"\w+|[^\w\s]", text)


def facts(context):
    """Each town's flags in the order in which they are said."""
    said = {}
    for town, flag in re.findall(r"[Tt]he flag in (\w+) is (\w+)\.", context):
        said.setdefault(town, []).append(flag)
    return said


def today(context):
    return re.search(r"Today's report is from (\w+)\.", context)[1]


def test_answers_follow_from_the_text():
    for paragraph in paragraphs(WORLD):
        context = paragraph["context"]
        flags, duty = facts(context), dict(re.findall(r"(\w+) is (\w+)[,.]", context[context.index("On duty:") :]))
        assert sorted(duty) == sorted(FLAGS)
        late, *early, flag, if_flag, trade, unknown = paragraph["qas"]
        towns = [re.fullmatch(r"Who is on duty in (\w+)\?", question["question"])[1] for question in early]
        assert len(set(towns)) == TOWNS_ASKED
        for town, question in zip(towns, early, strict=True):
            assert question["answers"][0]["text"] == duty[flags[town][-1]]
        steady = re.fullmatch(r"Which flag is in (\w+)\?", flag["question"])[1]
        assert [flag["answers"][0]["text"]] == flags[steady]
        assert context[: flag["answers"][0]["answer_start"]].endswith(f"The flag in {steady} is ")
        assert late["answers"][0]["text"] == duty[flags[today(context)][-1]]
        assert if_flag["answers"][0]["text"] == duty[if_flag["question"].split()[-1][:-1]]
        assert f"The {trade['question'].split()[-1][:-1]} is {trade['answers'][0]['text']}." in context
        assert unknown["question"].split()[-1][:-1] not in context
        assert unknown["is_impossible"]
        for question in paragraph["qas"]:
            for answer in question["answers"]:
                start = answer["answer_start"]
                assert context[start : start + len(answer["text"])] == answer["text"]


def test_question_types_name_load_lag_and_what_became_of_the_flag():
    seen = set()
    for paragraph in paragraphs(WORLD):
        flags = facts(paragraph["context"])
        asked = {"cross": today(paragraph["context"]), "early": paragraph["qas"][1]["question"].split()[-1][:-1]}
        for question, (kind, town) in zip(paragraph["qas"], asked.items(), strict=False):
            fate = "updated" if len(flags[town]) == 2 else "untouched"
            assert question["question_type"] == f"{kind}_load4_lag2_{fate}"
            seen.add(question["question_type"])
    assert len(seen) == 4
    assert paragraphs(LoadWorld(num_towns=2, lag=0), count=1)[0]["qas"][0]["question_type"] == "cross_load2_lag0"


@pytest.mark.parametrize(("num_towns", "num_updates", "lag"), [(1, 0, 0), (1, 1, 1), (4, 2, 2), (16, 0, 0), (5, 3, 1)])
def test_facts_town_and_list_stand_in_segments_of_their_own(num_towns, num_updates, lag):
    world = LoadWorld(num_towns=num_towns, num_updates=num_updates, lag=lag)
    for paragraph in paragraphs(world, count=10):
        context = paragraph["context"]
        flags = facts(context)
        assert len(flags) == num_towns
        assert sum(len(said) == 2 for said in flags.values()) == num_updates
        segment_of = [
            len(words(context[: match.start()])) // world.segment_tokens
            for match in re.finditer(r"[Tt]he flag in|Today's report|On duty", context)
        ]
        slack = 1  # a segment's last sentence may reach over its end, and so may each after it
        expected = [i // 2 for i in range(num_towns)]
        expected += [expected[-1] + 1 + i // 2 for i in range(num_updates)]
        expected += [expected[-1] + lag + 1, expected[-1] + lag + 2]
        assert all(0 <= found - wanted <= slack for found, wanted in zip(segment_of, expected, strict=True))
        assert len(words(context)) <= (expected[-1] + 2) * world.segment_tokens


def test_the_town_may_be_named_with_the_list():
    world = LoadWorld(num_towns=4, lag=1, town_with_list=True)
    for paragraph in paragraphs(world, count=10):
        context = paragraph["context"]
        named = re.search(r"Today's report is from \w+\. On duty:", context)
        assert len(words(context[: named.start()])) // world.segment_tokens == 3  # two of flags, one of remarks
        assert paragraph["qas"][0]["answers"][0]["answer_start"] > named.end()


def test_flags_that_all_change_are_not_asked_for():
    questions = [qa["question"] for qa in paragraphs(LoadWorld(num_towns=2, num_updates=2), count=1)[0]["qas"]]
    assert len(questions) == 6
    assert not any(question.startswith("Which flag") for question in questions)


def test_a_changed_flag_differs_from_the_one_before():
    for paragraph in paragraphs(LoadWorld(num_towns=2, num_updates=2)):
        assert all(first != second for first, second in facts(paragraph["context"]).values())


def test_dev_asks_for_combinations_that_train_never_shows():
    def combinations(split):
        return {
            (role, person)
            for paragraph in paragraphs(WORLD, split, 300)
            for role, person in re.findall(r"(\w+) is (\w+)[,.]", paragraph["context"])
            if role in ROLES and person in PEOPLE
        }

    train, dev = combinations("train"), combinations("dev")
    assert not train & dev
    assert len(dev) > len(train) / HELD_OUT


def test_a_document_depends_on_world_seed_split_and_index_alone():
    whole = paragraphs(WORLD, "train", 5)
    assert paragraphs(WORLD, "train", 2, start=3) == whole[3:]
    texts = {paragraph["context"] for paragraph in whole}
    for other in (paragraphs(WORLD, "dev", 5), paragraphs(WORLD, "train", 5, seed=1)):
        assert texts.isdisjoint(paragraph["context"] for paragraph in other)
    assert len(texts) == 5


@pytest.mark.parametrize(
    "wrong",
    [{"num_towns": 0}, {"num_towns": len(ALL_TOWNS) + 1}, {"num_updates": 2}, {"lag": -1}, {"segment_tokens": 10}],
)
def test_impossible_worlds_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LoadWorld(**wrong)


def test_there_are_as_many_towns_as_a_world_may_have():
    assert len(set(ALL_TOWNS)) == MAX_TOWNS


@pytest.mark.parametrize(("num_towns", "num_updates"), [(1, 0), (2, 2), (3, 1), (8, 8)])
def test_every_document_has_the_number_of_questions_that_the_world_tells(num_towns, num_updates):
    world = LoadWorld(num_towns=num_towns, num_updates=num_updates)
    assert {len(paragraph["qas"]) for paragraph in paragraphs(world, count=5)} == {world.num_questions}


def test_the_command_writes_squad_files(tmp_path, monkeypatch):
    arguments = ["load", str(tmp_path / "new"), "--num-towns", "2", "--num-train", "3", "--num-dev", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    read = {split: json.loads((tmp_path / "new" / f"{split}.json").read_text()) for split in ("train", "dev")}
    assert {split: len(dataset["data"]) for split, dataset in read.items()} == {"train": 3, "dev": 2}
    assert read["dev"]["data"] == list(articles(LoadWorld(num_towns=2), "dev", 2))

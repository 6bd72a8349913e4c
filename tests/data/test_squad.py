"""The SQuAD reader reads what is sound and names what is not."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmxlnet.data.squad import as_passages, parse_squad, read_squad_file
from gmmxlnet.errors import DataError

CONTEXT = "The Seine flows through Paris. Paris is in France."


def valid() -> dict[str, Any]:
    questions = [
        {
            "id": "q1",
            "question": "Where is Paris?",
            "answers": [{"text": "France", "answer_start": 43}, {"text": "in France", "answer_start": 40}],
            "is_impossible": False,
            "question_type": "local",
            "condition": "capital",
        },
        {"id": "q2", "question": "Where is Rome?", "answers": [], "is_impossible": True, "plausible_answers": []},
    ]
    third = {"id": "q3", "question": "Wer?", "answers": [{"text": "Ünal", "answer_start": 4}], "is_impossible": False}
    return {
        "version": "v2.0",
        "data": [
            {"title": "Paris", "paragraphs": [{"context": CONTEXT, "qas": questions}]},
            {"title": "Ünal", "paragraphs": [{"context": "Dr. Ünal", "qas": [third]}, {"context": "x", "qas": []}]},
        ],
    }


def parse(record: Any) -> list:
    return parse_squad(json.dumps(record).encode(), "f.json")


def complaint(record: Any) -> str:
    with pytest.raises(DataError) as caught:
        parse(record)
    return str(caught.value)


def test_everything_in_a_file_is_read() -> None:
    paris, unal = parse(valid())
    first, second = paris.paragraphs[0].questions
    assert (paris.title, paris.paragraphs[0].text) == ("Paris", CONTEXT)
    assert first.answers == (("France", 43), ("in France", 40))
    assert (first.question_type, first.condition, first.is_impossible) == ("local", "capital", False)
    assert (second.answers, second.is_impossible, second.question_type) == ((), True, None)
    assert [paragraph.text for paragraph in unal.paragraphs] == ["Dr. Ünal", "x"]


def test_version_1_has_no_is_impossible() -> None:
    record = valid()
    del record["data"][0]["paragraphs"][0]["qas"][1]
    del record["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"]
    assert not parse(record)[0].paragraphs[0].questions[0].is_impossible


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse_squad(b"\xef\xbb\xbf" + json.dumps(valid()).encode(), "f.json") == parse(valid())


def test_joining_an_article_shifts_answers_to_where_they_stand() -> None:
    record = valid()
    record["data"][0]["paragraphs"].append(record["data"][1]["paragraphs"][0])
    del record["data"][1]
    (passage,) = as_passages(parse(record), "article")
    assert [question.id for question in passage.questions] == ["q1", "q2", "q3"]
    for question in passage.questions:
        for text, start in question.answers:
            assert passage.text[start : start + len(text)] == text
    assert passage.text == f"{CONTEXT}\n\nDr. Ünal"


def test_by_paragraph_each_context_stays_alone() -> None:
    assert [len(passage.questions) for passage in as_passages(parse(valid()), "paragraph")] == [2, 1, 0]


def edit(change: Callable[[dict], None]) -> dict[str, Any]:
    record = valid()
    change(record["data"][0]["paragraphs"][0])
    return record


FAULTS: list[tuple[str, Callable[[dict], Any], list[str]]] = [
    ("duplicate id", lambda p: p["qas"][1].update(id="q1"), ["'q1'", "used before", "id of its own"]),
    ("offset", lambda p: p["qas"][0]["answers"][1].update(answer_start=7), ["answers[1]", "7", "set it to 40"]),
    ("negative", lambda p: p["qas"][0]["answers"][0].update(answer_start=-7), ["-7", "set it to 43"]),
    ("text", lambda p: p["qas"][0]["answers"][0].update(text="Spain"), ["'Spain'", "does not contain"]),
    ("blank context", lambda p: p.update(context="  \n"), ["'context'", "not blank"]),
    ("empty question", lambda p: p["qas"][0].update(question=""), ["'q1'", "'question'", "not blank"]),
    ("blank answer", lambda p: p["qas"][0]["answers"][0].update(text=" "), ["answers[0]", "'text'"]),
    ("wrong type", lambda p: p["qas"][0]["answers"][0].update(answer_start="43"), ["'43'", "an integer"]),
    ("float", lambda p: p["qas"][0]["answers"][0].update(answer_start=43.0), ["43.0", "an integer"]),
    ("bool", lambda p: p["qas"][0]["answers"][0].update(answer_start=True), ["true", "an integer"]),
    ("id number", lambda p: p["qas"][1].update(id=2.5), ["question number 1", "the number 2.5", "a string"]),
    ("qas object", lambda p: p.update(qas={}), ["'qas'", "an object", "a list of questions"]),
    ("answer string", lambda p: p["qas"][0].update(answers=["France"]), ["answers[0]", "'answer_start'"]),
    ("both", lambda p: p["qas"][0].update(is_impossible=True), ["'q1'", "is_impossible is true", "empty answers"]),
    ("neither", lambda p: p["qas"][1].update(is_impossible=False), ["'q2'", "no answers", "is_impossible to true"]),
    ("null flag", lambda p: p["qas"][1].update(is_impossible=None), ["'q2'", "null", "true or false"]),
    ("no id", lambda p: p["qas"][1].pop("id"), ["question number 1", "'id'", "missing"]),
    ("no start", lambda p: p["qas"][0]["answers"][1].pop("answer_start"), ["'q1'", "answers[1]", "missing"]),
    ("no context", lambda p: p.pop("context"), ["paragraph 0", "'context'", "missing"]),
    ("type blank", lambda p: p["qas"][0].update(question_type=""), ["'question_type'", "left out"]),
]


@pytest.mark.parametrize(("change", "words"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_named_with_its_place_and_remedy(change: Callable[[dict], None], words: list[str]) -> None:
    message = complaint(edit(change))
    assert message.startswith("f.json: article 'Paris' (number 0), paragraph 0")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_article_without_a_title_is_named_by_its_number() -> None:
    record = valid()
    del record["data"][1]["title"]
    record["data"][1]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 5
    assert complaint(record).startswith("f.json: article number 1, paragraph 0, question 'q3'")


@pytest.mark.parametrize("record", [[], 3, None, "x", {}, {"data": {}}, {"data": [1]}, {"data": []}])
def test_a_file_of_another_shape_is_refused(record: Any) -> None:
    assert "must be" in complaint(record) or "holds no question" in complaint(record)


def test_truncated_json_names_the_position() -> None:
    raw = json.dumps(valid()).encode()
    with pytest.raises(DataError, match=r"f\.json: not valid JSON: .* line 1 column 300; is the file complete"):
        parse_squad(raw[:300], "f.json")


def test_bytes_that_are_not_utf8_are_named_by_their_place() -> None:
    raw = json.dumps(valid(), ensure_ascii=False).encode("latin-1")
    with pytest.raises(DataError, match=rf"f\.json: byte {raw.index(0xDC)} \(0xdc\) is not UTF-8"):
        parse_squad(raw, "f.json")


def test_deep_nesting_and_huge_numbers_are_refused() -> None:
    for raw in (b"[" * 100_000, b'{"data": [], "x": ' + b"[" * 5_000, b'{"data": ' + b"1" * 6_000 + b"}"):
        with pytest.raises(DataError, match="not valid JSON"):
            parse_squad(raw, "f.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\\ud83d", r"line 1 column \d+, after '.*Where is ': \\ud83d is a lone surrogate, half of a character"),
        ("\\ud83d\\ud83d\\ude00", r"\\ud83d is a lone surrogate"),
        ("\\ude00 and \\ud83d", r"\\ude00 is a lone surrogate.* \(2 such in the file\); write the whole character"),
        ("\\\\\\ud83d", r"\\ud83d is a lone surrogate"),
    ],
)
def test_lone_surrogates_are_named_as_such(text: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"f\.json: .*{words}"):
        parse_squad(json.dumps(valid()).replace("Rome", text).encode(), "f.json")


def test_a_surrogate_in_the_bytes_is_named_too() -> None:
    raw = json.dumps(valid()).encode().replace(b"Rome", b"\xed\xa0\xbd")
    with pytest.raises(DataError, match=r"line 1 column \d+, after '.*Where is ': \\ud83d is a lone surrogate"):
        parse_squad(raw, "f.json")


def test_pairs_of_surrogates_and_escaped_backslashes_are_text() -> None:
    text = json.dumps(valid()).replace("Rome", "\\ud83d\\ude00 \\\\ud83d")
    assert parse_squad(text.encode(), "f.json")[0].paragraphs[0].questions[1].text == "Where is \U0001f600 \\ud83d?"


def test_integer_ids_and_missing_titles_are_taken() -> None:
    record = valid()
    record["data"][0]["paragraphs"][0]["qas"][0]["id"] = 262
    record["data"][0]["title"] = None
    del record["data"][1]["title"]
    articles = parse(record)
    assert [article.title for article in articles] == ["", ""]
    assert [question.id for question in articles[0].paragraphs[0].questions] == ["262", "q2"]
    record["data"][0]["paragraphs"][0]["qas"][1]["id"] = "262"
    assert "'262': its id was used before" in complaint(record)


def test_all_faults_are_told_each_on_its_line() -> None:
    record = valid()
    first, second = record["data"][0]["paragraphs"][0]["qas"]
    first["answers"][0]["answer_start"] = 7
    first["answers"][1]["text"] = None
    second["is_impossible"] = False
    record["data"][1]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 5
    lines = complaint(record).split("\n")
    assert len(lines) == 3
    assert "question 'q1': answers[1], 'text' is null; it must be the answer's words" in lines[0]
    assert "question 'q2': it has no answers; give at least one" in lines[1]
    assert "article 'Ünal' (number 1), paragraph 0, question 'q3': answers[0]: answer_start 5" in lines[2]


@pytest.mark.parametrize("num_faults", [20, 21, 57])
@pytest.mark.parametrize("key", ["answer_start", "question"])
def test_twenty_faults_are_told_and_the_rest_counted(num_faults: int, key: str) -> None:
    record = valid()
    wrong = [
        {
            "id": f"n{n}",
            "question": "Who?" if key == "answer_start" else " ",
            "answers": [{"text": "x", "answer_start": n}],
        }
        for n in range(num_faults)
    ]
    record["data"][1]["paragraphs"][0]["qas"] = wrong
    lines = complaint(record).split("\n")
    assert [f"'n{n}'" in line for n, line in enumerate(lines[:20])] == [True] * 20
    more = num_faults - 20
    assert lines[20:] == ([f"and {more} more fault{'s' * (more > 1)} like these"] if more else [])


ROW = {"id": "1", "context": "a b", "question": "Who?", "answers": {"text": ["b"], "answer_start": [2]}}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([ROW], "holds flat rows, one a question, as the Hub's data sets do; group them by their context: {"),
        ({"version": "1", "data": [ROW, ROW]}, "holds flat rows"),
        ({"id": ["1"], "context": ["a b"], "question": ["Who?"], "answers": []}, "holds rows or columns"),
        ([{"title": "t", "paragraphs": []}], 'is a list of articles; put it into an object: {"data": [ … ]}'),
        ({"paragraphs": []}, 'is one article; put it into a list: {"data": [ … ]}'),
        (
            {"data": [{"paragraphs": [{"context": "a b", "qas": [ROW]}]}]},
            "'answers' is an object; lists of text and answer_start belong to rows of the Hub, a file has a list of "
            'objects: [{"text": "b", "answer_start": 2}]',
        ),
    ],
)
def test_other_shapes_are_recognized_and_named_with_the_remedy(record: Any, words: str) -> None:
    assert words in complaint(record)


def test_json_lines_are_recognized() -> None:
    with pytest.raises(DataError, match=r"f\.json: holds a JSON object a line \(JSON Lines\), and must hold one: {"):
        parse_squad("\n".join([json.dumps(ROW)] * 3).encode(), "f.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, "bad\0name"):
        with pytest.raises(DataError, match="cannot be read"):
            read_squad_file(path)


def read_or_refuse(raw: bytes) -> None:
    try:
        articles = parse_squad(raw, "f.json")
    except DataError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        lines = message.split("\n")
        assert all(line.isprintable() and line.startswith(("f.json: ", "and ")) for line in lines)
        assert len(set(lines)) == len(lines)
        return
    for passage in as_passages(articles, "article"):
        for question in passage.questions:
            assert question.is_impossible == (not question.answers)
            for text, start in question.answers:
                assert passage.text[start : start + len(text)] == text


RAW = json.dumps(valid(), ensure_ascii=False).encode()


@given(st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_any_flipped_bytes_are_read_or_refused(flips: list[tuple[int, int]], cut: bool) -> None:
    raw = bytearray(RAW)
    for place, byte in flips:
        raw[place] = byte
    read_or_refuse(bytes(raw[: flips[0][0]] if cut else raw))


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(raw: bytes) -> None:
    read_or_refuse(raw)


def places(node: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value inside a JSON value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in items for found in [(*path, key), *places(value, (*path, key))]]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.sampled_from(places(valid())), st.sampled_from(["remove", "replace", "rename"]), JSON_VALUES)
def test_any_removed_retyped_or_renamed_field_is_read_or_refused(path: tuple, how: str, value: Any) -> None:
    record = copy.deepcopy(valid())
    parent = record
    for key in path[:-1]:
        parent = parent[key]
    if how == "remove":
        del parent[path[-1]]
    elif how == "replace" or isinstance(parent, list):
        parent[path[-1]] = value
    else:
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
    read_or_refuse(json.dumps(record).encode())

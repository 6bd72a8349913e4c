"""Chunks hold each text once, count what they leave out, and open only when they are what was written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gmmxlnet.data.answer_text import normalize_answer
from gmmxlnet.data.chunks import ChunkSettings, ChunkStore, build_chunks
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import ConfigError, DataError, GMMXLNetError


def settings_for(dataset: Any, **changes: Any) -> ChunkSettings:
    values: dict[str, Any] = {
        "dataset": str(dataset),
        "tokenizer": "scratch",
        "max_seq_length": 40,
        "doc_stride": 4,
        "memory_num_tokens": 2,
        "max_question_length": 12,
        "calibration_fraction": 0.2,
        "seed": 13,
    }
    return ChunkSettings(**{**values, **changes})


@pytest.fixture
def built(dataset_folder: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return tmp_path / "chunks", build_chunks(settings_for(dataset_folder), tmp_path / "chunks")


def hashes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_documents_say_what_the_file_says(built: tuple[Path, dict], dataset_folder: Path) -> None:
    documents = Documents.open(built[0], "dev")
    records = json.loads((dataset_folder / "dev.json").read_text())["data"]
    asked = [(p["context"], q) for article in records for p in article["paragraphs"] for q in p["qas"]]
    assert len(documents) == len(asked)
    for index, (context, question) in enumerate(asked):
        golds = [answer["text"] for answer in question["answers"]]
        assert documents.context_text(index) == context
        assert documents.question_id(index) == question["id"]
        assert documents.question_text(index) == question["question"]
        assert documents.gold_answers(index) == golds
        assert documents.is_impossible(index) == question["is_impossible"]
        assert documents.question_type(index) is None
        label = documents[index].label
        assert (label is None) == question["is_impossible"]
        if label is not None:
            start, end = documents.token_char_span(index, *label)
            assert normalize_answer(context[start:end]) in {normalize_answer(gold) for gold in golds}


def test_every_context_token_is_in_a_segment_and_windows_fit(built: tuple[Path, dict]) -> None:
    documents = Documents.open(built[0], "train")
    assert max(documents.num_segments()) > 1
    for document in documents:
        seen = {token for start, end in document.segments.tolist() for token in range(start, end)}
        assert seen == set(range(len(document.context_tokens)))
        longest = max(end - start for start, end in document.segments.tolist())
        assert longest + len(document.question_tokens) + 2 * 2 + 3 <= 40
        assert len(document.segments) == documents.num_segments()[document.index]
        assert len(document.context_tokens) + len(document.question_tokens) == documents.num_tokens()[document.index]


def test_train_and_calibration_share_no_context(built: tuple[Path, dict]) -> None:
    train, calibration = (Documents.open(built[0], split) for split in ("train", "calibration"))
    assert len(train) + len(calibration) == 96
    assert len(calibration) > 0
    contexts = [{docs.context_text(i) for i in range(len(docs))} for docs in (train, calibration)]
    assert not contexts[0] & contexts[1]


def test_a_context_is_stored_once_however_many_ask(built: tuple[Path, dict], tmp_path: Path, make_squad) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    words = "Anna went to Oslo and stayed. " * 40
    record = make_squad({"a": [(words, [(f"Who went {number}?", "Anna") for number in range(200)])]})
    for name in ("train", "dev"):
        (folder / f"{name}.json").write_text(json.dumps(record))
    report = build_chunks(settings_for(folder), tmp_path / "many-chunks")
    assert report["dev"]["contexts"] == 1
    assert report["dev"]["segments"] > 200 * 10
    store = ChunkStore(tmp_path / "many-chunks", "dev")
    assert len(store.chunks.context_tokens) == report["dev"]["context_tokens"] == 40 * 7


def test_the_same_input_gives_the_same_bytes(built: tuple[Path, dict], dataset_folder: Path, tmp_path: Path) -> None:
    report = build_chunks(settings_for(dataset_folder), tmp_path / "again")
    assert report == built[1]
    assert hashes(tmp_path / "again") == hashes(built[0])
    assert str(tmp_path / "again") not in "".join(str(value) for value in hashes(tmp_path / "again").values())


def test_token_arrays_do_not_depend_on_windows(built: tuple[Path, dict], dataset_folder: Path, tmp_path: Path) -> None:
    other = settings_for(dataset_folder, max_seq_length=60, memory_num_tokens=5, doc_stride=9)
    build_chunks(other, tmp_path / "other")
    for name, content in hashes(built[0]).items():
        if name != "manifest.json":
            assert hashes(tmp_path / "other")[name] == content
    layout = Documents.open(tmp_path / "other", "dev").layout
    same = Documents.open(built[0], "dev", layout=layout).num_segments()
    assert same.tolist() == Documents.open(tmp_path / "other", "dev").num_segments().tolist()


def test_the_report_counts_what_is_there(built: tuple[Path, dict]) -> None:
    folder, report = built
    for split in ("train", "calibration", "dev"):
        documents, counts = Documents.open(folder, split), report[split]
        assert counts["documents"] == len(documents) == counts["answerable"] + counts["unanswerable"]
        assert counts["segments"] == documents.num_segments().sum()
        histogram = counts["segments_per_document"]["histogram"]
        assert sum(histogram.values()) == len(documents)
        assert sum(int(segments) * count for segments, count in histogram.items()) == counts["segments"]
        assert sum(counts["answers"].values()) == counts["answerable"]
        assert counts["left_out"] == {}


def test_limits_are_counted_with_their_reason(dataset_folder: Path, tmp_path: Path) -> None:
    limited = settings_for(dataset_folder, max_train_documents=30, max_eval_documents=5)
    report = build_chunks(limited, tmp_path / "chunks")
    assert report["train"]["documents"] + report["calibration"]["documents"] == 30
    assert report["dev"]["documents"] == 5
    assert report["train"]["left_out"]["beyond_max_train_documents"]["documents"] == 66
    assert report["dev"]["left_out"]["beyond_max_eval_documents"]["documents"] == 19
    assert len(report["dev"]["left_out"]["beyond_max_eval_documents"]["first_ids"]) == 19


def test_answers_that_tokens_cannot_express(tmp_path: Path, make_squad) -> None:
    """They are left out of training and counted, and stay in evaluation without a label."""
    record = make_squad({"a": [("The halfway house is full.", [("How far?", "half"), ("What?", "house")])]})
    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    report = build_chunks(settings_for(tmp_path), tmp_path / "chunks")
    assert report["train"]["documents"] == 1
    reason = report["train"]["left_out"]["answer_is_no_token_span"]
    assert reason == {"documents": 1, "first_ids": ["a-0-0"]}
    assert report["dev"]["documents"] == 2
    assert report["dev"]["answers"] == {"inside_a_segment": 1, "inside_no_segment": 0, "no_token_span": 1}
    documents = Documents.open(tmp_path / "chunks", "dev")
    assert (documents[0].label, documents.gold_answers(0)) == (None, ["half"])


def test_long_answers_long_questions_and_unasked_contexts_are_counted(tmp_path: Path, make_squad) -> None:
    sentence = " ".join(f"word{number}" for number in range(60))
    asked = [("What does it say?", sentence), ("why " * 30, None)]
    record = make_squad({"a": [(sentence, asked), ("Nobody asks.", [])]})
    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    report = build_chunks(settings_for(tmp_path), tmp_path / "chunks")["train"]
    assert report["answers"] == {"inside_a_segment": 0, "inside_no_segment": 1, "no_token_span": 0}
    assert (report["cut_questions"], report["unasked_contexts"], report["question_tokens"]) == (1, 1, 5 + 12)
    assert len(Documents.open(tmp_path / "chunks", "train")[1].question_tokens) == 12


def test_a_long_question_keeps_its_beginning(tmp_path: Path, make_squad) -> None:
    words = [f"w{number}" for number in range(20)]
    record = make_squad({"a": [(" ".join(words), [(" ".join(words), None), (" ".join(words[::-1]), None)])]})
    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    build_chunks(settings_for(tmp_path), tmp_path / "chunks")
    for split in ("train", "dev"):
        documents = Documents.open(tmp_path / "chunks", split)
        whole = documents[0].context_tokens.tolist()  # a word a token
        assert len(whole) == 20
        assert documents[0].question_tokens.tolist() == whole[:12]
        assert documents[1].question_tokens.tolist() == whole[::-1][:12]


def test_question_types_and_conditions_reach_the_report(dataset_folder: Path, tmp_path: Path) -> None:
    path = dataset_folder / "dev.json"
    record = json.loads(path.read_text())
    for article in record["data"]:
        article["paragraphs"][0]["qas"][0] |= {"question_type": "local", "condition": "rain"}
        article["paragraphs"][1]["qas"][0] |= {"question_type": "cross", "condition": "sun"}
    path.write_text(json.dumps(record))
    report = build_chunks(settings_for(dataset_folder), tmp_path / "chunks")
    counts = report["dev"]["by_question_type"]
    assert {name: row["documents"] for name, row in counts.items()} == {"cross": 6, "local": 6}
    documents = Documents.open(tmp_path / "chunks", "dev")
    assert [documents.question_type(i) for i in range(4)] == ["local", None, "cross", None]
    assert [documents.condition(i) for i in range(4)] == ["rain", None, "sun", None]


def test_articles_are_one_long_context(dataset_folder: Path, tmp_path: Path) -> None:
    report = build_chunks(settings_for(dataset_folder, context="article"), tmp_path / "chunks")
    assert (report["dev"]["contexts"], report["dev"]["documents"]) == (6, 24)
    documents = Documents.open(tmp_path / "chunks", "dev")
    assert [documents.context_index(i) for i in range(0, 24, 4)] == list(range(6))
    for i in range(len(documents)):
        label = documents[i].label
        if label is not None:
            start, end = documents.token_char_span(i, *label)
            assert documents.context_text(i)[start:end] == documents.gold_answers(i)[0]


def test_the_saved_tokenizer_can_be_used_again(built: tuple[Path, dict], dataset_folder: Path, tmp_path: Path) -> None:
    folder, report = built
    assert len(load_tokenizer(str(folder / "tokenizer"))) == report["vocabulary"]
    again = settings_for(dataset_folder, tokenizer=str(folder / "tokenizer"))
    build_chunks(again, tmp_path / "again")
    first, second = ChunkStore(folder, "dev").chunks, ChunkStore(tmp_path / "again", "dev").chunks
    assert np.array_equal(first.context_tokens, second.context_tokens)


def test_nothing_is_left_behind_when_the_dataset_is_bad(dataset_folder: Path, tmp_path: Path) -> None:
    (dataset_folder / "dev.json").write_bytes(b'{"data": [')
    with pytest.raises(DataError, match=r"dev\.json: not valid JSON"):
        build_chunks(settings_for(dataset_folder), tmp_path / "out" / "chunks")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"max_seq_length": 23},
        {"context": "page"},
        {"calibration_fraction": 1.0},
        {"doc_stride": -1},
        {"max_question_length": 0},
    ],
)
def test_impossible_settings_are_refused(dataset_folder: Path, tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ConfigError):
        build_chunks(settings_for(dataset_folder, **changes), tmp_path / "chunks")
    assert not (tmp_path / "chunks").exists()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, make_squad) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    record = make_squad({"a": [("Anna lives in Oslo.", [("Where?", "Oslo"), ("Why?", None)])]})
    for name in ("train", "dev"):
        (folder / f"{name}.json").write_text(json.dumps(record))
    build_chunks(settings_for(folder), folder / "chunks")
    return folder / "chunks"


def test_an_empty_split_opens(pristine: Path) -> None:
    assert len(Documents.open(pristine, "calibration")) == 0  # there is but one context, and train needs it
    with pytest.raises(DataError, match="has no split 'test'"):
        Documents.open(pristine, "test")


def test_no_array_is_opened_for_writing(pristine: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Documents.open(pristine, "dev")[0].context_tokens[0] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "version 3, this program reads 2"),
        ({"version": {"a": "\x1b" * 3000}}, r"version \{'a': '(\\x1b){1,20}.{,4}…, this program reads 2"),
        ({"format": "x"}, "is not a manifest"),
        ({"files": {}}, "is incomplete"),
        ({"layout": {"max_seq_length": 1}}, "is incomplete"),
        ({"settings": {"seed": 7}}, "is not what was written"),
    ],
)
def test_another_version_or_kind_of_folder_is_refused(pristine: Path, tmp_path: Path, change: dict, words: str) -> None:
    shutil.copytree(pristine, tmp_path / "chunks")
    path = tmp_path / "chunks" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=words):
        Documents.open(tmp_path / "chunks", "dev")


FILES = [
    "manifest.json",
    "dev/texts.json",
    *(f"dev/{name}.npy" for name in ("context_tokens", "labels", "context_rows")),
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.sampled_from(["flip", "cut", "remove"]), st.floats(0, 1, exclude_max=True))
def test_a_damaged_folder_is_refused(pristine: Path, tmp_path: Path, name: str, how: str, where: float) -> None:
    shutil.copytree(pristine, tmp_path / "chunks", dirs_exist_ok=True)
    path = tmp_path / "chunks" / name
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    if how == "remove":
        path.unlink()
    else:
        content[place] ^= 0x55
        path.write_bytes(content[:place] if how == "cut" else content)
        assume(path.read_bytes().strip() != (pristine / name).read_bytes().strip())  # the last newline says nothing
    try:
        documents = Documents.open(tmp_path / "chunks", "dev")
    except GMMXLNetError as error:
        message = str(error)
    else:
        pytest.fail(f"{len(documents)} documents open although {name} is damaged")
    assert "chunks" in message
    assert "\n" not in message


def test_settings_name_a_pair_of_files(dataset_folder: Path, tmp_path: Path) -> None:
    pair = {"train": dataset_folder / "train.json", "dev": dataset_folder / "dev.json"}
    report = build_chunks(replace(settings_for("x"), dataset=pair), tmp_path / "chunks")
    assert report["settings"]["dataset"] == {key: str(path) for key, path in pair.items()}

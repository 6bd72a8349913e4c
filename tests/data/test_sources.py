"""A dataset is found in a folder, a pair of files, or rows of the Hub."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from gmmxlnet.data import sources
from gmmxlnet.data.chunks import build_chunks
from gmmxlnet.data.load import LoadWorld, articles, write_load
from gmmxlnet.data.sources import articles_from_rows, open_split, read_split
from gmmxlnet.data.squad import articles_from_records, as_passages, read_squad_file
from gmmxlnet.data.store import MANIFEST
from gmmxlnet.errors import ConfigError, DataError
from tests.data.test_chunks import settings_for


def test_folder_and_pair_give_the_same(dataset_folder: Path) -> None:
    pair = {"train": dataset_folder / "train.json", "dev": dataset_folder / "dev.json"}
    assert read_split(dataset_folder, "dev") == read_split(pair, "dev") == read_squad_file(pair["dev"])


def test_official_file_names_are_found(dataset_folder: Path) -> None:
    expected = read_split(dataset_folder, "train")
    (dataset_folder / "train.json").rename(dataset_folder / "train-v2.0.json")
    assert read_split(str(dataset_folder), "train") == expected


def test_another_name_is_found_if_it_is_the_only_one(dataset_folder: Path) -> None:
    expected = read_split(dataset_folder, "train")
    (dataset_folder / "train.json").rename(dataset_folder / "train-v2-style.json")
    assert read_split(str(dataset_folder), "train") == expected
    (dataset_folder / "train-old.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r": train-old\.json or train-v2-style\.json\? name one train\.json, or give"):
        read_split(str(dataset_folder), "train")
    (dataset_folder / "train-v2-style.json").rename(dataset_folder / "train-v2.0.json")
    assert read_split(str(dataset_folder), "train") == expected  # an official name goes first


def test_hub_rows_are_grouped_into_the_records_of_the_file(dataset_folder: Path) -> None:
    articles = read_split(dataset_folder, "dev")
    rows = [
        {
            "id": question.id,
            "title": article.title,
            "context": passage.text,
            "question": question.text,
            "answers": {
                "text": [text for text, _ in question.answers],
                "answer_start": [start for _, start in question.answers],
            },
        }
        for article in articles
        for passage in article.paragraphs
        for question in passage.questions
    ]
    assert articles_from_rows(datasets.Dataset.from_list(rows), "hub") == articles


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers": {"text": ["x"], "answer_start": []}}, "row 0: answers has more texts than starts"),
        ({"answers": "x"}, "row 0: answers"),
        ({"id": 3.5}, "row 0: id"),
        ({"context": " "}, "'context' is"),
        (
            {"answers": [{"text": "b", "answer_start": 2}]},
            "row 0: answers: is a list of objects, as in a SQuAD file; SQuAD",
        ),
    ],
)
def test_rows_of_another_shape_are_refused(change: dict, words: str) -> None:
    row = {"id": "1", "title": "T", "context": "a b", "question": "?", "answers": {"text": [], "answer_start": []}}
    with pytest.raises(DataError, match=f"hub.*{words}"):
        articles_from_rows([row | change], "hub")


def test_rows_may_lack_a_title_and_count_their_ids() -> None:
    """Without titles each context is an article of its own: nothing says that two belong together."""
    asked = {"question": "?", "answers": {"text": ["b"], "answer_start": [2]}}
    rows = [
        {"id": 1, "title": None, "context": "a b", **asked},
        {"id": 2, "context": "c b", **asked},
        {"id": "x", "title": "", "context": "a b", **asked},
        {"id": 4, "title": "T", "context": "a b", **asked},
        {"id": 5, "title": "T", "context": "e b", **asked},
    ]
    articles = articles_from_rows(rows, "hub")
    ids = [[[question.id for question in passage.questions] for passage in a.paragraphs] for a in articles]
    assert ids == [[["1", "x"]], [["2"]], [["4"], ["5"]]]
    assert [article.title for article in articles] == ["", "", "T"]


def test_all_faulty_rows_are_told() -> None:
    good = {"id": "1", "context": "a b", "question": "?", "answers": {"text": ["b"], "answer_start": [2]}}
    wrong = [
        good | {"id": None},
        good | {"answers": "x"},
        good | {"id": "2", "answers": {"text": ["b"], "answer_start": [0]}},
    ]
    with pytest.raises(DataError) as caught:
        articles_from_rows([good, *wrong], "hub")
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    assert lines[0].startswith("hub, row 1: id: ")
    assert lines[1].startswith("hub, row 2: answers: ")
    assert "question '2': answers[0]: answer_start 0 does not point at 'b'" in lines[2]


def test_the_faults_of_both_files_are_told_in_one_run(dataset_folder: Path) -> None:
    for name in ("train", "dev"):
        path = dataset_folder / f"{name}.json"
        path.write_text(path.read_text().replace('"question": "Who is the mayor?"', '"question": ""', 2))
    with pytest.raises(DataError) as caught:
        build_chunks(settings_for(dataset_folder), dataset_folder / "chunks")
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == ["train.json"] * 2 + ["dev.json"] * 2
    with pytest.raises(DataError, match=r"^dataset '/nowhere': no such folder[^\n]*$"):
        build_chunks(settings_for("/nowhere"), dataset_folder / "chunks")


def test_what_is_no_dataset_is_refused(dataset_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is one file"):
        read_split(dataset_folder / "dev.json", "dev")
    with pytest.raises(DataError, match="no such folder"):
        read_split(tmp_path / "nowhere", "dev")
    with pytest.raises(DataError, match=r"no 'dev' file is named"):
        read_split({"train": dataset_folder / "train.json"}, "dev")
    (dataset_folder / "dev.json").unlink()
    with pytest.raises(DataError, match=r"has no dev file; put dev\.json or"):
        read_split(dataset_folder, "dev")


OFFLINE = """
import json
from gmmxlnet.data.sources import read_split
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import DataError
messages = []
for call in (lambda: read_split("no-one/nothing", "dev"), lambda: load_tokenizer("no-one/nothing")):
    try:
        call()
    except DataError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_offline_hub_names_end_with_advice(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=environment, check=True, timeout=120
    )
    dataset, tokenizer = json.loads(done.stdout.splitlines()[-1])
    assert "neither a folder here nor readable from the Hub" in dataset
    assert "'no-one/nothing': cannot be loaded" in tokenizer
    assert "give a folder with tokenizer.json or spiece.model, or a Hub id" in tokenizer
    assert "\n" not in dataset + tokenizer


def test_official_dev_set_is_read_whole(shared_folder: Path) -> None:
    articles = read_squad_file(shared_folder / "squad" / "dev-v2.0.json")
    questions = [question for passage in as_passages(articles, "article") for question in passage.questions]
    assert (len(articles), len(questions), sum(question.is_impossible for question in questions)) == (35, 11873, 5945)


WORLD = {"num_towns": 3, "num_updates": 1, "lag": 2, "town_with_list": True, "segment_tokens": 33}
LOAD = {"load": WORLD | {"num_train": 7, "num_dev": 3}}


def test_a_load_world_gives_the_documents_of_its_generator() -> None:
    train, dev = read_split(LOAD, "train"), read_split(LOAD, "dev")
    assert train == articles_from_records(list(articles(LoadWorld(**WORLD), "train", 7)), "made")
    assert dev == articles_from_records(list(articles(LoadWorld(**WORLD), "dev", 3)), "made")
    texts = [{passage.text for passage in as_passages(split, "paragraph")} for split in (train, dev)]
    assert texts[0].isdisjoint(texts[1])
    assert read_split({"load": LOAD["load"] | {"num_train": 2}}, "train") == train[:2]


def test_a_large_load_world_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_split(LOAD, "train")
    monkeypatch.setattr(sources, "DOCUMENTS_OF_A_PART", 3)
    parts = open_split(LOAD, "train")
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [article for part in parts for article in part] == whole  # and once more


def test_chunks_of_a_load_world_are_those_of_its_files(tmp_path: Path) -> None:
    write_load(LoadWorld(**WORLD), tmp_path / "load", num_train=7, num_dev=3)
    places = {"made": replace(settings_for(""), dataset=LOAD), "read": settings_for(tmp_path / "load")}
    reports = {name: build_chunks(settings, tmp_path / name) for name, settings in places.items()}
    files = {
        name: {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file() and file.name != MANIFEST
        }
        for name in places
    }
    assert len(files["made"]) > 20
    assert files["made"] == files["read"]
    assert reports["made"].pop("settings")["dataset"] == LOAD
    assert reports["read"].pop("settings")["dataset"] == str(tmp_path / "load")
    assert reports["made"] == reports["read"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (3, "dataset load must be a mapping with num_towns, num_updates"),
        (WORLD, "dataset load must be a mapping with num_towns, .*num_dev, not"),
        (LOAD["load"] | {"lag": -1}, r"lag must be an integer in \[0, 10000\], not -1"),
        (LOAD["load"] | {"num_updates": 4}, "num_updates must be at most num_towns, which is 3, not 4"),
    ],
)
def test_impossible_settings_of_a_load_world_are_refused(settings: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_split({"load": settings}, "train")

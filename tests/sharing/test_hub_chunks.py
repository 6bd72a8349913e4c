"""Prepared chunks go to a dataset repository and come back as the same files, or not at all."""

import json
from dataclasses import replace

import pytest

from gmmxlnet.data.chunks import ChunkSettings, build_chunks
from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import DataError, HubError
from gmmxlnet.sharing.hub import files_below
from gmmxlnet.sharing.hub_chunks import documents_from_hub, pull_chunks, push_chunks

NAME = "me/chunks"


@pytest.fixture
def settings(dataset_folder):
    return ChunkSettings(
        dataset=str(dataset_folder), tokenizer="scratch", max_seq_length=48, doc_stride=8, memory_num_tokens=2, seed=0
    )


@pytest.fixture
def made(settings, tmp_path):
    """A chunks folder and its report."""
    settings = replace(settings, max_question_length=16)
    return settings, tmp_path / "made", build_chunks(settings, tmp_path / "made")


@pytest.fixture
def pushed(hub, made):
    settings, folder, report = made
    push_chunks(folder, report, NAME)
    return settings, folder, report


def contents(folder):
    return {name: file.read_bytes() for name, file in files_below(folder).items()}


def test_the_same_files_and_the_same_report_come_back(hub, pushed, tmp_path):
    settings, folder, report = pushed
    assert hub.repo(NAME, "datasets").private
    assert pull_chunks(NAME, tmp_path / "pulled", settings) == report
    assert contents(tmp_path / "pulled") == contents(folder)


def test_a_second_push_changes_nothing_and_another_replaces_all(hub, pushed, tmp_path):
    settings, folder, report = pushed
    commits = len(hub.repo(NAME, "datasets").commits)
    push_chunks(folder, report, NAME)
    assert len(hub.repo(NAME, "datasets").commits) == commits
    other = replace(settings, seed=1)
    push_chunks(tmp_path / "other", build_chunks(other, tmp_path / "other"), NAME)
    assert pull_chunks(NAME, tmp_path / "pulled", other)["settings"]["seed"] == 1
    assert contents(tmp_path / "pulled") == contents(tmp_path / "other")


def test_documents_are_read_from_the_hub(pushed, tmp_path):
    _, folder, _ = pushed
    documents = documents_from_hub(NAME, "dev", tmp_path / "pulled")
    assert documents.num_tokens().tolist() == Documents.open(folder, "dev").num_tokens().tolist()


def test_other_settings_are_named(pushed, tmp_path):
    settings, _, _ = pushed
    wanted = replace(settings, max_seq_length=64, seed=3)
    words = f"^{NAME}: its chunks were made with max_seq_length 48 instead of 64, seed 0 instead of 3; change the param"
    with pytest.raises(DataError, match=words):
        pull_chunks(NAME, tmp_path / "pulled", wanted)
    assert not (tmp_path / "pulled").exists()


def test_a_repository_without_chunks(hub, tmp_path):
    hub.add("you/other", {"data.parquet": b"x"}, "datasets")
    with pytest.raises(DataError, match=r"^you/other: holds no prepared chunks; push chunks there"):
        pull_chunks("you/other", tmp_path / "pulled")


def test_no_repository(hub, tmp_path):
    with pytest.raises(HubError, match=r"^you/nothing: there is no such repository.*\(404\)"):
        pull_chunks("you/nothing", tmp_path / "pulled")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunks/train/labels.npy": b"other"}, r"chunks/train/labels\.npy: is not what was written"),
        ({"chunks/tokenizer/tokenizer.json": b"{}"}, r"tokenizer\.json: is not what was written"),
        ({"chunks/train/labels.npy": None}, r"chunks: train/labels\.npy: missing, or not in the manifest"),
        ({"chunks/evil.py": b"x"}, r"chunks: evil\.py: missing, or not in the manifest"),
        ({"chunks/manifest.json": b"{"}, r"manifest\.json: is damaged"),
        ({"data.json": b"["}, "its chunks cannot be used"),
        ({"data.json": b"{}"}, r"data\.json: is not what chunk wrote: settings: Field required"),
    ],
)
def test_damaged_chunks_are_refused(hub, pushed, tmp_path, change, words):
    """Whoever changed them may have pushed them properly: the manifest tells."""
    files = hub.repo(NAME, "datasets").files() | change
    hub.add(NAME, {name: content for name, content in files.items() if content is not None}, "datasets")
    with pytest.raises(DataError, match=f"^{NAME}: .*{words}.*; push chunks there") as caught:
        pull_chunks(NAME, tmp_path / "pulled")
    assert "\n" not in str(caught.value)
    assert str(tmp_path.parent) not in str(caught.value)
    assert not (tmp_path / "pulled").exists()


def test_what_is_altered_on_its_way_is_noticed(hub, pushed, tmp_path):
    hub.fail("GET .*/chunks/manifest.json", alter=True)
    with pytest.raises(HubError, match=r"was altered on its way here: chunks/manifest\.json"):
        pull_chunks(NAME, tmp_path / "pulled")
    assert json.loads(hub.repo(NAME, "datasets").files()["chunks/manifest.json"])


def test_a_generated_dataset_is_compared_by_its_settings(hub, made, tmp_path):
    world = {"num_towns": 2, "num_updates": 0, "lag": 0, "town_with_list": True, "segment_tokens": 32}
    settings = replace(made[0], dataset={"load": world | {"num_train": 20, "num_dev": 3}})
    report = build_chunks(settings, tmp_path / "load")
    push_chunks(tmp_path / "load", report, NAME)
    assert pull_chunks(NAME, tmp_path / "pulled", settings) == report
    assert "texts of `load world, 2 towns`, cut" in hub.repo(NAME, "datasets").files()["README.md"].decode("utf-8")
    other = replace(settings, dataset={"load": settings.dataset["load"] | {"lag": 1}})
    with pytest.raises(DataError, match=r"its chunks were made with dataset \{'load': .*'lag': 0.* instead of "):
        pull_chunks(NAME, tmp_path / "again", other)

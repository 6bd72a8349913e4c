"""A dataset has one name in words, whichever form it has."""

from pathlib import Path

import pytest

from gmmxlnet.data.dataset_names import described, held_by, load_settings, located, places

WORLD = {"num_towns": 4, "num_updates": 0, "lag": 0, "town_with_list": True, "segment_tokens": 42}
LOAD = {"load": WORLD | {"num_train": 50, "num_dev": 10}}
FILES = {"train": Path("a.json"), "dev": "b.json"}


@pytest.mark.parametrize(
    ("dataset", "words", "train", "dev", "files"),
    [
        ("data/sample", "data/sample", "data/sample", "data/sample", ["data/sample"]),
        (FILES, "a.json, b.json", "a.json", "b.json", ["a.json", "b.json"]),
        (LOAD, "load world, 4 towns", "load world, 4 towns", "load world, 4 towns", []),
    ],
)
def test_each_form_has_a_name(dataset, words, train, dev, files):
    assert described(dataset) == words
    assert (held_by(dataset, "train"), held_by(dataset, "dev")) == (train, dev)
    assert places(dataset) == files


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_towns": 1}, "load world, 1 town"),
        ({"num_updates": 2, "lag": 3}, "load world, 4 towns, 2 updates, lag 3"),
        ({"num_updates": 1, "town_with_list": False}, "load world, 4 towns, 1 update, town before the list"),
    ],
)
def test_a_load_world_says_what_makes_it_hard(change, words):
    assert described({"load": LOAD["load"] | change}) == words


def test_only_names_are_located():
    assert located("x", str.upper) == "X"
    assert located(FILES, str.upper) == {"train": "A.JSON", "dev": "B.JSON"}
    assert located(LOAD, str.upper) == LOAD


def test_a_file_named_load_makes_no_world():
    assert load_settings(LOAD) == LOAD["load"]
    assert load_settings("load") is None
    assert load_settings(FILES | {"load": {}}) is None

"""Files and folders are complete or absent, whatever happens while they are written."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from gmmxlnet.utils.files import atomic_file, atomic_folder, files_at_once, write_json

ONE = {"one": np.ones(1)}


class HalfwayError(Exception):
    """Something that goes wrong half-way."""


def fail_halfway(path):
    """Write half a file (a name with a suffix) or half a folder; the error carries the scratch path."""
    with (atomic_file if path.suffix else atomic_folder)(path) as scratch:
        (scratch / "a" if scratch.is_dir() else scratch).write_text("half")
        raise HalfwayError(scratch)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as scratch:
        scratch.write_text("one")
        assert scratch.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "one"
    with atomic_file(str(path)) as scratch:
        scratch.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_leaves_the_old_file_and_no_scratch(tmp_path, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(HalfwayError):
        fail_halfway(path)
    assert names(tmp_path) == (["a.txt"] if old else [])
    assert not old or path.read_text() == old


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_a_folder_replaces_all_of_what_was_there(tmp_path):
    path = tmp_path / "new" / "model"
    for name in ("a", "b"):
        with atomic_folder(path) as scratch:
            assert names(scratch) == []
            (scratch / "deep").mkdir()
            (scratch / "deep" / name).write_text(name)
            assert not (path / "deep" / name).exists()
        assert [file.name for file in sorted(path.rglob("*"))] == ["deep", name]
    assert names(path.parent) == ["model"]


@pytest.mark.parametrize("old", [False, True])
def test_a_failure_leaves_the_old_folder_and_no_scratch(tmp_path, old):
    path = tmp_path / "model"
    if old:
        path.mkdir()
        (path / "a").write_text("old")
    with pytest.raises(HalfwayError):
        fail_halfway(path)
    assert names(tmp_path) == (["model"] if old else [])
    assert not old or (path / "a").read_text() == "old"


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    with pytest.raises(HalfwayError) as failure:
        fail_halfway(tmp_path / "model")
    left = failure.value.args[0]
    left.mkdir()
    (left / "stale").write_text("stale")
    with atomic_folder(tmp_path / "model") as scratch:
        (scratch / "a").write_text("a")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["a"]


def test_json_keeps_its_order_and_letters_and_refuses_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": "ü", "a": [1, None]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": "ü",\n  "a": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == "ü"
    assert names(tmp_path) == ["a.json"]


def is_stale(name):
    return name.startswith("old")


def replace_all(folder, *names):
    with files_at_once(folder, last="manifest", stale=is_stale) as scratch:
        for name in names:
            (scratch / name).write_text("new")


def test_files_come_together_and_stale_ones_go(tmp_path):
    for name in ("a", "old 1", "manifest", "kept"):
        (tmp_path / name).write_text("before")
    replace_all(tmp_path, "a", "manifest")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(a="new", manifest="new", kept="before")


def test_where_writing_fails_nothing_has_changed(tmp_path):
    for name in ("a", "old 1", "manifest"):
        (tmp_path / name).write_text("before")
    with pytest.raises(FileNotFoundError):
        replace_all(tmp_path, "a", "missing/b", "manifest")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("a", "old 1", "manifest"), "before"
    )


def test_where_moving_fails_the_last_file_is_absent(tmp_path):
    """Whoever finds it finds all: so neither the old one nor the new one may be there."""
    (tmp_path / "manifest").write_text("before")
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_all(tmp_path, "a", "b", "manifest")
    assert not (tmp_path / "manifest").exists()


def write_file(path):
    with atomic_file(path) as scratch:
        save_file(ONE, scratch)


def write_folder(path):
    with atomic_folder(path.parent) as scratch:
        save_file(ONE, scratch / path.name)


def write_among_others(path):
    with files_at_once(path.parent, last="manifest", stale=is_stale) as scratch:
        save_file(ONE, scratch / path.name)
        (scratch / "manifest").write_text("x")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize("write", [write_file, write_folder, write_among_others])
def test_everybody_may_read_what_the_umask_lets_them(tmp_path, write, umask):
    """safetensors writes files that only their owner may read."""
    path = tmp_path / "model" / "model.safetensors"
    before = os.umask(umask)
    try:
        write(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert not list(tmp_path.rglob("*.partial"))


def test_what_a_killed_process_left_does_not_decide_who_may_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(HalfwayError) as failure:
        fail_halfway(path)
    failure.value.args[0].touch(0o600)
    write_file(path)
    (tmp_path / "any new file").touch()
    assert path.stat().st_mode == (tmp_path / "any new file").stat().st_mode

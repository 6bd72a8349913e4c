"""`CheckpointStore`: complete or absent, damage is found and named, the newest few are kept."""

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys

import pytest

from gmmxlnet.errors import CheckpointError
from gmmxlnet.training.checkpoints import MANIFEST, CheckpointStore


@pytest.fixture
def store(tmp_path):
    """A claimed store of three checkpoints."""
    store = CheckpointStore(tmp_path / "resume", limit=3)
    assert store.claim()
    for step in (5, 90, 100):
        write(store, step)
    return store


def write(store, step, size=1000):
    with store.write(step) as scratch:
        (scratch / "a").write_bytes(bytes(range(250)) * (size // 250))
        (scratch / "b").write_text(str(step))


def names(store):
    return sorted(path.name for path in store.folder.iterdir() if path.name != "lock")


def truncate(folder):
    with (folder / "a").open("r+b") as stream:
        stream.truncate(999)


def flip(folder):
    content = bytearray((folder / "a").read_bytes())
    content[500] ^= 1
    (folder / "a").write_bytes(content)


def flip_in_manifest(folder):
    content = bytearray((folder / MANIFEST).read_bytes())
    content[-20] ^= 1
    (folder / MANIFEST).write_bytes(content)


DAMAGES = {
    "truncated": (truncate, "a is not what was written"),
    "flipped byte": (flip, "a is not what was written"),
    "missing file": (lambda folder: (folder / "b").unlink(), "b is not what was written"),
    "foreign file": (lambda folder: (folder / "c").touch(), "c is not what was written"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "manifest.json: No such file"),
    "empty manifest": (lambda folder: (folder / MANIFEST).write_bytes(b""), "manifest.json is not what was written"),
    "manifest without hashes": (
        lambda folder: (folder / MANIFEST).write_text('{"format_version": 1}'),
        "manifest.json is not what was written",
    ),
    "endless manifest": (
        lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
        "manifest.json is not what was written",
    ),
    "another format": (lambda folder: (folder / MANIFEST).write_text("[]"), "is not of format version 1"),
    "flipped byte in manifest": (flip_in_manifest, "is not what was written"),
}


def test_the_newest_is_found_by_its_step(store):
    assert store.newest() == store.folder / "step-00000100"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_is_used(store, caplog, damage):
    destroy, reason = DAMAGES[damage]
    destroy(store.folder / "step-00000100")
    assert store.newest() == store.folder / "step-00000090"
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"{store.folder / 'step-00000100'}: damaged (" in warning.getMessage()
    assert reason in warning.getMessage()
    assert "\n" not in warning.getMessage()
    assert names(store) == ["step-00000005", "step-00000090"]


def test_where_all_are_damaged_there_is_none(store, caplog):
    for name in names(store):
        flip(store.folder / name)
    assert store.newest() is None
    assert len(caplog.records) == 3


def test_no_more_are_kept_than_the_limit_says(store):
    write(store, 110)
    assert names(store) == ["step-00000090", "step-00000100", "step-00000110"]
    single = CheckpointStore(store.folder, limit=1)
    write(single, 120)
    assert names(single) == ["step-00000120"]


class HalfwayError(Exception):
    """Something that goes wrong half-way."""


def fail_halfway(store, step):
    with store.write(step) as scratch:
        (scratch / "a").write_text("half")
        raise HalfwayError


def test_half_a_checkpoint_is_none(store):
    with pytest.raises(HalfwayError):
        fail_halfway(store, 200)
    assert names(store) == ["step-00000005", "step-00000090", "step-00000100"]


def test_killed_at_any_file_operation_a_checkpoint_is_complete_or_absent(store, caplog):
    """Nothing is ever found damaged, and a folder that is a step's holds all of it."""
    complete = []
    for operations in range(1, 1000):
        child = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(store, 200, operations))
        child.start()
        child.join()
        found = CheckpointStore(store.folder, limit=3)
        assert found.claim()
        newest = found.newest()
        assert newest.name in ("step-00000100", "step-00000200")
        complete.append(newest.name == "step-00000200")
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        assert not [name for name in names(store) if name.startswith(".")]
        shutil.rmtree(store.folder / "step-00000200", ignore_errors=True)
        write(store, 90)  # an old one may have gone
    assert operations > 10
    assert complete == sorted(complete)
    assert complete.count(False) > 5
    assert caplog.records == []


def _write_and_die(store, step, operations):
    """Write a checkpoint; die by kill -9 at the n-th operation on files."""
    left = operations

    def count(event, args):
        nonlocal left
        if event.startswith(("open", "os.", "shutil.")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write(store, step)
    os._exit(0)


def test_what_a_killed_process_left_is_cleared_away(store):
    (store.folder / ".step-00000200.partial").mkdir()
    (store.folder / ".step-00000200.partial" / "a").write_text("half")
    assert CheckpointStore(store.folder, limit=3).claim()
    assert names(store) == ["step-00000005", "step-00000090", "step-00000100"]


def test_a_disk_that_is_full_ends_in_one_line_and_leaves_the_last_one(store):
    """A limit on the size of files stands for the disk; the system's answer is an OSError as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"step-00000200: .* cannot be written: .* from step-00000100, which is intact"
        ) as error:
            write(store, 200, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert names(store) == ["step-00000005", "step-00000090", "step-00000100"]
    assert store.newest() == store.folder / "step-00000100"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/resume: no checkpoints can be kept here: Not a directory; make"):
        CheckpointStore(tmp_path / "file" / "resume", limit=1).claim()


def test_a_folder_that_was_taken_away_ends_in_one_line(store):
    shutil.rmtree(store.folder)
    store.folder.touch()
    with pytest.raises(
        CheckpointError, match=r"step-00000200: .* cannot be written: File exists; .*training begins anew$"
    ):
        write(store, 200)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_became_read_only_ends_in_one_line(store):
    store.folder.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written: Permission denied; .* from step-00000100"):
            write(store, 200)
    finally:
        store.folder.chmod(0o700)


def test_two_processes_do_not_train_in_one_folder(store):
    """The lock belongs to the process, and ends with it."""
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1) as pool:
        other = pool.apply(_claim, [store.folder])
        assert other is False
    store.remove()
    with fork.Pool(1) as pool:
        assert pool.apply(_claim, [store.folder]) is True
        assert store.claim() is False
    assert store.claim() is True


def _claim(folder):
    global held
    held = CheckpointStore(folder, limit=1)
    return held.claim()


def test_removed_is_gone(store):
    store.remove()
    assert not store.folder.exists()

"""A full disk ends a stage or a command with one line, also where the Rust code of other libraries meets it."""

import errno
import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gmmxlnet.cli import main
from gmmxlnet.data.arrays import write_array
from gmmxlnet.errors import cannot_write, is_out_of_memory
from gmmxlnet.utils.files import atomic_file, atomic_folder, files_at_once
from pipeline.stage import errors_on_one_line


@contextmanager
def full_disk(room):
    """No file may grow beyond `room` bytes; the system's name for it differs from that of a full disk, no more."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def write_in_file(path):
    with atomic_file(path) as scratch:
        write_array(scratch, np.zeros(10_000))


def write_in_folder(path):
    with atomic_folder(path) as scratch:
        write_array(scratch / "rows.npy", np.zeros(10_000))


def write_in_files_at_once(path):
    with files_at_once(path, last="rows.npy", stale=lambda name: False) as scratch:
        write_array(scratch / "rows.npy", np.zeros(10_000))


def test_a_tokenizer_that_cannot_be_saved_is_one_line_and_nothing_is_left(sample_tokenizer, tmp_path, capsys):
    def save():
        with errors_on_one_line("chunk"), atomic_folder(tmp_path / "chunks") as folder:
            sample_tokenizer.save_pretrained(str(folder))

    with full_disk(100), pytest.raises(SystemExit) as ended:
        save()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("chunk: ")
    assert line.endswith("cannot be written (File too large); make room or give permission, and run it again")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_in_file, write_in_folder, write_in_files_at_once])
def test_a_write_that_is_cut_short_names_what_was_to_be_written(write, tmp_path, capsys):
    """NumPy, which writes arrays to the descriptor, would say how many values it wrote and nothing of the disk."""
    with full_disk(5_000), pytest.raises(SystemExit) as ended, errors_on_one_line("chunk"):
        write(tmp_path / "chunks")
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    path = tmp_path / "chunks"
    assert line == f"chunk: {path}: cannot be written (File too large); make room or give permission, and run it again"
    assert not path.exists() or not list(path.iterdir())


def test_rust_code_says_it_in_its_own_exceptions(sample_tokenizer, tmp_path):
    """Else the line above would come from Python's own writing."""
    told = []
    with full_disk(100):
        for save in (
            lambda: sample_tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json")),
            lambda: save_file({"weight": torch.ones(1000)}, tmp_path / "model.safetensors"),
        ):
            with pytest.raises(Exception) as error:
                save()
            assert not isinstance(error.value, OSError)
            told.append(cannot_write(error.value))
    assert told == ["cannot be written (File too large); make room or give permission, and run it again"] * 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "x.csv"),
            "x.csv: cannot be written (No space left on device)",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: cannot be opened (Permission denied)"),
        (Exception("No space left on device (os error 28)"), "cannot be written (No space left on device)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), None),
        (Exception("No such file or directory (os error 2)"), None),
        (ValueError("28"), None),
    ],
)
def test_only_what_room_or_permission_mends_is_said_so(error, line):
    said = cannot_write(error)
    assert said == (line and f"{line}; make room or give permission, and run it again")


def test_a_command_says_it_as_stages_do(sample_checkpoint, tmp_path, capsys):
    with full_disk(100):
        assert main(["export", str(sample_checkpoint), str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gmmxlnet export: ")
    assert "cannot be written" in line
    assert not (tmp_path / "out").exists()


def test_a_system_without_memory_for_another_process_is_out_of_memory():
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not is_out_of_memory(OSError(errno.EIO, "Input/output error"))

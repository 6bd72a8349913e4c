"""Two stages in one folder: the second waits a little and then says that another runs, and writes nothing."""

import multiprocessing
import time

import pytest

from pipeline import stage
from pipeline.stage import run_stage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["/somewhere/pipeline/analyze.py"])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    (tmp_path / "reports").mkdir()
    return tmp_path


@pytest.fixture
def another(folder):
    """A function to a process that runs a stage in a folder for some seconds."""
    context, started = multiprocessing.get_context("fork"), []

    def start(seconds):
        running = context.Event()

        def main():
            running.set()
            time.sleep(seconds)

        process = context.Process(target=run_stage, args=(main,))
        process.start()
        started.append(process)
        assert running.wait(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_the_second_says_so_in_one_line_and_does_nothing(another, folder, monkeypatch, capsys):
    monkeypatch.setattr(stage, "WAIT_SECONDS", 0.3)
    another(60)
    with pytest.raises(SystemExit) as ended:
        run_stage(lambda: (folder / "written").touch())
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("analyze: another stage runs in this folder and would write the same files; wait until")
    assert not (folder / "written").exists()


def test_the_second_waits_for_one_that_ends(another, folder):
    another(1)
    run_stage(lambda: (folder / "written").touch())
    assert (folder / "written").exists()


def test_one_that_was_killed_keeps_nobody_out(another, folder, monkeypatch):
    monkeypatch.setattr(stage, "WAIT_SECONDS", 5.0)
    another(60).kill()
    run_stage(lambda: (folder / "written").touch())
    assert (folder / "written").exists()


def test_another_folder_is_free_and_so_are_the_processes_of_one_stage(another, folder, monkeypatch):
    monkeypatch.setattr(stage, "WAIT_SECONDS", 0.3)
    another(60)
    (folder / "clone" / "reports").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.chdir(folder / "clone")
        run_stage(lambda: (folder / "beside").touch())
    monkeypatch.setenv("LOCAL_RANK", "1")
    run_stage(lambda: (folder / "together").touch())
    assert (folder / "beside").exists()
    assert (folder / "together").exists()

"""Where DVC cannot queue, `make compare` says so before it begins."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import compare, dvc_queue
from pipeline.commands import CommandError, command
from pipeline.queues import QueueError
from pipeline.variants import plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of DVC's with four commits, in a path with letters beyond ASCII."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    folder = tmp_path / "été" / "clone"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    command("git", "init", "--quiet")
    command("dvc", "init", "--quiet")
    for message in ("one", "two", "three", "four"):
        command("git", "commit", "--quiet", "--allow-empty", "--message", message)
    return folder


def test_a_cache_with_letters_beyond_ascii_has_to_move(repository, tmp_path):
    with pytest.raises(QueueError, match=r"/été/clone/\.dvc/cache\).* dvc cache dir --local /another/path$"):
        dvc_queue.check()
    command("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    dvc_queue.check()


@pytest.mark.parametrize("depth", [1, 3])
def test_a_clone_without_the_end_of_its_history_is_to_be_mended(repository, tmp_path, monkeypatch, depth):
    clone = ["git", "clone", "--quiet", f"--depth={depth}", repository.as_uri(), tmp_path / "shallow"]
    subprocess.run(clone, check=True)
    monkeypatch.chdir(tmp_path / "shallow")
    Path(".git/shallow").unlink()  # as dvc exp pull does
    with pytest.raises(QueueError, match=r"get all of it: (git rev-parse .*--unshallow)$") as caught:
        dvc_queue.check()
    subprocess.run(str(caught.value).rpartition(": ")[2], shell=True, check=True)
    assert len(command("git", "rev-list", "HEAD").split()) == 4


def test_a_shallow_clone_that_knows_its_end_is_a_place_for_a_queue(repository, tmp_path, monkeypatch):
    clone = ["git", "clone", "--quiet", "--depth=1", repository.as_uri(), tmp_path / "shallow"]
    subprocess.run(clone, check=True)
    monkeypatch.chdir(tmp_path / "shallow")
    dvc_queue.check()


def test_a_folder_without_a_repository_is_not_taken_for_a_shallow_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="not a git repository"):
        dvc_queue.check()


def test_what_is_to_run_is_said_before_it_is_queued(repository, tmp_path, monkeypatch, capsys):
    """Queueing ten experiments takes DVC minutes on a busy machine."""
    command("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    shutil.copy(ROOT / "params.yaml", repository)
    heard = []
    monkeypatch.setattr(dvc_queue, "_enqueue", lambda one, failed: heard.append(capsys.readouterr().out))
    monkeypatch.setattr(dvc_queue, "wait", lambda names, jobs, tell: [tell(name, "queued") for name in names])
    compare.train(plan("sample", ["none", "token"], [14], []), dvc_queue, jobs=1)
    assert heard == ["compare: 0 of 2 are done, 2 to run, 1 at once\n", "compare: none-s14 queued\n"]
    assert capsys.readouterr().out == "compare: token-s14 queued\n"

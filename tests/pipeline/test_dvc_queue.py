"""Where DVC cannot queue, `make compare` says so before it begins."""

import subprocess

import pytest

from pipeline.dvc_queue import QueueError, check_place, command


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of DVC's with a commit, in a path with letters beyond ASCII."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    folder = tmp_path / "été" / "clone"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    command("git", "init", "--quiet")
    command("dvc", "init", "--quiet")
    for message in ("one", "two"):
        command("git", "commit", "--quiet", "--allow-empty", "--message", message)
    return folder


def test_a_cache_with_letters_beyond_ascii_has_to_move(repository, tmp_path):
    with pytest.raises(QueueError, match=r"/été/clone/\.dvc/cache\).* dvc cache dir --local /another/path$"):
        check_place()
    command("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    check_place()


def test_a_shallow_clone_needs_its_history(repository, tmp_path, monkeypatch):
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", repository.as_uri(), tmp_path / "shallow"], check=True)
    monkeypatch.chdir(tmp_path / "shallow")
    with pytest.raises(QueueError, match=r"get its history: git fetch --unshallow$"):
        check_place()

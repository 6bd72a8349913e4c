"""Data, experiments and the run cache through a real S3 server and a real sshd, with faults."""

import importlib.util
import subprocess
import sys
import time

import pytest
from storage_servers import S3Server, SSHServer

from tests.small_repository import environment, make_repository, must, run

pytestmark = pytest.mark.servers
KINDS = {"s3": (S3Server, "dvc_s3"), "ssh": (SSHServer, "dvc_ssh")}


@pytest.fixture(scope="module", params=KINDS)
def server(request, tmp_path_factory):
    kind, package = KINDS[request.param]
    missing = kind.missing() or (None if importlib.util.find_spec(package) else package.replace("_", "-"))
    if missing:
        pytest.skip(f"{missing} is not installed (make scale-test)")
    with kind(tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A repository in which everything has been run, and an experiment too."""
    folder = tmp_path_factory.mktemp("first") / "main"
    folder.mkdir()
    make_repository(folder)
    must(folder, "dvc", "exp", "run", "--name", "one", "-S", "memory_type=token")
    must(folder, "dvc", "commit", "--force")  # DVC keeps no run of a stage with outputs in git until it is committed
    must(folder, "git", "add", "--all")
    must(folder, "git", "commit", "--quiet", "--message", "locked")
    return folder


@pytest.fixture(scope="module")
def pushed(first, server):
    server.add_remote(first)
    must(first, "dvc", "push", **server.environment)
    assert "6 runs" in must(first, sys.executable, "-m", "scripts.push_runs", **server.environment)
    return first


@pytest.fixture
def clone(pushed, server, tmp_path):
    """An empty clone that knows the remote."""
    must(tmp_path, "git", "clone", "--quiet", str(pushed), "clone")
    server.add_remote(tmp_path / "clone")
    return tmp_path / "clone"


def files(folder):
    """The bytes of the large outputs."""
    found = [path for name in ("data/chunks", "models/gmm") for path in (folder / name).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def stored(server, folder, name="models/gmm/model.safetensors"):
    """The object that holds a file."""
    size = (folder / name).stat().st_size
    content = (folder / name).read_bytes()
    same = [path for path in server.objects.rglob("*") if path.is_file() and path.stat().st_size == size]
    (found,) = [path for path in same if path.read_bytes() == content]
    return found


def errors(printed):
    return [line for line in printed.splitlines() if line.startswith("ERROR")]


def test_an_empty_clone_pulls_the_same_bytes_and_trains_nothing(pushed, server, clone):
    must(clone, "dvc", "pull", "--run-cache", **server.environment)
    assert files(clone) == files(pushed)
    assert must(clone, "dvc", "repro", "--dry").count("Running stage") == 0
    (clone / "dvc.lock").unlink()  # as if nothing had been run, with the run cache only
    printed = must(clone, "dvc", "repro", "--pull", **server.environment)
    assert "Running stage 'train'" not in printed
    assert "Stage 'train' is cached" in printed
    assert files(clone) == files(pushed)


def test_experiments_travel_with_their_data(pushed, server, clone):
    must(clone, "dvc", "pull", "--run-cache", **server.environment)
    must(clone, "dvc", "exp", "run", "--temp", "--name", "two", "-S", "seed=14", "train", **server.environment)
    must(clone, "dvc", "exp", "push", "origin", "two", **server.environment)
    must(pushed, "dvc", "exp", "pull", str(clone), "two", **server.environment)
    must(pushed, "dvc", "exp", "remove", "two")
    must(clone, "dvc", "exp", "push", "origin", "two", **server.environment)
    assert "two" in must(pushed, "dvc", "exp", "list")
    before = files(pushed)
    must(pushed, "dvc", "exp", "apply", "two", **server.environment)
    assert files(pushed).keys() == before.keys()
    assert files(pushed) != before
    must(pushed, "git", "checkout", "--quiet", "--", ".")
    must(pushed, "dvc", "checkout", "--force")
    must(pushed, "dvc", "exp", "remove", "two")


def test_a_push_that_is_killed_is_finished_by_the_next(pushed, server, clone):
    must(clone, "dvc", "pull", "--run-cache", **server.environment)
    for number in range(40):
        (clone / "data" / "sample" / f"extra-{number}").write_text(f"{number}" * 200_000)
    must(clone, "dvc", "add", "--quiet", *[f"data/sample/extra-{number}" for number in range(40)])
    count = sum(path.is_file() for path in server.objects.rglob("*"))
    push = subprocess.Popen(
        ["dvc", "push", "--jobs", "1"], cwd=clone, env=environment(**server.environment), stdout=subprocess.DEVNULL
    )
    while sum(path.is_file() for path in server.objects.rglob("*")) < count + 5:
        assert push.poll() is None
        time.sleep(0.01)
    push.kill()
    push.wait()
    assert "new:" in must(clone, "dvc", "status", "--cloud", **server.environment)
    must(clone, "dvc", "push", **server.environment)
    assert "in sync" in must(clone, "dvc", "status", "--cloud", **server.environment)
    before = {path.name: path.read_bytes() for path in (clone / "data" / "sample").glob("extra-*[0-9]")}
    for path in [clone / "data" / "sample" / name for name in before]:
        path.unlink()
    must(clone, "rm", "-rf", ".dvc/cache")
    must(clone, "dvc", "pull", **server.environment)
    assert {path.name: path.read_bytes() for path in (clone / "data" / "sample").glob("extra-*[0-9]")} == before


def test_two_clones_push_at_once(pushed, server, clone, tmp_path):
    must(tmp_path, "git", "clone", "--quiet", str(pushed), "other")
    server.add_remote(tmp_path / "other")
    running = []
    for folder in (clone, tmp_path / "other"):
        for number in range(10):  # the same ten, and ten more of each
            (folder / f"same-{number}").write_text(f"{number}" * 100_000)
            (folder / f"own-{number}").write_text(f"{folder.name}{number}" * 50_000)
        must(folder, "dvc", "add", "--quiet", *[f"{kind}-{number}" for kind in ("same", "own") for number in range(10)])
    for folder in (clone, tmp_path / "other"):
        told = {"cwd": folder, "env": environment(**server.environment), "stdout": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(["dvc", "push", "--glob", "*-?.dvc"], stderr=subprocess.STDOUT, **told))
    for push in running:
        printed, _ = push.communicate()
        assert push.returncode == 0, printed
    for folder in (clone, tmp_path / "other"):
        must(
            folder, "rm", "-rf", ".dvc/cache", *[f"{kind}-{number}" for kind in ("same", "own") for number in range(10)]
        )
        must(folder, "dvc", "pull", "--glob", "*-?.dvc", **server.environment)
        assert (folder / "own-7").read_text() == f"{folder.name}7" * 50_000
        assert (folder / "same-3").read_text() == "3" * 100_000


@pytest.mark.parametrize("harm", ["altered", "cut short", "removed"])
def test_a_damaged_object_is_named_and_not_used(pushed, server, clone, harm):
    found = stored(server, pushed)
    good = found.read_bytes()
    try:
        found.chmod(0o644)
        if harm == "removed":
            found.unlink()
        else:
            found.write_bytes(good[:-1] if harm == "cut short" else good[:-1] + bytes([good[-1] ^ 1]))
        status, printed = run(clone, "dvc", "pull", "models/gmm", **server.environment)
        assert status != 0
        assert "models/gmm" in printed or found.name in printed or f"{found.parent.name}{found.name}" in printed
        assert not (clone / "models" / "gmm" / "model.safetensors").exists()
    finally:
        found.write_bytes(good)
    server.stop()  # rclone's remembers the size
    server.start()
    must(clone, "dvc", "pull", "models/gmm", **server.environment)
    assert files(clone)["models/gmm/model.safetensors"] == good


def test_wrong_credentials_are_told_in_the_first_line(pushed, server, clone):
    wrong = server.environment | server.spoil_credentials(clone)
    for words in (["pull"], ["status", "--cloud"]):
        status, printed = run(clone, "dvc", *words, **wrong)
        assert status != 0
        assert any(said in errors(printed)[0] for said in ("Forbidden", "signature", "Permission denied")), printed
    assert not (clone / "models" / "gmm").exists()


def test_a_server_that_is_away_is_one_line_and_the_next_pull_has_all(pushed, server, clone):
    server.stop()
    try:
        status, printed = run(clone, "dvc", "pull", **server.environment)
        assert status != 0
        assert any(str(server.port) in line for line in errors(printed)), printed
    finally:
        server.start()
    must(clone, "dvc", "pull", **server.environment)
    assert files(clone) == files(pushed)

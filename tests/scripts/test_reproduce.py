"""The reproducibility check, on small pipelines of its own: it must notice and name what differs."""

import subprocess
import sys

import pytest

from scripts import reproduce as check

SAME = """
import pathlib
pathlib.Path("same.txt").write_text(pathlib.Path("params.yaml").read_text())
"""
HASH_SEED = """
import pathlib
folder = pathlib.Path("folder")
folder.mkdir()
(folder / "fixed.txt").write_text("always")
(folder / "order.txt").write_text(" ".join({"north", "south", "east", "west", "up", "down"}))
"""
DVC_YAML = """
stages:
  one:
    cmd: python one.py
    params: [steps]
    outs: [same.txt]
  two:
    cmd: python two.py
    deps: [same.txt]
    outs: [folder]
"""


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for name, text in {"one.py": SAME, "two.py": HASH_SEED, "dvc.yaml": DVC_YAML, "params.yaml": "steps: 9\n"}.items():
        (folder / name).write_text(text, encoding="utf-8")

    def commit(**changes):
        for name, text in changes.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        subprocess.run([*git, "add", "--all"], cwd=folder, check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", "test"], cwd=folder, check=True)
        return folder

    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    return commit


def test_a_file_that_differs_is_named(repository, tmp_path, capsys):
    assert check.reproduce(repository(), {"steps": 2}, tmp_path) == 1
    shown = capsys.readouterr().err
    assert "reproduce: folder/order.txt DIFFERS" in shown
    assert "fixed.txt" not in shown
    assert "(2 outputs compared)" in shown


def test_equal_runs_pass_with_the_parameters_asked_for(repository, tmp_path, capsys):
    folder = repository(two=HASH_SEED.replace('" ".join(', '" ".join(sorted(').replace('"})', '"}))'))
    assert check.reproduce(folder, {"steps": 2}, tmp_path) == 0
    assert "all 2 outputs are the same, bit for bit: folder, same.txt" in capsys.readouterr().out
    assert (tmp_path / "first" / "same.txt").read_text(encoding="utf-8") == "steps: 2\n"


def test_a_stage_that_fails_is_shown(repository, tmp_path):
    with pytest.raises(check.CheckError, match=r"(?s)no such luck.*`dvc repro .*` failed"):
        check.reproduce(repository(one="raise SystemExit('no such luck')"), {}, tmp_path)


def test_unknown_parameters_are_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("profiles: {sample: {max_steps: 3}}\n", encoding="utf-8")
    with pytest.raises(check.CheckError, match=r"params\.yaml has no key profiles\.sample\.max_step$"):
        check.set_parameters(tmp_path / "params.yaml", {"profiles.sample.max_step": 1})

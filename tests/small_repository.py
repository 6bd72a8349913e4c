"""A repository of its own with this one's files and a model so small that a whole experiment takes half a minute."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.small_model import shrink

ROOT = Path(__file__).resolve().parents[1]
IDENTITY = {f"GIT_{who}_{what}": told for who in ("AUTHOR", "COMMITTER")
            for what, told in (("NAME", "Test"), ("EMAIL", "test@example.org"))}  # fmt: skip


def environment(**more):
    """The tests' environment without what belongs to another repository, and with this Python's programs."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "GIT_"))}
    kept.pop("PYTHONPATH", None)
    return kept | IDENTITY | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "OMP_NUM_THREADS": "1"} | more


def run(folder, *words, **more):
    """Run a command; returns its status and all that it printed."""
    done = subprocess.run(
        words, cwd=folder, env=environment(**more), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout


def must(folder, *words, **more):
    """Run a command that must succeed; returns all that it printed."""
    status, printed = run(folder, *words, **more)
    assert status == 0, printed
    return printed


def make_repository(folder, changes=None, **profile):
    """Fill a folder and commit it.

    Args:
        changes: functions from a file's text to another, by the file's name.
        profile: options of the profile that differ.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shrink(folder / "params.yaml", **profile)
    for name, change in (changes or {}).items():
        text = (folder / name).read_text(encoding="utf-8")
        changed = change(text)
        assert changed != text, name
        (folder / name).write_text(changed, encoding="utf-8")
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        must(folder, "git", *words)
    return folder

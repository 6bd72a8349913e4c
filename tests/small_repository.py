"""A repository of its own with this one's files and a model so small that a whole experiment takes half a minute."""

import subprocess
from pathlib import Path

from scripts.copies import clean_environment, copy_of
from scripts.small_model import shrink

ROOT = Path(__file__).resolve().parents[1]


def environment(**more):
    """The tests' environment, for commands in the small repository."""
    return clean_environment(**{"OMP_NUM_THREADS": "1", **more})


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
    (copy_of(ROOT, folder) / "dvc.lock").unlink()
    shrink(folder / "params.yaml", **profile)
    for name, change in (changes or {}).items():
        text = (folder / name).read_text(encoding="utf-8")
        changed = change(text)
        assert changed != text, name
        (folder / name).write_text(changed, encoding="utf-8")
    for words in (["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        must(folder, "git", *words)
    return folder

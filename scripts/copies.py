"""Copies of this repository, and the environment of commands that run in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOREIGN = ("DVC_", "MLFLOW_", "GIT_", "GMMXLNET_", "PYTHONPATH")  # of this repository


def copy_of(root: Path, folder: Path) -> Path:
    """A copy of all files that git would commit, in a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


def clean_environment(**more: str) -> dict[str, str]:
    """This process's, without what is foreign there; git has an author, and this Python's programs come first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    for who in ("AUTHOR", "COMMITTER"):
        kept |= {f"GIT_{who}_NAME": "Test", f"GIT_{who}_EMAIL": "test@example.org"}
    return kept | more

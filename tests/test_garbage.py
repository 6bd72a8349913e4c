"""Programs of this project import and end without a search for unused objects; others do as they please."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WATCH = """
import atexit, gc, sys
from pathlib import Path

def tell(*words):
    with Path(__file__).with_name("seen").open("a") as file:
        print(*words, file=file)

class Look:
    def find_spec(self, name, path=None, target=None):
        if name in ("pipeline.params", "gmmxlnet.commands.verify", "gmmxlnet.models"):
            tell("imports", gc.isenabled())

sys.meta_path.insert(0, Look())
atexit.register(lambda: tell("exit", gc.isenabled(), gc.get_freeze_count() > 0))  # the last of all that is done then
"""
PROGRAMS = {
    "a stage": (["-m", "pipeline.push"], 1, "imports False\nexit True True\n"),
    "a command": (["-m", "gmmxlnet.cli", "verify", "no-folder"], 1, "imports True\nexit True True\n"),
    "a library's user": (["-c", "import gmmxlnet.models"], 0, "imports True\nexit True False\n"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_when_unused_objects_are_searched(program, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    arguments, status, expected = PROGRAMS[program]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, (tmp_path / "seen").read_text()) == (status, expected), done.stderr

"""Asking a model needs torch, transformers, numpy, safetensors and what they bring along; nothing more."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from gmmxlnet.pretraining.settings import PretrainingSettings

ROOT = Path(__file__).resolve().parents[1]
HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {"accelerate", "datasets", "dvc", "matplotlib", "mlflow", "pandas", "peft", "pyarrow", "pydantic",
          "pydantic_core", "ruamel", "scipy", "sentencepiece"}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def run(code):
    return subprocess.run([sys.executable, "-c", HIDE + code], capture_output=True, text=True, check=False)


def test_answering_needs_no_further_package():
    done = run(
        "from gmmxlnet.evaluation.answering import answer\n"
        "from gmmxlnet.cli import make_parser; make_parser(['answer'])"
    )
    assert done.returncode == 0, done.stderr


def test_help_comes_at_once():
    said = run(
        "import sys\nfrom gmmxlnet.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    assert "answer questions about a document" in said.stdout
    assert "torch" not in said.stdout.split()


def test_the_help_of_a_command_explains_every_option_without_torch():
    said = run(
        "import sys\nfrom gmmxlnet.cli import main\n"
        "try: main(['pretrain', '--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    text, _, modules = said.stdout.rstrip("\n").rpartition("\n")
    assert "torch" not in modules.split()
    words = " ".join(text.split())
    for field in fields(PretrainingSettings):
        assert f"--{field.name.replace('_', '-')}" in words
        assert f"{field.metadata['help'].partition(' (default')[0]} (default: {field.default})" in words


HEAVY = {"torch", "transformers", "numpy", "pandas", "datasets", "pyarrow", "huggingface_hub", "matplotlib", "mlflow"}
AFTERWARDS = """
import runpy, sys
sys.argv = [{program!r}, *{arguments!r}]
status = 0
try:
    runpy.run_module({program!r}, run_name="__main__")
except SystemExit as end:
    status = end.code
print(f"status {{status}}", *(name for name in sys.modules if "." not in name))
"""


def modules_after(program, *arguments, cwd=None):
    """Status, standard error and the modules that were imported when `python -m program` ends."""
    code = AFTERWARDS.format(program=program, arguments=arguments)
    path = os.pathsep.join(map(str, [ROOT, *sys.path]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
    )
    status, *modules = done.stdout.rpartition("status ")[2].split()
    return status, done.stdout + done.stderr, set(modules)


@pytest.mark.parametrize("command", [[], ["answer"], ["export"], ["verify"]])
def test_help_waits_for_no_heavy_module(command):
    status, said, modules = modules_after("gmmxlnet.cli", *command, "--help")
    assert (status, modules & HEAVY) == ("0", set())
    assert "usage: gmmxlnet" in said


ANSWER = ["answer", "--question", "Who?", "--model"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*ANSWER, ".", "--document", "no.txt"], "document no.txt: cannot be read (No such file or directory)"),
        (
            [*ANSWER, ".", "--document", "a.txt", "--threshold", "no.json"],
            "--threshold no.json: neither a number nor a",
        ),
        ([*ANSWER, ".", "--document", "a.txt", "--n-best", "0"], "--n-best must be an integer from 1 to 10,000"),
        ([*ANSWER, "no", "--document", "a.txt"], "model 'no': there is no such folder"),
        (["verify", "no"], "no: there is no such folder"),
        (["export", "no", "out"], "no/config.json: there is no such file"),
    ],
)
def test_a_mistyped_file_waits_for_no_heavy_module(tmp_path, arguments, told):
    (tmp_path / "a.txt").write_text("The host is Anna.", encoding="utf-8")
    status, said, modules = modules_after("gmmxlnet.cli", *arguments, cwd=tmp_path)
    assert told in said
    assert (status, modules & HEAVY) == ("1", set())


def test_push_without_a_repository_waits_for_no_heavy_module(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    status, said, modules = modules_after("pipeline.push", cwd=tmp_path)
    assert "so nothing was pushed" in said
    assert (status, modules & HEAVY) == ("0", set())
    assert "pydantic" in modules


def test_what_is_hidden_is_hidden():
    assert "No module named 'pydantic'" in run("import gmmxlnet.data.squad").stderr

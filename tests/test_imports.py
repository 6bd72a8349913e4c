"""Asking a model needs torch, transformers, numpy, safetensors and what they bring along; nothing more."""

import subprocess
import sys
from dataclasses import fields

from gmmxlnet.pretraining.settings import PretrainingSettings

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


def test_what_is_hidden_is_hidden():
    assert "No module named 'pydantic'" in run("import gmmxlnet.data.squad").stderr

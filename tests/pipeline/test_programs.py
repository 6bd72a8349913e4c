"""What every program in `pipeline/` has in common on the command line."""

import ast
import importlib
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from gmmxlnet.errors import GMMXLNetError
from pipeline.stage import run_stage

ROOT = Path(__file__).resolve().parents[2]
COMPUTES_NOTHING = {"compare", "track"}  # starts other programs; sends files


def programs():
    """Modules that are run with `python -m`, and compute."""
    for file in sorted((ROOT / "pipeline").glob("*.py")):
        blocks = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
        if file.stem not in COMPUTES_NOTHING and any("__name__" in ast.unparse(block.test) for block in blocks):
            yield file.stem


@pytest.mark.parametrize("program", ["check", "train"])
def test_another_python_is_told_what_it_lacks(program):
    """As `.venv/bin/dvc` starts it where the environment is not activated: `python` is then the system's."""
    command = [sys.executable, "-S", "-m", f"pipeline.{program}"]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{program}: {sys.executable} has no module ")
    assert line.endswith("; activate the environment (source .venv/bin/activate), or make it with make install")


def test_what_a_stage_lacks_itself_is_told_as_well(tmp_path):
    """A Python that has some packages and not all; a missing module of ours is a bug and keeps its traceback."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nsys.modules[os.environ['LACKS']] = None\n", encoding="utf-8"
    )

    def told(lacks):
        environment = os.environ | {"LACKS": lacks, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-m", "pipeline.train"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr

    (line,) = told("torch").splitlines()
    assert line.startswith(f"train: {sys.executable} has no module torch; activate")
    assert told("pipeline.places").startswith("Traceback")


def test_the_programs_are_found():
    assert {"train", "evaluate", "reader", "capacity", "long_documents", "real_text"} <= set(programs())


@pytest.mark.parametrize("name", list(programs()))
def test_each_takes_a_log_level(name, monkeypatch, capsys):
    module = importlib.import_module(f"pipeline.{name}")
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    run = module.main if hasattr(module, "parse") else partial(run_stage, module.main)
    with pytest.raises(SystemExit):
        run()
    assert "--log-level" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "level"), [((), logging.INFO), (("--log-level", "warning"), logging.WARNING)])
@pytest.mark.parametrize("name", ["capacity", "long_documents", "real_text"])
def test_what_trains_in_its_own_process_shows_progress_unless_told_otherwise(
    name, options, level, tmp_path, monkeypatch
):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    logging.getLogger("gmmxlnet").setLevel(logging.NOTSET)
    needed = ("--reader", "encoder", "--squad", "squad") if name == "real_text" else ()
    with pytest.raises(GMMXLNetError):  # an end before anything is computed
        importlib.import_module(f"pipeline.{name}").main([*needed, *options, "--set", "no_such_parameter=1"])
    assert logging.getLogger("gmmxlnet").level == level

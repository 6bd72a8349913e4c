"""Where things lie, what resuming imports, and how large a checkpoint's model is, whatever its files are."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.build import pretrained_model
from pipeline import places
from pipeline.cost import count_parameters

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (ast.Module, ast.FunctionDef, ast.ClassDef)
LOGGED_THERE = (
    "analyze.py",
    "compare_report.py",
    "mlflow_run.py",
    "track.py",
    "train.py",
)  # a folder of MLflow's artifacts


def test_resuming_does_not_import_mlflow():
    code = "import sys, pipeline.resume_key; print({'mlflow', 'sqlalchemy', 'alembic', 'dvc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_main_repository_is_the_codes_own_unless_dvc_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert places.main_root() == ROOT
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert places.main_root() == tmp_path


def strings(file):
    """All string constants of a module but its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    told = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {node.value for node in nodes} - told


def test_a_place_is_named_once():
    """A path that two modules spell is two places as soon as one of them changes."""
    named = {str(value) for name, value in vars(places).items() if isinstance(value, Path) and name != "CODE_ROOT"}
    assert {"models/gmm", "data/chunks", "reports/metrics.json"} <= named
    for file in sorted((ROOT / "pipeline").glob("*.py")):
        if file.name != "places.py":
            assert strings(file) & named <= ({"reports"} if file.name in LOGGED_THERE else set()), file.name


def test_parameters_of_a_whole_checkpoint(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    assert count_parameters(tmp_path) == model.num_parameters()


def test_parameters_of_a_checkpoint_in_shards(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path, max_shard_size=4000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert not (tmp_path / "model.safetensors").exists()
    assert count_parameters(tmp_path) == model.num_parameters()


def test_parameters_of_an_adapter_are_those_of_its_base_as_well(sample_tokenizer, tmp_path):
    torch.manual_seed(0)
    size = {"n_layer": 2, "d_model": 32, "n_head": 2, "d_inner": 64}
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(sample_tokenizer), **size)).save_pretrained(
        tmp_path / "base"
    )
    memory = {"memory_type": "gmm", "num_memory_experts": 2, "memory_slots": 2}
    model = pretrained_model(str(tmp_path / "base"), None, sample_tokenizer, memory, adapter=AdapterSize(rank=2))
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "base")  # not needed to count
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert count_parameters(tmp_path / "model") == model.num_parameters()


def test_a_folder_without_manifest_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: there is no such file"):
        count_parameters(tmp_path)

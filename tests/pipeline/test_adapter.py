"""`adapter: lora` through the stages: trained on a pretrained base, then verified, evaluated and analyzed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetForQA
from pipeline import analyze, evaluate, train, verify
from pipeline.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]
SIZE = {"n_layer": 2, "d_model": 32, "n_head": 2, "d_inner": 64, "initializer_range": 0.2}
BASE = "pretrained/xlnet/tiny"  # no Hub id, which would be asked for where the folder is missing
ADAPTER = {"adapter": "lora", "lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0}


def run_in(folder, *stages):
    deterministic = torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))  # for the process that verify starts
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers: stages warn and go on
        patch.setenv("GMMXLNET_BASE_MODEL", "")  # to be restored afterwards
        patch.delenv("GMMXLNET_BASE_MODEL")
        try:
            for stage in stages:
                stage.main()
        finally:
            torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, sample_chunks, sample_tokenizer):
    """A folder with chunks, a base and parameters."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(sample_chunks, folder / "data" / "chunks")
    torch.manual_seed(0)
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(sample_tokenizer), **SIZE)).save_pretrained(
        folder / BASE
    )
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"device": "cpu", "memory_num_tokens": 2, "num_memory_experts": 2, **ADAPTER}
    size = {"max_seq_length": 48, "doc_stride": 8, "max_question_length": 16, "batch_size": 8, "max_steps": 3}
    params["profiles"]["sample"] |= {**size, "base_model": BASE}
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)
    return folder


@pytest.fixture(scope="module")
def trained(workspace):
    run_in(workspace, train)
    return workspace


def test_the_checkpoint_names_the_base_and_holds_the_adapter(trained):
    folder = trained / "models" / "gmm"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["adapter"]
    assert (config["base_model"], config["rank"], config["alpha"], config["dropout"]) == (BASE, 2, 4, 0.0)
    assert not (folder / "model.safetensors").exists()
    moved = load_file(folder / "adapter_model.safetensors")
    assert all(tensor.any() for tensor in moved.values())  # B too, which was zero
    assert Experiment.read(folder).name == "gmm-k2-write-lora"


def test_verify_evaluate_and_analyze_take_the_folder_alone(trained):
    run_in(trained, verify, evaluate, analyze)
    reports = trained / "reports"
    assert json.loads((reports / "determinism.json").read_text(encoding="utf-8"))["bit_identical"] is True
    assert json.loads((reports / "metrics.json").read_text(encoding="utf-8"))["total"] > 0
    assert len(json.loads((reports / "routing.json").read_text(encoding="utf-8"))["expert_utilization"]) == 2


def test_in_a_queued_experiment_the_main_repositorys_base_is_taken(trained, tmp_path, monkeypatch):
    """It runs in a copy that lacks what git does not track."""
    shutil.copytree(trained, tmp_path / "queued", ignore=shutil.ignore_patterns("pretrained"))
    with pytest.raises(CheckpointError, match=f"needs its base model, and base_model '{BASE}' cannot be read"):
        run_in(tmp_path / "queued", evaluate)
    monkeypatch.setenv("DVC_ROOT", str(trained))
    before = (trained / "models" / "gmm" / "config.json").read_bytes()
    run_in(tmp_path / "queued", train, evaluate)
    assert (tmp_path / "queued" / "models" / "gmm" / "config.json").read_bytes() == before


def test_again_the_same_bytes(trained):
    folder = trained / "models" / "gmm"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    run_in(trained, train)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_base_that_changed_since_is_refused(trained, tmp_path):
    copied = Path(shutil.copytree(trained, tmp_path / "copied"))
    base = XLNetForQuestionAnsweringSimple.from_pretrained(copied / BASE)
    with torch.no_grad():
        base.transformer.layer[1].ff.layer_1.bias[0] += 1e-3
    base.save_pretrained(copied / BASE)
    with pytest.raises(CheckpointError, match="has other weights than the one trained on"):
        run_in(copied, evaluate)


def test_the_model_in_the_folder_is_trained_with_its_encoder_unmoved(trained, monkeypatch):
    monkeypatch.chdir(trained)
    loaded = GMMXLNetForQA.from_pretrained("models/gmm").state_dict()
    base = XLNetForQuestionAnsweringSimple.from_pretrained(BASE).state_dict()
    assert torch.equal(loaded["encoder.word_embedding.words"], base["transformer.word_embedding.weight"])
    assert not torch.equal(loaded["qa_head.weight"], base["qa_outputs.weight"])

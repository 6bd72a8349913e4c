"""The train and verify stages on a small model: they run, repeat themselves, and leave nothing half-done."""

import json
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import CheckpointError, GMMXLNetError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.utils.seeding import seed_everything
from pipeline import train, verify
from pipeline.experiment import Experiment, folder_hash, model_hash
from pipeline.params import load_params
from pipeline.stage import run_stage
from pipeline.training import build_model

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16, "dropout": 0.1, "initializer_range": 0.3}
REPORTS = Path("reports")


def write_params(folder, *, profile=None, **other):
    """The repository's parameters with a small model, three steps and what else is given."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    of_memory = {"memory_num_tokens": 2, "num_memory_experts": 3, "memory_reconstruction_weight": 0.3}
    params |= {"device": "cpu", **of_memory, **other}
    size = {"scratch_size": SMALL, "max_seq_length": 48, "doc_stride": 8, "max_question_length": 16, "batch_size": 8}
    size |= {"max_steps": 3, "portable_bits": False}  # in the tests' process it would have no effect
    params["profiles"]["sample"] |= {**size, **(profile or {})}
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)


def run_in(folder, *stages):
    """Run stages with nobody to log to, and leave torch's settings as they were."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))  # for the process that verify starts
        patch.setenv("DVC_ROOT", str(folder))  # where checkpoints go
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers: stages warn and go on
        try:
            for stage in stages:
                stage.main()
        finally:
            torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def make_workspace(tmp_path_factory, sample_chunks):
    def make(**params):
        folder = tmp_path_factory.mktemp("workspace")
        (folder / "data").mkdir()
        (folder / "data" / "chunks").symlink_to(sample_chunks)
        write_params(folder, **params)
        return folder

    return make


@pytest.fixture(scope="module")
def trained(make_workspace):
    """A folder in which both stages have run."""
    folder = make_workspace(routing_mode="read-based")
    run_in(folder, train, verify)
    return folder


def test_the_model_is_the_one_asked_for(trained, sample_chunks):
    model = GMMXLNetForQA.from_pretrained(trained / "models" / "gmm")
    config = model.config
    assert (config.memory_type, config.num_memory_experts, config.memory_slots) == ("gmm", 3, 2)
    assert (config.routing_mode, config.memory_reconstruction_weight) == ("read-based", 0.3)
    tokenizer = load_tokenizer(str(trained / "models" / "gmm"))
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.convert_tokens_to_ids("[MEM_READ_0]") == config.read_token_id
    assert tokenizer.convert_tokens_to_ids("[MEM_WRITE_0]") == config.write_token_id


def test_the_model_has_learned_something(trained):
    """It is not the model that training started from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        params = load_params()
        seed_everything(params.seed)
        torch.use_deterministic_algorithms(False)
        before = build_model(params, load_tokenizer("data/chunks/tokenizer")).state_dict()
    after = load_file(trained / "models" / "gmm" / "model.safetensors")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_every_step_is_recorded(trained):
    lines = (trained / REPORTS / "training.csv").read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    names = ("step", "loss", "span", "load_balance", "entropy", "reconstruction", "learning_rate", "tokens")
    assert {*names, "utilization_0", "utilization_2"} <= set(header)
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]
    assert (trained / REPORTS / "throughput.csv").exists()
    told = json.loads((trained / REPORTS / "trained.json").read_text(encoding="utf-8"))
    assert told["model"] == model_hash(trained / "models" / "gmm")


def test_verify_reports_a_bit_identical_reload(trained):
    report = json.loads((trained / REPORTS / "determinism.json").read_text(encoding="utf-8"))
    tensors = load_file(trained / "models" / "gmm" / "model.safetensors")
    assert report["bit_identical"] is report["fresh_process"] is report["negative_control_detected"] is True
    assert report["max_abs_logit_diff"] == 0
    assert report["differing_tensors"] == []
    assert report["tensors"] == len(tensors)
    assert set(report["tensor_sha256"]) == set(tensors)
    assert report["level"] == "full"
    assert all(check["passed"] for check in report["checks"].values())


def test_the_model_says_which_experiment_made_it(trained):
    experiment = Experiment.read(trained / "models" / "gmm")
    assert experiment.name == "gmm-k3-read"
    assert experiment.parameters["max_steps"] == 3


def test_again_the_same_bytes(trained, make_workspace):
    """In another folder, from the same parameters; and over what was there."""
    other = make_workspace(routing_mode="read-based")
    for folder in (other, trained):
        expected = folder_hash(trained / "models" / "gmm")
        steps = (trained / REPORTS / "training.csv").read_bytes()
        run_in(folder, train)
        assert folder_hash(folder / "models" / "gmm") == expected
        assert (folder / REPORTS / "training.csv").read_bytes() == steps
    assert not [path for path in trained.rglob("*") if path.name.endswith(".partial")]


@pytest.mark.parametrize("memory_type", ["none", "token"])
def test_other_memories_train_too(make_workspace, memory_type):
    folder = make_workspace(memory_type=memory_type, profile={"max_steps": 1})
    run_in(folder, train)
    model = GMMXLNetForQA.from_pretrained(folder / "models" / "gmm")
    assert model.config.memory_type == memory_type
    header = (folder / REPORTS / "training.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "utilization" not in header
    assert len(load_tokenizer(str(folder / "models" / "gmm"))) == model.config.vocab_size


def test_a_failure_leaves_the_old_model_whole(make_workspace):
    folder = make_workspace()
    old = folder / "models" / "gmm"
    old.mkdir(parents=True)
    (old / "old").write_text("old")
    (folder / "empty").mkdir()
    write_params(folder, profile={"base_model": "empty"})
    with pytest.raises(GMMXLNetError, match=r"base_model 'empty' cannot be read"):
        run_in(folder, train)
    assert [path.name for path in sorted((folder / "models").rglob("*"))] == ["gmm", "old"]
    assert not (folder / REPORTS).exists()


def test_without_chunks_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pipeline/train.py"])
    with pytest.raises(SystemExit) as ended:
        run_stage(lambda: run_in(tmp_path, train))
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.startswith("train: ")
    assert not (tmp_path / "models").exists()


def test_verify_fails_where_anything_differs_and_still_reports(trained, tmp_path):
    model = tmp_path / "models" / "gmm"
    model.mkdir(parents=True)
    for path in (trained / "models" / "gmm").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    write_params(tmp_path)
    tensors = load_file(model / "model.safetensors")
    tensors["qa_head.bias"] += 1
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"^tensors: .* 1 of \d+ tensors are not what was saved.*train again"):
        run_in(tmp_path, verify)
    report = json.loads((tmp_path / REPORTS / "determinism.json").read_text(encoding="utf-8"))
    assert report["bit_identical"] is False
    assert report["differing_tensors"] == ["qa_head.bias"]

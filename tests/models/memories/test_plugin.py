"""A kind of memory from another package: trained, saved, verified, scored and reported, with no file here changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = """\
from gmmxlnet.memory_kinds import MemoryKind
from gmmxlnet.models.memories.gated import GatedMemory, GatedRecurrence

class EchoRecurrence(GatedRecurrence):
    def _update(self, hidden, write, read_states, state):
        reading, new = super()._update(hidden, write, read_states, state)
        return reading, type(new)(new.experts_Bkmd, new.read_Bmd + write)

class EchoMemory(GatedMemory):
    description = "one memory of {memory_num_tokens} slots and an echo of the last segment"
    def recurrence(self, model, num_documents, length):
        parts = (model.expert_mixture, None, model.expert_updater, model.memory_reader)
        return EchoRecurrence(self.config, model.encoder, *parts, length=length)

KIND = MemoryKind(implementation="echo_memory:EchoMemory", tokens=True, experts=(1, 1))
"""
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16, "dropout": 0.0, "initializer_range": 0.3}
STAGES = ("train", "verify", "evaluate", "analyze")


@pytest.fixture(scope="module")
def reported(tmp_path_factory, sample_chunks):
    """A workspace in which the stages have run with the plugin's kind, each as a process of its own."""
    packages = tmp_path_factory.mktemp("packages")
    (packages / "echo_memory.py").write_text(PLUGIN, encoding="utf-8")
    about = packages / "echo_memory-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-memory\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[gmmxlnet.memories]\necho = echo_memory:KIND\n", encoding="utf-8")

    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / "data").mkdir()
    (workspace / "data" / "chunks").symlink_to(sample_chunks)
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"device": "cpu", "memory_type": "echo", "memory_num_tokens": 2}
    size = {"scratch_size": SMALL, "max_seq_length": 48, "doc_stride": 8, "max_question_length": 16, "batch_size": 8}
    params["profiles"]["sample"] |= {**size, "max_steps": 2}
    with (workspace / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)]),
        "DVC_ROOT": str(workspace),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nobody answers: stages warn and go on
        "OMP_NUM_THREADS": "1",
    }
    for stage in STAGES:
        command = [sys.executable, "-m", f"pipeline.{stage}"]
        done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return workspace


@pytest.mark.slow
def test_it_is_saved_under_its_name(reported):
    config = json.loads((reported / "models/gmm/config.json").read_text(encoding="utf-8"))
    assert (config["memory_type"], config["num_memory_experts"], config["memory_slots"]) == ("echo", 1, 2)
    assert len((reported / "reports/training.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2


@pytest.mark.slow
def test_it_is_verified_in_a_fresh_process(reported):
    report = json.loads((reported / "reports/determinism.json").read_text(encoding="utf-8"))
    assert [report[key] for key in ("bit_identical", "fresh_process", "negative_control_detected")] == [True] * 3


@pytest.mark.slow
def test_its_memory_is_taken_away_and_its_sentence_is_reported(reported):
    metrics = json.loads((reported / "reports/metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["memory_ablation"]) == {"normal", "zeroed", "shuffled", "reset"}
    page = (reported / "reports/index.html").read_text(encoding="utf-8")
    assert "One memory of 2 slots and an echo of the last segment" in page


@pytest.mark.slow
def test_without_the_package_the_checkpoint_is_refused_by_name(reported):
    code = "import sys; from gmmxlnet.cli import main; sys.exit(main(['verify', sys.argv[1], '--level', 'quick']))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(reported / "models/gmm")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "memory_type must be none, mems, words, token, differentiable or gmm, not 'echo'" in (
        done.stdout + done.stderr
    )

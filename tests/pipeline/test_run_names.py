"""A run's name in MLflow: its memory, and what differs from the committed `params.yaml`."""

import subprocess

import pytest
from test_train import ROOT

from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.run_names import title
from pipeline.variants import overridden

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    (tmp_path / "params.yaml").write_text(TEXT, encoding="utf-8")
    git("init", "-q")
    commit()
    return tmp_path


def git(*words):
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def commit():
    git("add", "params.yaml")
    git("commit", "-qm", "parameters")


def title_with(*overrides):
    return title(Experiment(parameters=canonical_parameters(overridden(TEXT, overrides)), data=""))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "gmm-k4-write"),
        (["profiles.sample.max_steps=80"], "gmm-k4-write, 80 steps"),
        (["num_memory_experts=8", "routing_mode=read-based", "seed=14"], "gmm-k8-read, seed 14"),
        (["memory_type=none", "profile=squad_v2", "profiles.squad_v2.num_epochs=2"], "none, squad_v2, 2 epochs"),
        (["profiles.sample.scratch_size.dropout=0.1"], "gmm-k4-write, dropout 0.1"),
        (["hub_model_id=me/it", "profiles.squad_v2.num_epochs=2"], "gmm-k4-write"),  # neither is trained with here
        (
            ["seed=14", "routing_temperature=0.5", "span_loss=document", "bptt_segments=2", "lora_rank=4"],
            "gmm-k4-write, seed 14, routing temperature 0.5, span loss document, 2 more",
        ),
    ],
)
def test_the_name_has_what_differs(repository, overrides, name):
    assert title_with(*overrides) == name


def test_an_experiment_that_dvc_committed_is_compared_with_where_it_started(repository, monkeypatch):
    baseline = git("rev-parse", "HEAD")
    (repository / "params.yaml").write_text(TEXT.replace("seed: 13", "seed: 14"), encoding="utf-8")
    commit()
    assert title_with("seed=14") == "gmm-k4-write"
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", baseline)
    assert title_with("seed=14") == "gmm-k4-write, seed 14"


@pytest.mark.parametrize("text", [None, "profile: sample\n"])
def test_without_committed_parameters_the_name_is_the_memory(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if text is not None:  # of another version
        (tmp_path / "params.yaml").write_text(text)
        git("init", "-q")
        commit()
    assert title_with("seed=14") == "gmm-k4-write"
    assert load_params(ROOT / "params.yaml").seed == 13

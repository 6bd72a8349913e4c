"""The stages in two processes on a CPU: the same model and the same answers as in one, written and logged once."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from test_train import SMALL, run_in, write_params

from pipeline import evaluate, train

ROOT = Path(__file__).resolve().parents[2]
PROFILE = {
    "batch_size": 5,  # the processes' shares differ
    "eval_batch_size": 4,
    "max_steps": 11,  # the tenth is logged
    "num_epochs": 3,
    "gradient_accumulation_steps": 2,
    "progressive_segments": [2],
    "scratch_size": SMALL | {"dropout": 0.0},  # each process draws its own
}
TRAINED = ("models/gmm/model.safetensors", "reports/training.csv")
ANSWERS = ("predictions.json", "null_odds.json", "nbest_predictions.json", "metrics.json")


def workspace(folder, chunks, num_processes):
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "chunks").symlink_to(chunks)
    set_processes(folder, num_processes)
    return folder


def set_processes(folder, num_processes):
    write_params(folder, profile=PROFILE | {"num_processes": num_processes})


def process_of(folder, stage, **environment):
    """What DVC starts, as `subprocess` takes it."""
    told = {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(folder), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", f"pipeline.{stage}"]
    return {"args": command, "cwd": folder, "env": {**os.environ, **told}}


def run_stage_in(folder, stage, **environment):
    return subprocess.run(**process_of(folder, stage, **environment), capture_output=True, text=True)


@pytest.fixture(scope="module")
def together(tmp_path_factory, sample_chunks):
    """Trained and evaluated in two processes, with a store of their own."""
    folder = workspace(tmp_path_factory.mktemp("together"), sample_chunks, 2)
    for stage in ("train", "evaluate"):
        done = run_stage_in(folder, stage, MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"{stage}: ") == 1
    return folder


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(together, tmp_path, sample_chunks):
    alone = workspace(tmp_path / "alone", sample_chunks, 1)
    run_in(alone, train, evaluate)
    found, expected = (load_file(folder / "models/gmm/model.safetensors") for folder in (together, alone))
    for name, tensor in expected.items():
        if name != "qa_head.bias":  # no loss depends on it, so that AdamW follows its rounding errors
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=5e-4, msg=lambda m, name=name: f"{name}: {m}")
    steps = [list(csv.DictReader((folder / "reports/training.csv").open())) for folder in (together, alone)]
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose([float(x) for x in one.values()], [float(x) for x in other.values()], 1e-3, 1e-3)
    scores = [json.loads((folder / "reports/metrics.json").read_text()) for folder in (together, alone)]
    assert scores[0]["exact_match"] == pytest.approx(scores[1]["exact_match"])
    assert scores[0]["f1"] == pytest.approx(scores[1]["f1"])


@pytest.mark.slow
def test_the_same_answers_however_many_read(together):
    """Batches are the same, so are the bits."""
    answers = {name: (together / "reports" / name).read_bytes() for name in ANSWERS}
    set_processes(together, 1)
    run_in(together, evaluate)
    assert answers == {name: (together / "reports" / name).read_bytes() for name in ANSWERS}


@pytest.mark.slow
def test_one_run_and_each_step_once(together):
    client = MlflowClient(f"sqlite:///{together}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [10]
    assert run.data.params["num_processes"] == "2"
    assert not [path for path in together.rglob("*") if path.name.endswith(".partial")]
    assert not list((together / ".resume").iterdir())


@pytest.mark.slow
def test_killed_processes_go_on_and_leave_the_same_bytes(tmp_path, sample_chunks):
    outputs = []
    settings = {"num_processes": 2, "save_steps": 2, "gradient_checkpointing": True, "scratch_size": SMALL}
    settings |= {"progressive_segments": [1, 2]}  # of one segment no memory learns anything, without reconstruction
    for killed in (False, True):
        folder = workspace(tmp_path / str(killed), sample_chunks, 2)
        write_params(folder, profile=PROFILE | settings, memory_reconstruction_weight=0.0)
        if killed:
            kill_after_a_checkpoint(folder)
            assert not (folder / TRAINED[0]).exists()
        done = run_stage_in(folder, "train", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
        assert done.returncode == 0, done.stderr
        assert ("training goes on from" in done.stderr) == killed
        outputs.append([(folder / name).read_bytes() for name in TRAINED])
        assert not list((folder / ".resume").iterdir())
    assert outputs[0] == outputs[1]


def kill_after_a_checkpoint(folder):
    started = process_of(folder, "train", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    with (folder / "log").open("w") as log, subprocess.Popen(**started, stdout=log, stderr=log) as launcher:
        while not list(folder.glob(".resume/*/step-00000004")):
            assert launcher.poll() is None, (folder / "log").read_text()
            time.sleep(0.01)
        for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
            process.kill()


@pytest.mark.slow
def test_what_all_processes_find_wrong_is_said_once(tmp_path):
    set_processes(tmp_path, 2)
    done = run_stage_in(tmp_path, "train")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("train: data/chunks/manifest.json: cannot be read")
    assert not (tmp_path / "models").exists()

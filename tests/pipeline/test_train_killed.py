"""The train stage, killed by kill -9 at random moments, goes on and leaves the same bytes as one that never was.

KILLS=20 (`make kill-test`) kills it more often than the few times that the ordinary tests do.
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from pipeline import train
from pipeline.experiment import folder_hash
from pipeline.tracking import MLFLOW_EXPERIMENT

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("KILLS", "3"))
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16, "dropout": 0.1, "initializer_range": 0.3}
OUTPUTS = ("models/gmm", "reports/training.csv")
TIMED = {"train/tokens_per_second", "cost/tokens_per_second", "cost/training_seconds", "cost/peak_memory_mib"}


@pytest.fixture(scope="module")
def make_workspace(tmp_path_factory, sample_chunks):
    """A function to a new repository, so to say, of a small experiment with every kind of dropout."""
    template = tmp_path_factory.mktemp("template")
    MlflowClient(f"sqlite:///{template / 'mlflow.db'}").search_experiments()  # making the tables takes a second
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"device": "cpu", "memory_num_tokens": 2, "num_memory_experts": 3, "expert_dropout": 0.2}
    size = {"scratch_size": SMALL, "max_seq_length": 48, "doc_stride": 8, "max_question_length": 16, "batch_size": 6}
    steps = {"max_steps": 24, "save_steps": 3, "gradient_accumulation_steps": 2, "progressive_segments": [1, 3]}
    params["profiles"]["sample"] |= {**size, **steps}
    (template / "data").mkdir()
    (template / "data" / "chunks").symlink_to(sample_chunks)
    with (template / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)

    def make():
        folder = tmp_path_factory.mktemp("repository") / "main"
        shutil.copytree(template, folder, symlinks=True)
        return folder

    return make


@pytest.fixture(scope="module")
def undisturbed(make_workspace):
    """A folder in which training ran to its end, and the seconds it took."""
    folder = make_workspace()
    start = time.perf_counter()
    assert run_stage(folder) == 0
    return folder, time.perf_counter() - start


def run_stage(folder, kill_after=None):
    """The stage in a process of its own (forked, which saves importing torch); its exit status."""
    child = multiprocessing.get_context("fork").Process(target=_stage, args=(folder,))
    child.start()
    child.join(kill_after)
    child.kill()
    child.join()
    return child.exitcode


def _stage(folder):
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(folder)
    os.environ["DVC_ROOT"] = str(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        train.main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def output_hashes(folder):
    return [folder_hash(folder / "models" / "gmm"), (folder / "reports" / "training.csv").read_bytes()]


def tracked(folder):
    """Of every run in MLflow: each metric's steps and values, but those that the clock decides."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(MLFLOW_EXPERIMENT).experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}  # a run that was left behind would not be
    return [
        {n: _points(client.get_metric_history(run.info.run_id, n)) for n in run.data.metrics.keys() - TIMED}
        for run in runs
    ]


def _points(history):
    return [(metric.step, metric.value) for metric in history]


def remove_outputs(folder):
    """As DVC does before it runs a stage."""
    shutil.rmtree(folder / "models", ignore_errors=True)
    shutil.rmtree(folder / "reports", ignore_errors=True)


def kill(folder, moment):
    """Start the stage and kill it at a moment, or earlier where it has ended by then."""
    while (status := run_stage(folder, kill_after=moment)) == 0:
        remove_outputs(folder)
        moment /= 2
    assert status == -signal.SIGKILL, (folder / "log").read_text()
    remove_outputs(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_training_ends_with_the_same_bytes(make_workspace, undisturbed, number):
    straight, seconds = undisturbed
    folder = make_workspace()
    draw = random.Random(number)
    for _ in range(1 + number // 3 % 3):  # up to three in a row
        kill(folder, draw.uniform(0.1, 1.0) * seconds)
    assert run_stage(folder) == 0, (folder / "log").read_text()
    assert output_hashes(folder) == output_hashes(straight)
    assert not list((folder / ".resume").iterdir())
    assert all(run == tracked(straight)[0] for run in tracked(folder))

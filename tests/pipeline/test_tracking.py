"""MLflow on a real sqlite store: one run per experiment, found again by its key; and a store that is not there."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from transformers import TrainerControl, TrainerState

from gmmxlnet.models.checkpoint.manifest import Manifest, listed_files
from gmmxlnet.options import LOAD
from gmmxlnet.utils.files import write_json
from pipeline import store_check, tracking
from pipeline.experiment import Experiment, canonical_parameters, model_hash
from pipeline.params import load_params
from pipeline.tracking import MLflowCallback, comparison_run, experiment_run, find_run, start_run

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = canonical_parameters(load_params(ROOT / "params.yaml")) | {"progressive_segments": [2, 4]}
METRICS = {
    "exact_match": 70.0, "f1": 71.5, "total": 20, "always_no_answer": {"exact_match": 25.0},
    "by_question_type": {"cross": {"exact_match": 60.0, "exact_match_interval": [50, 70.5]}}, "nothing": None,
    "memory_ablation": {
        "normal": {"exact_match": 70.0, "exact_match_interval": None},
        "zeroed": {"by_question_type": {"cross": {"exact_match": 5.0}}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A main repository whose sqlite store has its tables already (making them takes a second)."""
    folder = tmp_path_factory.mktemp("main")
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder


@pytest.fixture
def client(store, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(store))
    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


@pytest.fixture
def experiment(request, tmp_path):
    """An experiment of this test's own, written into a model folder."""
    (tmp_path / "model").mkdir()
    experiment = Experiment(parameters=PARAMETERS, data=request.node.name)
    experiment.write(tmp_path / "model")
    write_json(tmp_path / "model" / "fingerprint.json", {"tensors": {}, "logits": []})
    write_json(tmp_path / "model" / "config.json", {})
    Manifest(version="1.0", config={}, tensors={}, files=listed_files(tmp_path / "model")).write(tmp_path / "model")
    return experiment


def runs(client, experiment):
    named = client.get_experiment_by_name(tracking.MLFLOW_EXPERIMENT)
    return client.search_runs([named.experiment_id], f"tags.experiment_key = '{experiment.key}'")


def test_training_and_later_stages_share_one_run(client, experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-lime")
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / "model" / ".env").write_text("not to be copied")
    (tmp_path / "model" / "link").symlink_to("/etc/hostname")
    with start_run(experiment, "code") as run:
        run.log_metrics({"loss": 2.0, "note": "text", "broken": float("nan")}, step=1)
        run.log_metrics({"loss": 1.0}, step=2)
        run.log_model(tmp_path / "model", "gmm-k4-write")
    with experiment_run(tmp_path / "model") as run:
        run.log_results(tmp_path / "metrics.json", experiment)
    (found,) = runs(client, experiment)
    assert found.info.run_name == "gmm-k4-write, progressive segments [2, 4]"
    assert found.info.status == "FINISHED"
    assert found.data.params["progressive_segments"] == "[2, 4]"
    assert found.data.params["bptt_segments"] == "null"
    assert found.data.metrics["loss"] == 1.0
    assert found.data.metrics["dev/f1"] == found.data.metrics["F1"] == 71.5
    assert sorted(found.data.metrics)[:2] == ["EM", "F1"]  # as MLflow's pages sort them
    assert found.data.metrics["dev/by_question_type/cross/exact_match_interval/high"] == 70.5
    note = found.data.tags["mlflow.note.content"]
    assert note.startswith("**gmm-k4-write**: 4 memory experts of 4 slots, write-based routing")
    assert "* `cross`: exact match 60.0% (50.0 to 70.5), memory zeroed 5.0%" in note
    (output,) = found.outputs.model_outputs
    assert client.get_logged_model(output.model_id).name == "gmm-k4-write"
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    assert {"profile", "memory_type", "dvc_exp_name", "mlflow.source.git.commit"} <= set(found.data.tags)
    files = [file.path for file in client.list_artifacts(found.info.run_id, "model")]
    named = ["model/checkpoint.json", "model/config.json", "model/experiment.json", "model/fingerprint.json"]
    assert sorted(files) == named
    assert [file.path for file in client.list_artifacts(found.info.run_id, "reports")] == ["reports/metrics.json"]
    assert capsys.readouterr().err == ""


def test_a_store_of_an_earlier_version_opens_on_the_right_page(client, experiment):
    with start_run(experiment, "code"):
        pass
    named = client.get_experiment_by_name(tracking.MLFLOW_EXPERIMENT).experiment_id
    client.delete_experiment_tag(named, "mlflow.experimentKind")
    client.set_experiment_tag(named, "mlflow.experiment.primaryMetric.name", "F1")  # somebody's choice
    with start_run(experiment, "other code"):
        pass
    tags = client.get_experiment(named).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.experiment.primaryMetric.name"] == "F1"


def test_artifacts_lie_beside_the_store(client, experiment, tmp_path, store):
    with experiment_run(tmp_path / "model") as run:
        run.log_file(tmp_path / "model" / "experiment.json", "reports")
    assert list((store / "mlartifacts").rglob(f"{run.run_id}/artifacts/reports/experiment.json"))


def test_a_stage_whose_training_never_ran_here_makes_the_run(client, experiment, tmp_path):
    for _ in range(2):
        with experiment_run(tmp_path / "model") as run:
            run.log_metrics({"f1": 50.0})
    assert len(runs(client, experiment)) == 1


def test_a_finished_training_that_runs_again_is_a_new_run(client, experiment, tmp_path):
    for _ in range(2):
        with start_run(experiment, "code") as newest:
            newest.log_model(tmp_path / "model", "gmm")
    assert len(runs(client, experiment)) == 2
    with experiment_run(tmp_path / "model") as found:
        assert found.run_id == newest.run_id


def test_other_weights_of_the_same_parameters_are_another_run(client, experiment, tmp_path):
    """Other code trained them, then DVC restored the first from its cache: results must not be mixed."""
    with start_run(experiment, "code") as first:
        first.log_model(tmp_path / "model", "gmm")
    weights = (tmp_path / "model" / "fingerprint.json").read_bytes()
    (tmp_path / "model" / "fingerprint.json").write_text("{}")
    with start_run(experiment, "code") as second:
        second.log_model(tmp_path / "model", "gmm")
    assert find_run(tmp_path / "model").run_id == second.run_id
    (tmp_path / "model" / "fingerprint.json").write_bytes(weights)
    assert find_run(tmp_path / "model").run_id == first.run_id
    assert find_run(tmp_path / "model").read().tags["model_sha256"] == model_hash(tmp_path / "model")


def test_reading_a_run_leaves_its_end_alone(client, experiment, tmp_path):
    with start_run(experiment, "code") as run:
        run.log_model(tmp_path / "model", "gmm")
    ended = client.get_run(run.run_id).info.end_time
    find_run(tmp_path / "model").set_tags({"comparison": "sample"})
    assert client.get_run(run.run_id).info.end_time == ended


def test_a_comparison_has_one_run_however_often_it_is_made(client):
    one, again, other = comparison_run("long"), comparison_run("long"), comparison_run("short")
    assert one.run_id == again.run_id != other.run_id
    assert client.get_run(one.run_id).info.run_name == "comparison-long"


def test_the_data_is_named_with_its_hash_and_size(client, experiment, dev_documents):
    with start_run(experiment, "code") as run:
        run.log_dataset(experiment, dev_documents)
    (named,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert (named.dataset.name, named.dataset.digest) == ("sample", experiment.data[:8])
    assert json.loads(named.dataset.profile)["documents"] == len(dev_documents)


def test_data_that_are_made_are_known_by_their_settings(client, experiment, dev_documents):
    settings = dict.fromkeys(LOAD, 4)
    parameters = {name: value for name, value in experiment.parameters.items() if name != "dataset"}
    parameters |= {f"dataset.load.{name}": value for name, value in settings.items()}
    with start_run(replace(experiment, parameters=parameters), "code") as run:
        run.log_dataset(replace(experiment, parameters=parameters), dev_documents)
    (named,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert (named.dataset.name, named.dataset.source_type) == ("load world, 4 towns, 4 updates, lag 4", "code")
    assert json.loads(named.dataset.source) == {"tags": settings}


def test_a_training_that_broke_off_goes_on_in_its_run(client, experiment):
    with pytest.raises(RuntimeError), start_run(experiment, "code") as broken:
        raise RuntimeError("out of memory")
    assert client.get_run(broken.run_id).info.status == "FAILED"
    with pytest.raises(KeyboardInterrupt), start_run(experiment, "code") as stopped:
        raise KeyboardInterrupt
    assert client.get_run(stopped.run_id).info.status == "KILLED"
    with start_run(experiment, "code") as run:
        assert run.run_id == stopped.run_id == broken.run_id


def test_another_code_or_machine_begins_its_own_run(client, experiment):
    with pytest.raises(RuntimeError), start_run(experiment, "code"):
        raise RuntimeError("killed")
    with start_run(experiment, "other code"):
        pass
    assert len(runs(client, experiment)) == 2


def test_a_training_that_goes_on_logs_every_step_once(client, experiment):
    """It was killed before step 20 had been sent whole and step 30 at all; its last checkpoint is that of step 34."""
    control = TrainerControl()
    history = [{"loss": 3.0, "rate": 0.1, "step": 10}, {"loss": 2.0, "rate": 0.2, "step": 20}]
    killed = start_run(experiment, "code")
    run = killed.__enter__()  # and no more
    run.log_metrics({"train/loss": 3.0, "train/rate": 0.1}, step=10)
    run.log_metrics({"train/loss": 2.0}, step=20)
    run.flush()
    first = run.run_id
    history.append({"loss": 1.0, "rate": 0.3, "step": 30})
    with start_run(experiment, "code") as run:
        assert run.run_id == first
        callback = MLflowCallback(run)
        callback.on_train_begin(None, TrainerState(global_step=34, log_history=history), control)
        callback.on_log(None, TrainerState(global_step=40), control, logs={"loss": 0.5, "rate": 0.4})
    logged = {name: client.get_metric_history(run.run_id, f"train/{name}") for name in ("loss", "rate")}
    assert [(m.step, m.value) for m in logged["loss"]] == [(10, 3.0), (20, 2.0), (30, 1.0), (40, 0.5)]
    assert [(m.step, m.value) for m in logged["rate"]] == [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)]
    assert "train/step" not in client.get_run(run.run_id).data.metrics


def test_an_exported_run_id_is_not_followed(client, experiment, monkeypatch):
    other = Experiment(parameters=PARAMETERS, data="the other one")
    with start_run(other, "code") as parent:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", parent.run_id)
    with start_run(experiment, "code") as run:
        run.log_metrics({"loss": 1.0})
    assert run.run_id != parent.run_id
    assert client.get_run(parent.run_id).data.metrics == {}


def test_the_trainers_numbers_arrive_with_their_steps(client, experiment, tmp_path):
    state, control = TrainerState(global_step=7), TrainerControl()
    with start_run(experiment, "code") as run:
        MLflowCallback(run).on_log(None, state, control, logs={"loss": 0.5, "epoch": 1.0})
        MLflowCallback(run).on_log(None, state, control, logs={"train_loss": 0.6, "epoch": 1.0, "train_runtime": 3.0})
        state.is_world_process_zero = False
        MLflowCallback(run).on_log(None, state, control, logs={"loss": 9.0})
    for name, value in {"train/loss": 0.5, "train/epoch": 1.0}.items():
        assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, name)] == [(7, value)]
    assert set(client.get_run(run.run_id).data.metrics) == {"loss", "train/loss", "train/epoch"}


def test_many_metrics_go_in_batches(client, experiment):
    with start_run(experiment, "code") as run:
        run.log_metrics({f"weight/{i} %": i for i in range(1200)})
    assert len(client.get_run(run.run_id).data.metrics) == 1200


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


BAD_STORES = [
    *("nowhere://at-all", "://", ":", "http://", "https:///", "http://localhost:port", "http://localhost:99999"),
    *("http://[::1", "http://127.0.0.1:{port}", "https://user:word@127.0.0.1:{port}/x?y#z", "http://a b:{port}"),
    *("http://256.256.256.256:{port}", "ftp://127.0.0.1:{port}", "s3://bucket/key", "gs://bucket", "uc:x", "arn:aws:x"),
    *(
        "databricks",
        "databricks://no-such-profile",
        "databricks-uc",
        "file:///{folder}/runs",
        "{folder}/runs",
        "mlruns",
    ),
    *("sqlite:///{folder}/absent/mlflow.db", "sqlite:///{folder}/text.db", "sqlite:///{folder}/folder.db"),
    *(
        "sqlite:///{folder}/cut.db",
        "sqlite:///{folder}/newer.db",
        "sqlite:////proc/mlflow.db",
    ),
    *("sqlite:///{folder}/" + "x" * 300, "sqlite:///{folder}/pipe.db", "sqlite+nothing:///{folder}/x.db"),
    *("postgresql://user:word@127.0.0.1:{port}/runs", "postgresql://127.0.0.1/runs", "mysql://127.0.0.1:{port}/runs"),
    *(
        "mysql+pymysql://user@/runs",
        "mssql+pyodbc://127.0.0.1/runs",
        "oracle://127.0.0.1/runs",
        "postgresql+nothing://x",
    ),
    *("\u202ehttp://x", "é", "%zz", "http://%zz", "sqlite:///file::memory:?cache=shared&uri=maybe"),
]


def make_bad_files(folder):
    (folder / "text.db").write_bytes(b"this is not sqlite, whatever its name is" * 100)
    (folder / "folder.db").mkdir()
    os.mkfifo(folder / "pipe.db")
    with sqlite3.connect(folder / "newer.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('of the future')")
    (folder / "cut.db").write_bytes((folder / "newer.db").read_bytes()[:5000])


@pytest.mark.parametrize("uri", BAD_STORES)
def test_with_any_bad_store_a_stage_warns_once_within_seconds_and_goes_on(
    uri, experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    make_bad_files(tmp_path)
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", uri.replace("{folder}", str(tmp_path)).replace("{port}", str(closed_port()))
    )
    begin = time.perf_counter()
    with experiment_run(tmp_path / "model") as run:
        run.log_metrics({"loss": 1.0})
        run.flush()
        run.log_folder(tmp_path / "model", "model")
    assert time.perf_counter() - begin < 30  # MLflow tries for 100; a busy machine takes a few
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: MLflow failed and this run goes on without it: ")


def test_a_store_that_another_program_keeps_locked_is_left_after_seconds(
    experiment, tmp_path, monkeypatch, capsys, store
):
    shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(store_check, "LOCKED_SECONDS", 0.5)
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        begin = time.perf_counter()
        with experiment_run(tmp_path / "model"):
            pass
        assert time.perf_counter() - begin < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("mlflow.db: database is locked; make track sends what is missing")


def test_a_stage_that_is_stuck_in_opening_the_store_holds_no_other_up(
    experiment, tmp_path, monkeypatch, capsys, client, store
):
    monkeypatch.setattr(store_check, "OPENING_SECONDS", 0.5)
    with store_check.locked(store), experiment_run(tmp_path / "model") as run:
        assert run.read() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "another process opens the store there and does not end" in line


def test_a_full_disk_ends_the_records_not_the_stage(experiment, tmp_path, monkeypatch, capsys, client):
    """SQLite says that the disk is full where a file may not grow."""
    with start_run(experiment, "code") as run:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        try:
            run.log_metrics({f"metric {i}": 1.0 for i in range(400)})
            run.flush()
            run.log_file(tmp_path / "model" / "experiment.json", "reports")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: MLflow failed and this run goes on without it: ")
    assert second == "MLflow works again: what was missed of this run is logged"


def test_a_store_that_fails_on_the_way_is_left_alone(client, experiment, monkeypatch, capsys):
    with start_run(experiment, "code") as run:
        client.delete_run(run.run_id)
        for step in range(3):
            run.log_metrics({"loss": 1.0}, step)
            run.flush()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_processes_that_use_a_new_store_at_once_do_not_race(tmp_path, experiment, client, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_use_store, args=(tmp_path / "model",)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert len(runs(MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}"), experiment)) == 1


def _use_store(model_folder):
    with experiment_run(model_folder) as run:
        sys.exit(0 if run.run_id else 1)

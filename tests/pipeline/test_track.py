"""`make track`: what MLflow missed while it was away is sent later, once; real stores on sqlite that come and go."""

import shutil

import pytest
from mlflow import MlflowClient

from gmmxlnet.errors import CheckpointError, GMMXLNetError
from gmmxlnet.utils.files import write_json
from pipeline import mlflow_run, track
from pipeline.experiment import Experiment
from pipeline.tracking import MLFLOW_EXPERIMENT, experiment_run, start_run
from pipeline.unsent import FOLDER, Unsent
from tests.pipeline.test_tracking import METRICS, PARAMETERS

AWAY = "http://127.0.0.1:9"  # the discard port: nothing listens there
CSV = "step,loss,learning_rate\r\n" + "".join(f"{step},{step / 4},0.1\r\n" for step in range(1, 26))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def client(empty_store, tmp_path, monkeypatch):
    """The workspace of a finished experiment, beside a store; DVC has no lock there, as if stages were run by hand."""
    for name in ("MLFLOW_RUN_ID", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow_run, "SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr(mlflow_run, "PAUSE_FACTOR", 0.0)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def experiment(client, sample_checkpoint, tmp_path):
    shutil.copytree(sample_checkpoint, tmp_path / "models" / "gmm")
    experiment = Experiment(parameters=PARAMETERS, data="ab")
    experiment.write(tmp_path / "models" / "gmm")
    write_json(tmp_path / "models" / "gmm" / "fingerprint.json", {"tensors": {}, "logits": []})
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "training.csv").write_text(CSV)
    write_json(tmp_path / "reports" / "metrics.json", METRICS)
    return experiment


def log_a_training(experiment):
    with start_run(experiment, "code") as run:
        run.log_metrics({"train/loss": 1.375, "train/grad_norm": 3.0}, 10)
        run.flush()
        run.log_metrics({"train/loss": 3.875, "train/grad_norm": 2.0}, 20)
        run.log_metrics({"cost/training_seconds": 7.0})
        run.log_model("models/gmm", "gmm")


def the_run(client, experiment):
    found = client.get_experiment_by_name(MLFLOW_EXPERIMENT)
    (run,) = client.search_runs([found.experiment_id], f"tags.experiment_key = '{experiment.key}'")
    return run


def history(client, run, name):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def assert_complete(client, experiment):
    run = the_run(client, experiment)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == str(PARAMETERS["seed"])
    assert history(client, run, "train/loss") == history(client, run, "loss") == [(10, 1.375), (20, 3.875)]
    assert history(client, run, "dev/f1") == history(client, run, "F1") == [(0, 71.5)]
    assert "exact match 60.0%" in run.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(run.info.run_id, "model")}
    assert {"model/config.json", "model/model.safetensors"} <= files
    assert len(run.outputs.model_outputs) == 1
    return run


def test_what_was_kept_and_what_the_files_hold_is_sent_once(client, experiment, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    log_a_training(experiment)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: MLflow failed and this run goes on without it: ")
    assert line.endswith("; make track sends what is missing")
    with pytest.raises(GMMXLNetError, match="nothing is lost: run make track again"):
        track.main()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for _ in range(3):
        track.main()
    run = assert_complete(client, experiment)
    assert history(client, run, "train/grad_norm") == [(10, 3.0), (20, 2.0)]  # no file has these
    assert history(client, run, "cost/training_seconds") == [(0, 7.0)]
    assert not list(Unsent.all())


def test_an_experiment_that_was_never_logged_is_sent_from_its_files(client, experiment):
    for _ in range(2):
        track.main()
    assert_complete(client, experiment)


def test_later_stages_and_track_complete_the_run_that_the_training_began(client, experiment, monkeypatch, capsys):
    """The store goes away in the middle of the training and is back for the next stage."""
    with start_run(experiment, "code") as run:
        run.log_metrics({"train/loss": 1.375}, 10)
        run.flush()
        began = run.run_id
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", _fail)
            patch.setattr(MlflowClient, "set_terminated", _fail)
            run.log_metrics({"train/loss": 3.875}, 20)
            run.log_model("models/gmm", "gmm")
            run.close("FINISHED")
    assert "connection reset" in capsys.readouterr().err
    with experiment_run("models/gmm") as run:
        run.log_results("reports/metrics.json", experiment)
        assert run.run_id == began
    track.main()
    assert assert_complete(client, experiment).info.run_id == began


def _fail(*arguments, **words):
    raise ConnectionError("connection reset")


def test_a_store_that_comes_back_gets_everything_and_it_is_said(client, experiment, monkeypatch, capsys):
    with start_run(experiment, "code") as run:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", _fail)
            run.log_metrics({"train/loss": 1.375}, 10)
            run.flush()
        run.log_metrics({"train/loss": 3.875}, 20)
        run.log_model("models/gmm", "gmm")
    first, second = capsys.readouterr().err.splitlines()
    assert "connection reset" in first
    assert second == "MLflow works again: what was missed of this run is logged"
    track.main()
    assert_complete(client, experiment)


def test_a_file_that_is_refused_keeps_no_number_back(client, experiment, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", _fail)
        log_a_training(experiment)
    assert len(capsys.readouterr().err.splitlines()) == 1
    run = the_run(client, experiment)
    assert run.info.status == "FINISHED"
    assert history(client, run, "train/loss") == [(10, 1.375), (20, 3.875)]
    track.main()
    assert_complete(client, experiment)


def test_memory_is_bounded_while_a_store_is_away(client, experiment, monkeypatch, capsys):
    monkeypatch.setattr(mlflow_run, "MOST_WAITING", 10)
    monkeypatch.setattr(mlflow_run, "METRICS_A_BATCH", 4)
    monkeypatch.setattr(MlflowClient, "log_batch", _fail)
    with start_run(experiment, "code") as run:
        for step in range(1, 100):
            run.log_metrics({"train/loss": 1.0}, step)
        assert len(run._waiting) <= 10
        assert not run.is_complete


def test_kept_numbers_that_are_damaged_are_refused_by_name(client, experiment, tmp_path):
    file = tmp_path / FOLDER / "x.json"
    file.parent.mkdir()
    file.write_text('{"metrics": 3}')
    with pytest.raises(CheckpointError, match=r"x\.json: cannot be read .* delete it"):
        track.main()

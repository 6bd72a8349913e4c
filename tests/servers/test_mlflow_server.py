"""MLflow on PostgreSQL with its artifacts in an S3 store: real servers that are killed, restarted and set up wrong.

Whatever happens to them: the training ends well, says so in one line, and `make track` sends what is missing, once.
"""

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_servers import MLflowServer, Postgres, what_is_missing
from ruamel.yaml import YAML
from storage_servers import S3Server
from waiting import free_ports, wait_until

from gmmxlnet.models.checkpoint.manifest import Manifest, listed_files
from gmmxlnet.utils.files import write_json
from pipeline import mlflow_run, track, train
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.tracking import MLFLOW_EXPERIMENT, MLflowCallback, start_run
from pipeline.unsent import Unsent

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = canonical_parameters(load_params(ROOT / "params.yaml"))
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16, "dropout": 0.1, "initializer_range": 0.3}
STEPS = 60
FAILED = "warning: MLflow failed and this run goes on without it: "
REMEDY = "; make track sends what is missing"
OLD_SCHEMA = "cc1f77228345"  # of MLflow 1.20 (2021): param_value_length_500

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing())),
]


@pytest.fixture(scope="module")
def place():
    """A folder that another user's server can reach (pytest's own are closed)."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-servers-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def postgres(place):
    (place / "postgres").mkdir()
    server = Postgres(place / "postgres")
    server.start()
    server.run("CREATE DATABASE runs")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with S3Server(tmp_path_factory.mktemp("s3")) as storage:
        yield storage


@pytest.fixture(scope="module")
def server(tmp_path_factory, postgres, storage):
    """MLflow's server; every test leaves all three running."""
    found = MLflowServer(tmp_path_factory.mktemp("mlflow"), postgres.uri("runs"), storage)
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def direct(postgres):
    """The address of a database that stages use without a server between them."""
    postgres.run("CREATE DATABASE direct")
    MlflowClient(postgres.uri("direct")).search_experiments()  # makes the tables
    return postgres.uri("direct")


@pytest.fixture
def client(server, monkeypatch):
    for name in ("MLFLOW_RUN_ID", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(mlflow_run, "SHORTEST_PAUSE", 0.2)
    return MlflowClient(server.uri)


# --- trainings by the real stage, each in a process of its own


@pytest.fixture(scope="module")
def make_workspace(tmp_path_factory, sample_chunks):
    """A function to a folder in which the train stage runs with a seed."""

    def make(seed):
        folder = tmp_path_factory.mktemp("training")
        yaml = YAML()
        params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params |= {"device": "cpu", "memory_num_tokens": 2, "num_memory_experts": 3, "seed": seed}
        size = {"scratch_size": SMALL, "max_seq_length": 48, "doc_stride": 8, "max_question_length": 16}
        params["profiles"]["sample"] |= size | {"batch_size": 6, "max_steps": STEPS, "save_steps": 1000}
        (folder / "data").mkdir()
        (folder / "data" / "chunks").symlink_to(sample_chunks)
        with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
            yaml.dump(params, stream)
        return folder

    return make


def start_training(folder, pause=1.0):
    """Train, with a pause in seconds before each of six logs."""
    process = multiprocessing.get_context("fork").Process(target=_in_folder, args=(folder, train.main, pause))
    process.start()
    return process


def _in_folder(folder, main, pause=0.0):
    sys.stdout = sys.stderr = (folder / "log").open("a", buffering=1)  # pytest's own until here
    os.chdir(folder)
    os.environ["DVC_ROOT"] = str(folder)
    mlflow_run.METRICS_A_BATCH = 8  # so that a training of a few seconds talks to the server all the time
    on_log = MLflowCallback.on_log

    def slowly(*arguments, **words):
        time.sleep(pause)
        on_log(*arguments, **words)

    MLflowCallback.on_log = slowly
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def warnings_of(folder):
    return [line for line in (folder / "log").read_text().splitlines() if "MLflow" in line]


def send_what_is_missing(folders):
    for folder in folders:
        process = multiprocessing.get_context("fork").Process(target=_in_folder, args=(folder, track.main))
        process.start()
        process.join()
        assert process.exitcode == 0, (folder / "log").read_text()


def assert_logged_once(client, folders):
    """Each training has one run, finished, with every number once and the files of its model."""
    mlflow_experiment = client.get_experiment_by_name(MLFLOW_EXPERIMENT).experiment_id
    for folder in folders:
        key = Experiment.read(folder / "models" / "gmm").key
        (run,) = client.search_runs([mlflow_experiment], f"tags.experiment_key = '{key}'")
        assert run.info.status == "FINISHED"
        assert run.data.params["seed"] == str(load_params(folder / "params.yaml").seed)
        assert len(run.data.params) == len(Experiment.read(folder / "models" / "gmm").parameters)
        assert {"cost/training_seconds", "train/span", "train/grad_norm", "loss"} <= set(run.data.metrics)
        for name in run.data.metrics:
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
            assert sorted(steps) == ([0] if name.startswith("cost/") else list(range(10, STEPS + 1, 10))), name
        stored = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id, "model")}
        weights = folder / "models" / "gmm" / "model.safetensors"
        assert stored["model/model.safetensors"] == weights.stat().st_size
        assert [file.path for file in client.list_artifacts(run.info.run_id, "reports")] == ["reports/training.csv"]
        assert len(run.outputs.model_outputs) == len(run.inputs.dataset_inputs) == 1
        assert not list((folder / ".mlflow-unsent").glob("*"))


def wait_for_steps(client, since):
    """Until some training has logged a step."""

    def has_logged():
        with contextlib.suppress(Exception):
            found = client.get_experiment_by_name(MLFLOW_EXPERIMENT)
            runs = client.search_runs([found.experiment_id], f"attributes.start_time > {since}") if found else []
            return any("train/loss" in run.data.metrics for run in runs)

    wait_until(has_logged, 300, 0.1)


def test_eight_trainings_at_once(client, make_workspace):
    folders = [make_workspace(seed) for seed in range(100, 108)]
    started = [start_training(folder) for folder in folders]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 8
    assert [warnings_of(folder) for folder in folders] == [[]] * 8
    assert_logged_once(client, folders)
    send_what_is_missing(folders[:1])  # nothing
    assert_logged_once(client, folders)


@pytest.mark.parametrize(
    ("away", "seeds"),
    [
        ("server", range(200, 208)),
        ("database for a minute", range(300, 303)),
        ("database until the end", range(400, 403)),
        ("bucket", range(500, 503)),
    ],
)
def test_what_goes_away_while_trainings_log(away, seeds, client, make_workspace, server, postgres, storage):
    folders, since = [make_workspace(seed) for seed in seeds], int(time.time() * 1000)
    minute = away == "database for a minute"
    comes_back = minute or away == "server"  # while they log
    started = [start_training(folder, 15.0 if minute else 1.0) for folder in folders]
    wait_for_steps(client, since)
    gone = {"server": server, "bucket": storage}.get(away, postgres)
    gone.stop()
    if comes_back:
        time.sleep(60 if minute else 3)
        gone.start()
    for process in started:
        process.join()
    if not comes_back:
        gone.start()
    assert {process.exitcode for process in started} == {0}
    said = [warnings_of(folder) for folder in folders]
    assert any(said)
    for lines in said:
        assert [line.startswith(FAILED) for line in lines[:1]] == [True] * len(lines[:1])
        assert lines[1:] in ([], ["MLflow works again: what was missed of this run is logged"])
    print(*{line for lines in said for line in lines}, sep="\n")
    for _ in range(2):
        send_what_is_missing(folders)
    assert_logged_once(client, folders)


# --- one fault at a time


@pytest.fixture
def experiment(request, tmp_path, monkeypatch):
    """An experiment of this test's own, with a model in the folder in which a stage would run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    model = tmp_path / "models" / "gmm"
    model.mkdir(parents=True)
    experiment = Experiment(parameters=PARAMETERS, data=request.node.name)
    experiment.write(model)
    write_json(model / "fingerprint.json", {"tensors": {}, "logits": [request.node.name]})
    write_json(model / "config.json", {})
    Manifest(version="1.0", config={}, tensors={}, files=listed_files(model)).write(model)
    return experiment


def log_a_training(experiment):
    """As the train stage does, without training."""
    with start_run(experiment, "code") as run:
        for step in range(1, 4):
            run.log_metrics({"train/loss": 5.0 - step}, step)
            run.flush()
        run.log_metrics({"cost/training_seconds": 7.0})
        run.log_model("models/gmm", "gmm")


def send_and_check(client, experiment, capsys):
    """Sent twice, it is logged once."""
    for _ in range(2):
        track.main()
    assert "1 runs are complete" in capsys.readouterr().out.splitlines()[-1]
    found = client.get_experiment_by_name(MLFLOW_EXPERIMENT)
    (run,) = client.search_runs([found.experiment_id], f"tags.experiment_key = '{experiment.key}'")
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3]
    assert [m.value for m in client.get_metric_history(run.info.run_id, "cost/training_seconds")] == [7.0]
    assert "model/config.json" in [file.path for file in client.list_artifacts(run.info.run_id, "model")]
    assert len(run.outputs.model_outputs) == 1
    assert not list(Unsent.all())


def the_one_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    print(line)
    assert line.startswith(FAILED)
    assert line.endswith(REMEDY)
    assert "secret-word" not in line
    return line.removeprefix(FAILED).removesuffix(REMEDY)


def closed_address(postgres):
    return f"http://127.0.0.1:{free_ports(1)[0]}"


DATABASE_FAULTS = {
    "wrong password": (lambda p: p.uri("direct", password="wrong-secret-word"), "password authentication failed"),
    "wrong user": (lambda p: p.uri("direct", user="nobody"), "password authentication failed"),
    "no such database": (lambda p: p.uri("absent"), 'database "absent" does not exist'),
    "no rights": (lambda p: p.uri("direct", user="guest", password="guest-secret-word"), "permission denied"),
    "no server": (closed_address, "Connection refused"),
    "no driver": (lambda p: p.uri("direct").replace("postgresql", "postgresql+absent"), "absent"),
    "not MLflow": (lambda p: f"http://127.0.0.1:{p.port}", ""),
}


@pytest.mark.parametrize("fault", DATABASE_FAULTS)
def test_a_database_that_refuses(fault, direct, experiment, postgres, monkeypatch, capsys):
    monkeypatch.setattr(mlflow_run, "SHORTEST_PAUSE", 0.2)
    if fault == "no rights":
        postgres.run("DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN PASSWORD 'guest-secret-word'")
    address, says = DATABASE_FAULTS[fault]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(postgres))
    log_a_training(experiment)
    assert says in the_one_line(capsys)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", direct)
    send_and_check(MlflowClient(direct), experiment, capsys)


@pytest.mark.parametrize("fault", ["wrong key", "no bucket", "store away"])
def test_files_that_the_store_refuses_keep_no_number_back(fault, client, experiment, storage, server, capsys):
    server.stop()
    if fault == "store away":
        storage.stop()
    if fault == "no bucket":
        server.start(bucket="absent")
    else:
        server.start(**({"AWS_SECRET_ACCESS_KEY": "wrong-secret-word"} if fault == "wrong key" else {}))
    with contextlib.suppress(Exception):
        client.search_experiments()  # this process may keep a connection to the server that was stopped
    try:
        log_a_training(experiment)
        reason = the_one_line(capsys)
    finally:
        if fault == "store away":
            storage.start()
        server.stop()
        server.start()
    assert "mlflow-artifacts" in reason
    found = client.get_experiment_by_name(MLFLOW_EXPERIMENT)
    (run,) = client.search_runs([found.experiment_id], f"tags.experiment_key = '{experiment.key}'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/loss"] == 2.0
    send_and_check(client, experiment, capsys)


def test_a_schema_of_an_older_mlflow(experiment, postgres, monkeypatch, capsys):
    """The tables as they were years ago, when there were fewer: MLflow adds the new ones itself."""
    postgres.run("CREATE DATABASE old")
    uri = postgres.uri("old")
    make_old_tables(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    log_a_training(experiment)
    assert capsys.readouterr().err == ""
    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", uri], check=True, capture_output=True)
    send_and_check(MlflowClient(uri), experiment, capsys)


def test_a_schema_that_mlflow_refuses(experiment, postgres, monkeypatch, capsys):
    """As a newer MLflow leaves it."""
    postgres.run("CREATE DATABASE newer")
    uri = postgres.uri("newer")
    make = f"from mlflow import MlflowClient; MlflowClient({uri!r}).search_experiments()"
    subprocess.run([sys.executable, "-c", make], check=True, capture_output=True)
    known = set_schema(uri, "ffffffffffff")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    log_a_training(experiment)
    assert "schema" in the_one_line(capsys)
    assert set_schema(uri, known) == "ffffffffffff"
    send_and_check(MlflowClient(uri), experiment, capsys)


def set_schema(uri, version):
    """Returns what it was."""
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        (before,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = %s", [version])
    return before


def make_old_tables(uri):
    import sqlalchemy
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config = _get_alembic_config(uri)
        config.attributes["connection"] = connection
        command.upgrade(config, OLD_SCHEMA)
    engine.dispose()


def test_the_database_comes_back_under_a_client_of_its_own(direct, experiment, postgres, monkeypatch, capsys):
    """Without a server between them: the connections of the pool are dead after a restart."""
    monkeypatch.setattr(mlflow_run, "SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr(mlflow_run, "PAUSE_FACTOR", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", direct)
    with start_run(experiment, "code") as run:
        run.log_metrics({"train/loss": 4.0}, 1)
        run.flush()
        postgres.stop()
        run.log_metrics({"train/loss": 3.0}, 2)
        run.flush()
        postgres.start()
        run.log_metrics({"train/loss": 2.0}, 3)
        run.log_metrics({"cost/training_seconds": 7.0})
        run.log_model("models/gmm", "gmm")
    first, second = capsys.readouterr().err.splitlines()
    print(first)
    assert first.startswith(FAILED)
    assert second == "MLflow works again: what was missed of this run is logged"
    send_and_check(MlflowClient(direct), experiment, capsys)


def test_an_answer_that_is_lost_makes_no_second_run(client, experiment, server, monkeypatch, capsys):
    """The server dies after it has made the run and before it says so."""
    create = MlflowClient.create_run

    def create_and_die(self, *arguments, **words):
        create(self, *arguments, **words)
        server.stop()
        monkeypatch.undo()
        raise ConnectionError("Remote end closed connection without response")

    monkeypatch.setattr(MlflowClient, "create_run", create_and_die)
    uri, folder = client.tracking_uri, os.getcwd()
    with start_run(experiment, "code") as run:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("DVC_ROOT", folder)
        monkeypatch.chdir(folder)
        server.start()
        for step in range(1, 4):
            run.log_metrics({"train/loss": 5.0 - step}, step)
        run.log_metrics({"cost/training_seconds": 7.0})
        run.log_model("models/gmm", "gmm")
    assert capsys.readouterr().err.splitlines()[0].startswith(f"{FAILED}Remote end closed")
    send_and_check(client, experiment, capsys)

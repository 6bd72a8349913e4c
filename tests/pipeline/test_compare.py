"""`make compare` in a small repository of its own: queue, failure, restart, and a store that has been lost."""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from gmmxlnet.models import GMMXLNetForQA

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16}
FEW = {"max_train_documents": 40, "max_eval_documents": 6, "max_steps": 2, "calibration_fraction": 0.2}
BREAK = """
    import os
    from pathlib import Path
    if params.memory_type == "token" and not Path(os.environ["DVC_ROOT"], "room").exists():
        raise RuntimeError("no room left on the disk")
"""
pytestmark = pytest.mark.slow


def git(folder, *words):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The files of this repository with a small model, in which `token` fails until a file named `room` is there."""
    folder = tmp_path_factory.mktemp("main")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    params = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["profiles"]["sample"] |= FEW
    params["profiles"]["sample"]["scratch_size"] |= SMALL
    yaml.dump(params, folder / "params.yaml")
    train = (folder / "pipeline" / "train.py").read_text(encoding="utf-8")
    broken = train.replace("    params = load_params()\n", f"    params = load_params(){BREAK}", 1)
    assert broken != train
    (folder / "pipeline" / "train.py").write_text(broken, encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


def compare(folder, *options):
    """Run the command as make does; returns status and all that it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "GIT_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "OMP_NUM_THREADS": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "Test", f"GIT_{who}_EMAIL": "test@example.org"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "pipeline.compare", "--variants", "none", "token", *options]
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout


def table(folder):
    with (folder / "reports" / "comparison.csv").open(newline="", encoding="utf-8") as stream:
        return {row["variant"]: row for row in csv.DictReader(stream)}


def copy_of_store(folder):
    """MLflow keeps a database open for good, also one that is no longer there: read a copy."""
    copy = tempfile.mkdtemp(dir=folder.parent) + "/mlflow.db"
    shutil.copy(folder / "mlflow.db", copy)
    return f"sqlite:///{copy}"


def runs(folder):
    client = MlflowClient(copy_of_store(folder))
    named = client.get_experiment_by_name("gmm-xlnet")
    return {run.info.run_name: run for run in client.search_runs([named.experiment_id])}


@pytest.fixture(scope="module")
def failed(repository):
    return compare(repository, "--jobs", "2"), table(repository), runs(repository)


@pytest.fixture(scope="module")
def mended(repository, failed):
    (repository / "room").touch()
    return compare(repository), table(repository), runs(repository)


def test_a_variant_that_fails_is_named_and_the_others_reported(failed):
    (status, printed), rows, _ = failed
    assert status == 1
    assert "compare: no result of token-s13 (failed: RuntimeError: no room left on the disk)" in printed
    assert list(rows) == ["none"]
    assert float(rows["none"]["tokens_per_second"]) > 0
    assert float(rows["none"]["peak_memory_mib"]) > 100
    assert rows["none"]["threads"] == "1"


def test_run_again_it_trains_only_what_is_missing(mended, repository):
    (status, printed), rows, found = mended
    assert status == 0, printed
    assert "compare: 1 of 2 are done, 1 to run" in printed
    assert list(rows) == ["none", "token"]
    assert set(found) == {"none", "token", "comparison-sample"}
    parents = {found[name].data.tags["mlflow.parentRunId"] for name in ("none", "token")}
    assert parents == {found["comparison-sample"].info.run_id}
    assert (repository / "reports" / "comparison.png").stat().st_size > 10_000


def test_without_the_store_rows_are_complete_but_for_the_clocks(mended, repository):
    _, before, _ = mended
    (repository / "mlflow.db").unlink()
    shutil.rmtree(repository / "mlartifacts")
    status, printed = compare(repository, "--report-only")
    assert status == 0, printed
    rows = table(repository)
    measured = {"tokens_per_second", "peak_memory_mib", "training_seconds", "threads", "device"}
    for variant, row in rows.items():
        assert {name for name in row if row[name] != before[variant][name]} == measured
        assert not any(row[name] for name in measured)
    token = runs(repository)["token"]
    assert token.data.metrics["dev/exact_match"] == pytest.approx(float(rows["token"]["all_exact_match"]), abs=1e-3)
    uri = copy_of_store(repository)
    fetched = mlflow.artifacts.download_artifacts(run_id=token.info.run_id, artifact_path="model", tracking_uri=uri)
    assert GMMXLNetForQA.from_pretrained(fetched).num_parameters() == float(rows["token"]["parameters"])

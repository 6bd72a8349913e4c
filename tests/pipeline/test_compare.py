"""`make compare` in a small repository of its own: queue, failure, restart, and a store that has been lost."""

import csv
import shutil
import sys
import tempfile

import mlflow
import pytest
from mlflow import MlflowClient

from gmmxlnet.models import GMMXLNetForQA
from tests.small_repository import make_repository, run

BREAK = """
    import os
    from pathlib import Path
    if params.memory_type == "token" and not Path(os.environ["DVC_ROOT"], "room").exists():
        raise RuntimeError("no room left on the disk")
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The files of this repository with a small model, in which `token` fails until a file named `room` is there."""
    return make_repository(
        tmp_path_factory.mktemp("main"),
        {
            "pipeline/train.py": lambda text: text.replace(
                "    params = load_params()\n", f"    params = load_params(){BREAK}", 1
            )
        },
    )


def compare(folder, *options):
    """Run the command as make does; returns status and all that it printed."""
    return run(folder, sys.executable, "-m", "pipeline.compare", "--variants", "none", "token", *options)


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

"""MLflow's pages in a real browser: the runs are listed under names for people, and can be compared."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.tracking import comparison_run, start_run
from tests.progress import wait_while_it_works

TRAINING = "workflowType=machine_learning"
ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two trainings of a comparison and one beside it, as the stages log them."""
    folder = tmp_path_factory.mktemp("store")
    parameters = canonical_parameters(load_params(ROOT / "params.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        parent = comparison_run("sample")
        parent.close("FINISHED")
        for memory_type, score in (("none", 71.4), ("gmm", 98.8), ("token", 99.4)):
            with start_run(
                Experiment(parameters=parameters | {"memory_type": memory_type}, data="ab" * 32), "code"
            ) as run:
                run.log_metrics({"cost/training_seconds": 60.0, "dev/exact_match": score, "train/loss": 1.5})
                if memory_type != "token":
                    run.set_tags({MLFLOW_PARENT_RUN_ID: parent.run_id})
    return folder


@pytest.fixture(scope="module")
def address(store):
    """A server on the store, for as long as the tests take."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_while_it_works(lambda: answers(f"http://127.0.0.1:{port}/health"), server)
        yield f"http://127.0.0.1:{port}/#"
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # it has nothing to keep
        server.wait()


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def page(address, tmp_path):
    """A function from a path and texts to the page's HTML after its scripts have run.

    It is loaded again as long as each time it shows more of the texts: what a slow server had not sent yet.
    """

    def once(path):
        # The clock of the page's scripts stands still while they compute or wait for the server.
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000"]
        with (tmp_path / "page.html").open("w+", encoding="utf-8") as file:
            browser = subprocess.Popen(
                [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"{address}{path}"],
                stdout=file,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                wait_while_it_works(lambda: browser.poll() is not None, browser)
            finally:
                if browser.poll() is None:
                    os.killpg(browser.pid, signal.SIGKILL)
            file.seek(0)
            return file.read()

    def load(path, *texts):
        found = -1
        while True:
            shown = once(path)
            before, found = found, sum(text in shown for text in texts)
            if found == len(texts) or found <= before:
                return shown

    return load


@pytest.fixture
def found(store):
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gmm-xlnet").experiment_id
    return experiment, {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}


def test_the_comparison_is_listed(page, found):
    experiment, runs = found
    assert set(runs) == {"comparison-sample", "none", "token", "gmm-k4-write"}
    assert "comparison-sample" in page(f"/experiments/{experiment}/runs", "comparison-sample")


def test_the_charts_open_with_the_scores_not_the_costs(page, found):
    """Metrics that have no group come first: of the run that lies in no comparison, `EM` and `loss`."""
    experiment, _ = found
    shown = page(f"/experiments/{experiment}/runs?compareRunsMode=CHART&{TRAINING}", "Model metrics", "(2)")
    first = re.search(r"Model metrics[\s|]*(\(\d+\))", re.sub(r"<[^>]+>", "|", shown))
    assert first[1] == "(2)"


def test_the_address_that_make_ui_names_shows_the_pages_for_training(page, found):
    """MLflow 3.17 ignores the experiment's kind and opens its pages for language models on any other address."""
    experiment, _ = found
    address = re.search(r"http://127\.0\.0\.1:5000/#([^\s\"]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))[1]
    assert address == f"/experiments/{experiment}/runs?{TRAINING}"
    shown = page(address, "comparison-sample")
    assert "Observability" not in shown


def test_a_run_says_what_it_is(page, found):
    experiment, runs = found
    texts = ["4 memory experts of 4 slots, write-based routing", "dev/exact_match", "comparison-sample"]  # its parent
    shown = page(f"/experiments/{experiment}/runs/{runs['gmm-k4-write']}", *texts)
    assert [text for text in texts if text not in shown] == []


def test_the_compare_page_shows_both_runs_by_name_with_their_score(page, found):
    experiment, runs = found
    chosen = quote(json.dumps([runs["none"], runs["gmm-k4-write"]]))
    texts = ["Comparing 2 Runs", "gmm-k4-write", "none", "dev/exact_match", "98.8", "71.4"]
    shown = page(f"/compare-runs?runs={chosen}&experiments={quote(json.dumps([experiment]))}", *texts)
    assert [text for text in texts if text not in shown] == []

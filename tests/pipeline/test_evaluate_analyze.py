"""The evaluate and analyze stages on a small model: every file, from the same answers, and again the same bytes."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.evaluation.squad_metric import squad_v2_metrics
from gmmxlnet.verification.fingerprint import Fingerprint
from pipeline import analyze, evaluate
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ("metrics.json", "predictions.json", "null_odds.json", "nbest_predictions.json", "routing.json")
REPORTS += ("index.html", "summary.json", "ablation.csv", "plots/memory_ablation.png", "plots/training.png")
STEPS = "step,loss,span,learning_rate\n1,3.5,3.0,0.001\n2,3.25,2.75,0.0005\n"


@pytest.fixture(scope="module")
def make_workspace(tmp_path_factory, sample_chunks, make_model):
    """A function from memory type (and further settings) to a folder in which both stages have run."""

    def make(memory_type, **settings):
        workspace = tmp_path_factory.mktemp(memory_type)
        shutil.copy(ROOT / "params.yaml", workspace)
        shutil.copytree(sample_chunks, workspace / "data" / "chunks")
        model = workspace / "models" / "gmm"
        trained = make_model(memory_type, **settings)
        trained.save_pretrained(model)
        Fingerprint.of(trained).write(model)
        parameters = canonical_parameters(load_params(ROOT / "params.yaml")) | {"memory_type": memory_type}
        Experiment(parameters=parameters | {"num_memory_experts": 3}, data="0123abcd").write(model)
        (workspace / "reports").mkdir()
        (workspace / "reports" / "training.csv").write_text(STEPS, encoding="utf-8")
        run_both(workspace)
        return workspace

    return make


def run_both(workspace):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers: stages warn and go on
        evaluate.main()
        analyze.main()


def read(workspace, name):
    return json.loads((workspace / "reports" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def gmm(make_workspace):
    return make_workspace("gmm", routing_temperature=0.01)  # sharp: an untrained router is all but even


def test_metrics_are_the_official_figures_of_the_written_files(gmm, sample_chunks):
    documents, metrics = Documents.open(sample_chunks, "dev"), read(gmm, "metrics.json")
    golds = {documents.question_id(i): documents.gold_answers(i) for i in range(len(documents))}
    predictions, odds = read(gmm, "predictions.json"), read(gmm, "null_odds.json")
    official = squad_v2_metrics(golds, predictions, odds, metrics["null_score_diff_threshold"])
    assert official.pop("exact") == metrics["exact_match"]
    assert {name: metrics[name] for name in official} == official
    assert set(read(gmm, "nbest_predictions.json")) == set(predictions)


def test_routing_report_has_its_keys(gmm):
    routing = read(gmm, "routing.json")
    keys = ("expert_utilization", "mean_entropy", "std_entropy", "total_segments", "load_balance_variance")
    keys += ("expert_diversity", "routing_consistency", "by_question_type", "condition_information", "pattern")
    assert all(routing[key] is not None for key in keys)
    assert len(routing["expert_diversity"]) == len(routing["expert_utilization"]) == 3
    names = {"memory_ablation", "segments", "training"}
    names |= {"utilization", "heatmap", "entropy", "similarity", "question_types"}
    assert {path.stem for path in (gmm / "reports" / "plots").iterdir()} == names
    page = (gmm / "reports" / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == 8
    assert "Expert 2" in page
    assert "Who is the baker?" in page
    assert all(part in page for part in ('href="comparison.md"', Experiment.read(gmm / "models" / "gmm").key))
    assert "<li>dataset: <code>data/sample</code></li>" in page
    assert "<li>data (SHA-256 of the chunks): <code>0123abcd</code></li>" in page
    facts = (gmm / "reports" / "provenance.js").read_text(encoding="utf-8")
    assert re.search(r'data-page="(\w{64})"', page)[1] in facts
    assert f"torch {torch.__version__}" in facts


def test_even_routing_is_a_sentence_and_no_picture(make_workspace):
    workspace = make_workspace("gmm")
    assert read(workspace, "routing.json")["pattern"] == "diffuse"
    assert {path.stem for path in (workspace / "reports" / "plots").iterdir()} == {
        *("memory_ablation", "segments", "training")
    }
    page = (workspace / "reports" / "index.html").read_text(encoding="utf-8")
    assert "there is nothing to draw" in page
    assert "Expert 2" not in page


def test_the_summary_is_small_and_of_the_same_figures(gmm):
    summary, metrics = read(gmm, "summary.json"), read(gmm, "metrics.json")
    assert summary["exact_match"] == pytest.approx(metrics["exact_match"], abs=1e-4)
    assert summary["exact_match_memory_reset"] == pytest.approx(
        metrics["memory_ablation"]["reset"]["exact_match"], abs=1e-4
    )
    assert len(summary) < 15
    with (gmm / "reports" / "ablation.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 4  # memories times all questions and three types
    assert all(float(row["low"]) <= float(row["exact_match"]) <= float(row["high"]) for row in rows)


def test_again_the_same_bytes(gmm):
    before = {name: (gmm / "reports" / name).read_bytes() for name in REPORTS}
    run_both(gmm)
    assert {name: (gmm / "reports" / name).read_bytes() for name in REPORTS} == before


@pytest.mark.parametrize("memory_type", ["none", "mems", "words", "differentiable"])
def test_model_without_routing_says_so(make_workspace, memory_type):
    workspace = make_workspace(memory_type)
    routing = read(workspace, "routing.json")
    assert routing.pop("note") == f"memory_type {memory_type} has no experts to choose from"
    assert set(routing.values()) == {None}
    plots = {path.stem for path in (workspace / "reports" / "plots").iterdir()}
    assert plots == {"memory_ablation", "segments", "training"}
    assert "routing_entropy" not in read(workspace, "summary.json")


def test_both_reports_have_the_same_keys(gmm, make_workspace):
    assert set(read(gmm, "routing.json")) == set(read(make_workspace("token"), "routing.json"))


def test_analyze_without_metrics_names_them(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GMMXLNetError, match=r"reports/metrics\.json: there is no such file; run the evaluate stage"):
        analyze.main()


def test_a_gpu_that_is_not_there_is_named(tmp_path, monkeypatch):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("device: auto", "device: cuda")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(GMMXLNetError, match="device is cuda, but torch sees no GPU"):
        evaluate.main()

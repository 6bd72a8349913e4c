"""Which value reaches where in the evaluate stage: on data whose thresholds, lengths and ablations all differ.

Half of the gold answers are what the small random model finds by itself, so that its scores move with the threshold.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.evaluation.squad_metric import squad_v2_metrics
from gmmxlnet.evaluation.threshold import choose_threshold
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.encoder import EncoderLayer
from gmmxlnet.verification.fingerprint import Fingerprint
from pipeline import evaluate
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.scoring import score
from tests.conftest import article, report

ROOT = Path(__file__).resolve().parents[2]
N_BEST, LONGEST = 5, 3
ANSWERABLE = {"train": 0.6, "dev": 0.2}  # share of the questions, those of the lowest null odds


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    """A random model whose configuration asks for much dropout in training."""
    folder = tmp_path_factory.mktemp("model")
    made = make_model("gmm", routing_temperature=0.01)
    made.config.dropout = 0.5
    made.save_pretrained(folder)
    return GMMXLNetForQA.from_pretrained(folder)


def asked_of(name: str, numbers: range, answers: dict[str, tuple[str, int]]) -> list[dict]:
    """Reports whose questions have these answers, (text, start) by id, and no others."""
    articles = []
    for number in numbers:
        made = report(f"{name}-{number}", number)
        (paragraph,) = made["paragraphs"]
        for question in paragraph["qas"]:
            found = answers.get(question["id"])
            question["answers"] = [{"text": found[0], "answer_start": found[1]}] if found else []
            question["is_impossible"] = found is None
        articles.append(article(made["title"], paragraph["context"], paragraph["qas"]))
    return articles


def evaluator(model, chunks: Path, longest: int = LONGEST) -> QAEvaluator:
    return QAEvaluator(model, load_tokenizer(str(chunks / "tokenizer")), N_BEST, longest, batch_size=8)


@pytest.fixture(scope="module")
def chunks(model, make_chunks) -> Path:
    """Chunks in which the questions of low null odds have the model's own best span as their answer."""
    blank = make_chunks(asked_of("train", range(16), {}), asked_of("dev", range(3, 13), {}))
    answers: dict[str, dict[str, tuple[str, int]]] = {}
    for split in ("train", "calibration", "dev"):
        found = evaluator(model, blank).predict(Documents.open(blank, split))
        share = ANSWERABLE["dev" if split == "dev" else "train"]
        low = found.null_odds <= np.quantile(found.null_odds, share)
        best = {question_id: found.spans(i, 1)[0] for i, question_id in enumerate(found.question_ids) if low[i]}
        names = answers.setdefault("dev" if split == "dev" else "train", {})
        names |= {question_id: (span["text"], span["char_start"]) for question_id, span in best.items()}
    return make_chunks(asked_of("train", range(16), answers["train"]), asked_of("dev", range(3, 13), answers["dev"]))


@pytest.fixture(scope="module")
def workspace(model, chunks, tmp_path_factory) -> Path:
    """A folder in which the stage has run."""
    workspace = tmp_path_factory.mktemp("workspace")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("n_best_size: 20 ", f"n_best_size: {N_BEST} ", 1)
    text = text.replace("max_answer_length: 30 ", f"max_answer_length: {LONGEST} ", 1)
    text = text.replace("eval_batch_size: 64", "eval_batch_size: 8", 1)  # it decides who shuffled memories come from
    (workspace / "params.yaml").write_text(text, encoding="utf-8")
    shutil.copytree(chunks, workspace / "data" / "chunks")
    folder = workspace / "models" / "gmm"
    model.save_pretrained(folder)
    Fingerprint.of(model).write(folder)
    Experiment(parameters=canonical_parameters(load_params(workspace / "params.yaml")), data="").write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        evaluate.main()
    return workspace


@pytest.fixture(scope="module")
def normal(model, chunks):
    return evaluator(model, chunks).predict(Documents.open(chunks, "dev"))


@pytest.fixture(scope="module")
def threshold(model, chunks) -> float:
    return choose_threshold(evaluator(model, chunks).predict(Documents.open(chunks, "calibration"))).value


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_the_model_reads_in_the_precision_of_the_parameters(workspace, tmp_path, set_processor, precision, amx) -> None:
    set_processor(amx=amx)
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("precision: float32", f"precision: {precision}"), "utf-8")
    params, seen = load_params(tmp_path / "params.yaml"), set()

    def note(module: torch.nn.Module, _: object, output: object) -> None:
        if isinstance(module, EncoderLayer):
            seen.add(module.inner(torch.zeros(1, module.inner.in_features)).dtype)

    handle = register_module_forward_hook(note)
    score(params, workspace / "data" / "chunks", workspace / "models" / "gmm")
    handle.remove()
    fast = torch.bfloat16 if amx else torch.float32
    assert seen == {fast if precision == "auto" else getattr(torch, precision)}


def read(workspace: Path, name: str) -> dict:
    return json.loads((workspace / "reports" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_threshold_is_that_of_calibration_and_of_no_other_split(workspace, normal, threshold) -> None:
    assert read(workspace, "metrics")["null_score_diff_threshold"] == pytest.approx(threshold, abs=1e-6)
    assert abs(threshold - choose_threshold(normal).value) > 1e-3
    assert abs(threshold) > 1e-3


def test_predictions_are_written_with_the_threshold_that_is_reported(workspace, normal, threshold) -> None:
    written = read(workspace, "predictions")
    assert written == normal.answers(threshold)
    for other in (0.0, choose_threshold(normal).value):
        assert written != normal.answers(other)
    assert "" in written.values()
    assert set(written.values()) != {""}
    assert read(workspace, "null_odds") == pytest.approx(normal.odds_by_id(), abs=1e-5)


def test_answers_have_at_most_as_many_tokens_as_the_parameter_says(workspace, model, chunks) -> None:
    n_best = read(workspace, "nbest_predictions")
    assert {len(entries) for entries in n_best.values()} == {N_BEST + 1}
    tokens = [len(entry["text"].replace(".", " .").split()) for entries in n_best.values() for entry in entries]
    assert max(tokens) == LONGEST
    longer = evaluator(model, chunks, 30).predict(Documents.open(chunks, "dev"))
    assert (longer.last_token - longer.first_token).max() >= LONGEST  # the parameter cuts something


def test_scores_and_every_ablation_are_at_that_threshold(workspace, model, chunks, normal, threshold) -> None:
    reading, metrics = evaluator(model, chunks), read(workspace, "metrics")
    expected = {"memory_ablation": reading.ablate(normal), "routing_ablation": reading.ablate_routing(normal)}
    differ = set()
    for table, ablations in expected.items():
        assert set(metrics[table]) > set(ablations)
        for name, predictions in {**ablations, next(iter(metrics[table])): normal}.items():
            row = metrics[table][name]
            if predictions is None:
                assert row["f1"] is None
                continue
            at, at_zero = (
                squad_v2_metrics(predictions.golds(), predictions.answers(limit), predictions.odds_by_id(), limit)
                for limit in (threshold, 0.0)
            )
            assert (row["exact_match"], row["f1"]) == pytest.approx((at["exact"], at["f1"]), abs=1e-6)
            if at["exact"] != at_zero["exact"]:
                differ.add((table, name))
    assert len(differ) > 4
    overall = squad_v2_metrics(normal.golds(), normal.answers(threshold), normal.odds_by_id(), threshold)
    assert metrics["exact_match"] == overall["exact"]
    assert metrics["HasAns_exact"] == overall["HasAns_exact"] > 0

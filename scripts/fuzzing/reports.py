"""Damaged reports: what is read is what the file says, and every reader of it can use it."""

import csv
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from gmmxlnet.analysis.analyzer import GMMAnalyzer
from gmmxlnet.analysis.page import render_page
from gmmxlnet.analysis.plots import plot_memory_ablation, plot_scores_by_segments, plot_training_curves
from gmmxlnet.analysis.shown_answers import choose_answers
from gmmxlnet.analysis.summary import ablation_table, summarize_experiment
from gmmxlnet.commands.export import encoder_card
from gmmxlnet.comparison.questions import ARRAYS, ScoredDocuments
from gmmxlnet.comparison.report import render_report
from gmmxlnet.comparison.results import Result, columns
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.statistics import notes, warnings
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.evaluation.metrics import assemble_metrics
from gmmxlnet.evaluation.threshold import choose_threshold
from gmmxlnet.reports import (
    read_conversion,
    read_data_report,
    read_determinism,
    read_metrics,
    read_n_best,
    read_pretraining,
    read_routing,
    read_scores,
    read_training,
)
from gmmxlnet.sharing.model_card import model_card
from pipeline.experiment import FILE_NAME, Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.reader_report import render_reader
from pipeline.run_description import describe_run
from pipeline.variants import overridden
from scripts.fuzzing.chunks import make_chunks
from scripts.fuzzing.damage import damage_bytes_of, damaged_bytes, damaged_json
from scripts.fuzzing.models import make_model

ROOT = Path(__file__).resolve().parents[2]
PRETRAINING: dict[str, Any] = {
    "parameters": 100,
    "tokens_read": 1000,
    "heldout": {"tokens": 10, "loss": 1.5, "unigram_loss": 2.5, "masked_accuracy": 0.5, "unigram_accuracy": 0.1},
    "corpus": {"train": {"tokens": 500}, "sources": ["a.txt", "b_*[x](y).json"]},
    "settings": {"steps": 3, "learning_rate": 0.1, "induction_heads": True},
}
CONVERSION: dict[str, Any] = {
    "source": {"name": "me/bert"},
    "parameters": 100,
    "distillation": {"steps": 3, "tokens_read": 1000},
    "after": {"distillation": {"cosine_by_layer": [0.5, 0.75]}},
    "weights_sha256": "ab" * 32,
}


class ReportCases:
    """Cases by seed and number."""

    name = "reports"

    def __init__(self, scratch: Path) -> None:
        self.folder = scratch
        chunks, data = make_chunks(scratch)
        self.documents = Documents.open(chunks, "dev")
        model, tokenizer = make_model(chunks)
        self.config = model.config.to_dict()
        evaluator = QAEvaluator(model, tokenizer, n_best_size=3, max_answer_length=5)
        choice = choose_threshold(evaluator.predict(Documents.open(chunks, "calibration")))
        predictions = evaluator.predict(self.documents)
        self.metrics = assemble_metrics(
            predictions, choice, evaluator.ablate(predictions), evaluator.ablate_routing(predictions)
        )
        self.routing = GMMAnalyzer(model).report(self.documents)
        self.data = data
        parameters = (ROOT / "params.yaml").read_text(encoding="utf-8")
        self.reader = overridden(parameters, ["profile=reader", "profiles.reader.max_steps=3"])
        self.experiment = Experiment(parameters=canonical_parameters(load_params(ROOT / "params.yaml")), data="ab" * 32)
        steps = [["step", "loss", "span", "learning_rate", "utilization_0", "utilization_1"]]
        self.steps = steps + [[str(n), str(3 / n), "1.5", "0.001", "0.25", "0.75"] for n in range(1, 6)]
        self.result = Result(variant="gmm-k2-write", seed=13, metrics=self.metrics, routing=self.routing, cost={"a": 1})
        self.scored = ScoredDocuments.of(
            self.result, predictions, choice.value, identity="x", setting={"profile": "sample"}
        )
        self.sound: dict[str, Any] = {
            "metrics": self.metrics,
            "n best": predictions.n_best_by_id(),
            "routing": self.routing,
            "determinism": {"bit_identical": True, "tensors": 3},
            "data": data,
            "experiment": {"parameters": self.experiment.parameters, "data": self.experiment.data},
            "pretraining": PRETRAINING,
            "conversion": CONVERSION,
        }
        torch.manual_seed(0)

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        what = rng.choice([*self.sound, "metrics", "metrics", "n best", "training", "training", "scored documents"])
        path = self.folder / FILE_NAME
        if what == "training":
            path.write_bytes(self._damaged_steps(rng))
        elif what == "scored documents":
            self._write_scored(rng, path)
        else:
            value = json.loads(json.dumps(self.sound[what]))
            if rng.random() < 0.2:
                path.write_bytes(damaged_bytes(rng, json.dumps(value, ensure_ascii=False).encode()))
            else:
                path.write_text(damaged_json(rng, value), encoding="utf-8", errors="surrogatepass")
        draws = rng.random() < 0.05
        return what, lambda: getattr(self, f"_read_{what.replace(' ', '_')}")(path, draws)

    def _damaged_steps(self, rng: Random) -> bytes:
        rows = [list(row) for row in self.steps]
        how, row, column = rng.randrange(6), rng.randrange(len(rows)), rng.randrange(len(rows[0]))
        odd = ("", "x", "nan", "inf", "1e999", "-1", "0", "1_0", "=1+1", '"', "9" * 400, "a\nb", "\u202e")
        if how <= 1:
            rows[row][column] = rng.choice(odd)
        elif how == 2:
            del rows[row]
        elif how == 3:
            for each in rows[: rng.choice((1, 2, 9))]:
                del each[column]
        elif how == 4:
            empty: list[list[str]] = []
            rows = rng.choice((empty, rows[:1], rows + rows, [*empty, []]))
        lines = "".join(",".join(row) + "\r\n" for row in rows).encode()
        return damaged_bytes(rng, lines) if how == 5 else lines

    def _write_scored(self, rng: Random, path: Path) -> None:
        said = {field.name: getattr(self.scored, field.name) for field in fields(self.scored)}
        arrays = {name: said.pop(name) for name in ARRAYS}
        said["result"] = vars(self.result)
        text, how = json.dumps(said), rng.randrange(5)
        name = rng.choice(ARRAYS)
        if how <= 1:
            text = damaged_json(rng, json.loads(text))
        elif how == 2:
            arrays[name] = arrays[name][: rng.randrange(3)]
        elif how == 3:
            kinds = (np.float64, np.int8, np.float32, np.int32)
            arrays[name] = (arrays[name] * rng.choice((1, -1, 1e6))).astype(rng.choice(kinds))
        save_file(arrays, path, {"json": text.encode("utf-8", "replace").decode()})
        if how == 4:
            damage_bytes_of(rng, path)

    def _read_metrics(self, path: Path, draws: bool) -> None:
        metrics = read_metrics(path)
        assert metrics == json.loads(path.read_text(encoding="utf-8"))
        self._use(metrics, self.routing, draws)
        describe_run(self.experiment, metrics)
        model_card("me/model", self.config, name="x", metrics=read_scores(path), dataset="data")

    def _read_routing(self, path: Path, draws: bool) -> None:
        routing = read_routing(path)
        assert routing == json.loads(path.read_text(encoding="utf-8"))
        self._use(self.metrics, routing, draws)

    def _use(self, metrics: dict[str, Any], routing: dict[str, Any], draws: bool) -> None:
        json.dumps(summarize_experiment(metrics, routing), allow_nan=False)
        ablation_table(metrics).to_csv()
        result = Result(variant="gmm-k2-write", seed=13, metrics=metrics, routing=routing)
        columns(result)
        other = Result(variant="none", seed=13, metrics=metrics, routing=self.routing)
        render_report("Comparison", [result, other], {"profile": "sample"}, {}, "plot.png")
        render_page("title", "about", metrics, self.routing, {})
        if draws:
            for figure in (plot_memory_ablation(metrics), plot_scores_by_segments(metrics)):
                figure.savefig(self.folder / "figure.png", dpi=20)

    def _read_n_best(self, path: Path, draws: bool) -> None:
        n_best = read_n_best(path, self.documents)
        assert n_best == json.loads(path.read_text(encoding="utf-8"))
        answers = choose_answers(self.documents, n_best, 0.0, None)
        render_page("title", "about", self.metrics, self.routing, {}, (), answers)

    def _read_training(self, path: Path, draws: bool) -> None:
        found = read_training(path)
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file)
        assert list(found) == names
        assert [list(row) for row in zip(*found.values(), strict=True)] == [list(map(float, row)) for row in rows]
        if draws:
            plot_training_curves(found).savefig(self.folder / "figure.png", dpi=20)

    def _read_determinism(self, path: Path, draws: bool) -> None:
        assert isinstance(read_determinism(path)["bit_identical"], bool)

    def _read_data(self, path: Path, draws: bool) -> None:
        report = read_data_report(path)
        assert all(isinstance(line, str) for line in [*notes(report), *warnings(report)])

    def _read_experiment(self, path: Path, draws: bool) -> None:
        experiment = Experiment.read(path.parent)
        assert experiment.name
        assert experiment.key
        describe_run(experiment, {})

    def _read_pretraining(self, path: Path, draws: bool) -> None:
        encoder_card("x", {"n_layer": 1, "d_model": 8}, read_pretraining(path))

    def _read_conversion(self, path: Path, draws: bool) -> None:
        render_reader(self.reader, read_conversion(path), self.data, self.metrics)

    def _read_scored_documents(self, path: Path, draws: bool) -> None:
        found = ScoredDocuments.read(path)
        self._use(dict(found.result.metrics), dict(found.result.routing), draws)
        columns(found.result)

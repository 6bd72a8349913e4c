"""Stage evaluate: the model's answers to the dev questions (`reports/*predictions.json`) and their scores."""

from pathlib import Path

import torch

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.evaluation.metrics import assemble_metrics
from gmmxlnet.evaluation.threshold import choose_threshold
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.utils.devices import choose_device
from gmmxlnet.utils.files import write_json
from gmmxlnet.utils.seeding import seed_everything
from pipeline.experiment import Experiment
from pipeline.launch import join, run_together
from pipeline.params import Params, load_params, point_to_base
from pipeline.stage import run_stage
from pipeline.tracking import experiment_run

CHUNKS = Path("data/chunks")
MODEL = Path("models/gmm")
REPORTS = Path("reports")
METRICS = REPORTS / "metrics.json"
AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(params: Params) -> GMMXLNetForQA:
    """The trained model on the device that the parameters ask for."""
    point_to_base(params)
    device = choose_device(params.device)
    model = GMMXLNetForQA.from_pretrained(str(MODEL))
    return model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` without its types


def main() -> None:
    """Choose the threshold on the calibration split, answer the dev questions, score them with and without memory."""
    params = load_params()
    if run_together(params):
        return
    seed_everything(params.seed)
    processes = join(params.device)
    evaluator = QAEvaluator(
        load_model(params),
        load_tokenizer(str(CHUNKS / "tokenizer")),
        n_best_size=params.active.n_best_size,
        max_answer_length=params.active.max_answer_length,
        batch_size=params.active.eval_batch_size,
        autocast_dtype=AUTOCAST[params.active.precision],
        show_progress=True,
    )
    choice = choose_threshold(evaluator.predict(Documents.open(CHUNKS, "calibration")))
    normal = evaluator.predict(Documents.open(CHUNKS, "dev"))
    ablated, rerouted = evaluator.ablate(normal), evaluator.ablate_routing(normal)
    if not processes.is_main:
        return
    metrics = assemble_metrics(normal, choice, ablated, rerouted, seed=params.seed)
    write_json(REPORTS / "predictions.json", normal.answers(choice.value))
    write_json(REPORTS / "null_odds.json", normal.odds_by_id())
    write_json(REPORTS / "nbest_predictions.json", normal.n_best_by_id())
    write_json(METRICS, metrics)
    with experiment_run(MODEL) as run:
        run.log_results(METRICS, Experiment.read(MODEL))
    floor = metrics["always_no_answer"]["exact_match"]
    print(
        f"evaluate: EM {metrics['exact_match']:.2f}, F1 {metrics['f1']:.2f} on {metrics['total']:,} questions "
        f"(always “no answer”: {floor:.2f}) -> {METRICS}"
    )


if __name__ == "__main__":
    run_stage(main)

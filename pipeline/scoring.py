"""From chunks and a model's folder to answers and scores: what the evaluate stage and `make long-documents` share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.devices import autocast_dtype, choose_device
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.evaluation.metrics import assemble_metrics
from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.evaluation.threshold import choose_threshold
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.utils.seeding import seed_everything
from pipeline.base_model import point_to_base
from pipeline.params import Params
from pipeline.places import TOKENIZER


@dataclass(frozen=True)
class Scored:
    """What a model answered, from which null odds on it says that there is no answer, and what that is worth."""

    predictions: Predictions
    threshold: float
    metrics: dict[str, Any]
    model: GMMXLNetForQA


def load_model(params: Params, folder: Path) -> GMMXLNetForQA:
    """A trained model on the device that the parameters ask for."""
    point_to_base(params)
    device = choose_device(params.device)
    model = GMMXLNetForQA.from_pretrained(str(folder))
    return model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` without its types


def score(params: Params, chunks: Path, model_folder: Path) -> Scored:
    """Choose the threshold on the calibration split, answer the dev questions, score them with and without memory.

    Several processes share the documents where a launcher started them; each returns all of it.
    """
    seed_everything(params.seed)
    active, model = params.active, load_model(params, model_folder)
    evaluator = QAEvaluator(
        model,
        load_tokenizer(str(chunks / TOKENIZER)),
        n_best_size=active.n_best_size,
        max_answer_length=active.max_answer_length,
        batch_size=active.eval_batch_size,
        autocast_dtype=autocast_dtype(active.precision, model.device),
        show_progress=True,
    )
    choice = choose_threshold(evaluator.predict(Documents.open(chunks, "calibration")))
    normal = evaluator.predict(Documents.open(chunks, "dev"))
    metrics = assemble_metrics(normal, choice, *evaluator.ablate_both(normal), seed=params.seed)
    return Scored(normal, choice.value, metrics, model)

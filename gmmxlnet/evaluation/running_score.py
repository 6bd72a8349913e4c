"""Reports exact match while evaluation is running."""

import numpy as np

from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.evaluation.squad_metric import exact_score
from gmmxlnet.utils.progress import Progress


class RunningScore:
    """Scores documents as soon as their columns in `predictions` are filled, and displays the score.

    The threshold has not been chosen at this point; questions with null odds of at most 0 are answered.

    Args:
        predictions: predictions whose arrays are still being filled.
        num_documents: total number of documents.
        ablation: description of the ablation, such as `memory zeroed`; empty for none.
    """

    def __init__(self, predictions: Predictions, num_documents: int, ablation: str) -> None:
        self.predictions = predictions
        self.num_right = self.num_done = 0
        what = f"evaluate, {ablation}" if ablation else "evaluate"
        self.progress = Progress(what, total=num_documents, unit="documents")

    def add(self, rows_B: np.ndarray, num_tokens: int) -> None:
        """Adds the documents `rows_B`, which have `num_tokens` tokens."""
        figures = {}
        if self.progress.shown:
            self.num_done += len(rows_B)
            self.num_right += sum(self._is_right(int(i)) for i in rows_B)
            figures["EM"] = 100 * self.num_right / self.num_done
        self.progress.advance(len(rows_B), num_tokens, **figures)

    def _is_right(self, index: int) -> bool:
        found, documents = self.predictions, self.predictions.documents
        score = found.start_logit[index, 0] + found.end_logit[index, 0]
        answered = score >= found.null_start_logit[index] + found.null_end_logit[index]
        text = found.spans(index, 1)[0]["text"] if answered and found.has_span(index) else ""
        return any(exact_score(gold, text) for gold in documents.gold_answers(index) or [""])

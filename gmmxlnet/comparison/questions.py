"""`ScoredDocuments`: an experiment's score of every question, so that experiments can be compared question by question.

A comparison is a mean difference with an interval over documents: over all questions, by the document's number of
segments, by the answer's distance from the document's start, or by how its sentence refers to its subject. Each
experiment is one small file.

Shapes: D questions, in the order of the dataset.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gmmxlnet.comparison.results import Result, Score
from gmmxlnet.comparison.subjects import SUBJECTS, answer_subjects
from gmmxlnet.data.segments import segments_holding
from gmmxlnet.errors import DataError, reason_of
from gmmxlnet.evaluation.bootstrap import ContextBootstrap
from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.evaluation.squad_metric import raw_scores
from gmmxlnet.reports import check_metrics, check_routing
from gmmxlnet.utils.files import atomic_file

BOUNDS = (1, 2, 4, 8, 16)  # groups of segments: 1, 2, 3 to 4, 5 to 8, 9 to 16, more
NOWHERE = 0  # the place of an unanswerable question's answer
ARRAYS = ("exact_match", "f1", "context", "segments", "place", "subject")


@dataclass(frozen=True, kw_only=True)
class ScoredDocuments:
    """A `Result` with the scores of every question.

    Args:
        identity: hash of parameters, code, encoder and data.
        exact_match, f1: (D,) percent. context: (D,) the document that each question asks about.
        segments: (D,) of that document. place: (D,) the first segment that holds the answer, from 1; 0 without answer.
        subject: (D,) index into `SUBJECTS`: whether the answer's sentence has a name of the question or a pronoun.
        questions: SHA-256 of the questions' ids.
        setting: profile, budget, versions and the like, in words.
    """

    result: Result
    identity: str
    questions: str
    setting: Mapping[str, str]
    exact_match: np.ndarray
    f1: np.ndarray
    context: np.ndarray
    segments: np.ndarray
    place: np.ndarray
    subject: np.ndarray

    @classmethod
    def of(
        cls,
        result: Result,
        predictions: Predictions,
        threshold: float,
        *,
        identity: str,
        setting: Mapping[str, str],
    ) -> "ScoredDocuments":
        """The scores of predictions; null odds above `threshold` mean no answer."""
        exact, f1 = raw_scores(predictions.golds(), predictions.answers(threshold))
        return cls(
            result=result,
            identity=identity,
            setting=setting,
            questions=hashlib.sha256("\n".join(predictions.question_ids).encode()).hexdigest(),
            exact_match=100 * np.array(list(exact.values()), np.float32),
            f1=100 * np.array(list(f1.values()), np.float32),
            context=predictions.context_indices().astype(np.int32),
            segments=predictions.documents.num_segments().astype(np.int32),
            place=answer_places(predictions),
            subject=answer_subjects(predictions),
        )

    def write(self, path: Path) -> None:
        """Write a safetensors file; everything but the arrays goes into its metadata."""
        said = {name: getattr(self, name) for name in ("identity", "questions", "setting")}
        said["result"] = asdict(self.result)
        with atomic_file(path) as scratch:
            save_file({name: getattr(self, name) for name in ARRAYS}, scratch, {"json": json.dumps(said)})

    @classmethod
    def read(cls, path: Path) -> "ScoredDocuments":
        """Read a file of `write`. Raises DataError if it is not one."""
        try:
            with safe_open(path, "numpy") as file:
                said: dict[str, Any] = json.loads(file.metadata()["json"])
                arrays = {name: file.get_tensor(name) for name in ARRAYS}
            result = Result(**said.pop("result"))
            check_metrics(result.metrics, path)
            check_routing(result.routing, path)
            _check_types(said, result, arrays)
            return cls(result=result, **said, **arrays)
        except DataError as error:
            raise DataError(f"{str(error).rpartition('; ')[0]}; remove it and run again") from None
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = reason_of(error)
            raise DataError(
                f"{path}: not a result of make long-documents ({reason}); remove it and run again"
            ) from None


def _check_types(said: Mapping[str, Any], result: Result, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises TypeError or ValueError unless these are what `ScoredDocuments.write` wrote."""
    words = [said["identity"], said["questions"], result.variant, *said["setting"].values()]
    if not all(isinstance(word, str) for word in words) or type(result.seed) is not int:
        raise TypeError("its names are no texts")
    if not all(isinstance(value, str | int | float) for value in result.cost.values()):
        raise TypeError("its costs are no numbers")
    for name, array in arrays.items():
        if array.dtype != (np.float32 if name in ("exact_match", "f1") else np.int32) or array.ndim != 1:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        if len(array) != result.metrics["total"] or not np.isfinite(array).all() or array.min(initial=0) < 0:
            raise ValueError(f"{name} is not a number for each of the {result.metrics['total']:,} questions")
    if max(arrays["exact_match"].max(), arrays["f1"].max()) > 100:
        raise ValueError("scores are above 100 percent")


def answer_places(predictions: Predictions) -> np.ndarray:
    """(D,) int32: the first segment that wholly holds the answer, counted from 1; 0 where there is no answer."""
    documents = predictions.documents
    places_D = np.full(len(documents), NOWHERE, np.int32)
    counts_D = documents.num_segments()
    for index in range(len(documents)):
        document = documents[index]
        if document.label is not None:
            window = documents.layout.windows(np.int64(len(document.question_tokens)))
            first, _ = segments_holding(np.array(document.label), counts_D[index], window, documents.layout.doc_stride)
            places_D[index] = int(first) + 1
    return places_D


def group_of(count_D: np.ndarray) -> np.ndarray:
    """(D,) the index of the first of `BOUNDS` that each count does not exceed; `len(BOUNDS)` beyond the last."""
    return np.searchsorted(np.array(BOUNDS), count_D)


def group_name(index: int) -> str:
    """`1`, `2`, `3 to 4`, …, `17 or more`."""
    if index == len(BOUNDS):
        return f"{BOUNDS[-1] + 1} or more"
    first = BOUNDS[index - 1] + 1 if index else 1
    return str(first) if first == BOUNDS[index] else f"{first} to {BOUNDS[index]}"


def groups(scored: ScoredDocuments, of: str) -> Mapping[str, np.ndarray]:
    """Masks (D,) of the nonempty groups, by `segments`, `place` of the answer, or its sentence's `subject`."""
    if of == "subject":
        masks = {name: scored.subject == index for index, name in enumerate(SUBJECTS)}
        return {name: mask for name, mask in masks.items() if mask.any()}
    count_D: np.ndarray = getattr(scored, of)
    group_D = np.where(count_D == NOWHERE, -1, group_of(count_D))
    found = {group_name(int(index)): group_D == index for index in np.unique(group_D) if index >= 0}
    return found | ({"no answer": group_D == -1} if (group_D == -1).any() else {})


def average(chosen: Sequence[ScoredDocuments], metric: str, group_D: np.ndarray | None = None) -> Score:
    """A metric's mean over questions and experiments (the seeds of a variant), with an interval over documents.

    Experiments that answered other questions than the first one are left out.
    """
    alike = [one for one in chosen if one.questions == chosen[0].questions]
    return _summary(_mean_of(alike, metric), chosen[0], group_D, (0.0, 100.0))


def difference(
    chosen: Sequence[ScoredDocuments],
    against: Sequence[ScoredDocuments],
    metric: str,
    group_D: np.ndarray | None = None,
) -> Score:
    """The mean difference of `chosen` and `against`, paired by seed and question."""
    return _summary(_mean_of(chosen, metric) - _mean_of(against, metric), chosen[0], group_D, (-100.0, 100.0))


def pairs(
    chosen: Sequence[ScoredDocuments], against: Sequence[ScoredDocuments]
) -> tuple[list[ScoredDocuments], list[ScoredDocuments]]:
    """The experiments of both that share seed and questions, in the same order; all have the first pair's questions."""
    there = {(other.result.seed, other.questions): other for other in against}
    both = [(one, there[key]) for one in chosen if (key := (one.result.seed, one.questions)) in there]
    both = [(one, other) for one, other in both if one.questions == both[0][0].questions]
    return [one for one, _ in both], [other for _, other in both]


def _mean_of(chosen: Sequence[ScoredDocuments], metric: str) -> np.ndarray:
    return np.mean([getattr(scored, metric).astype(np.float64) for scored in chosen], axis=0)


def _summary(
    values_D: np.ndarray, scored: ScoredDocuments, group_D: np.ndarray | None, bounds: tuple[float, float]
) -> Score:
    chosen_D = values_D if group_D is None else values_D[group_D]
    low, high = ContextBootstrap(scored.context).interval(values_D, group_D, bounds=bounds) or (None, None)
    return Score(value=float(chosen_D.mean()), low=low, high=high)

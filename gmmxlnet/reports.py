"""Reads the reports that stages write for each other; each is checked whole, or refused in one line.

    read_metrics(path)                  reports/metrics.json
    read_n_best(path, documents)        reports/nbest_predictions.json about these documents
    read_training(path)                 reports/training.csv: its columns
    read_routing(path), …

A refusal says what is wrong, where, and which stage makes the file. The schemas say what readers rely on; other keys
are left as they are.
"""

import csv
import math
from pathlib import Path
from typing import Annotated, Any, NotRequired, Protocol

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from gmmxlnet.errors import DataError, reason_of
from gmmxlnet.options import LONGEST_SHOWN
from gmmxlnet.utils.files import is_unusable, read_json

MOST_BYTES = 4 * 2**30  # of a report: the n best of 100,000 questions have 1 GB

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e39, le=1e39)]  # beyond all that float32 can hold
Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]
Percent = Annotated[float, Field(ge=0, le=100 + 1e-6)]
Loss = Annotated[float, Field(ge=-100 - 1e-6, le=100 + 1e-6)]
SegmentCount = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}$")]

LOST = "exact_match_loss_interval"


def _ordered(limits: list[float]) -> list[float]:
    if limits[0] > limits[1]:
        raise ValueError("the lower limit is above the upper one")
    return limits


Interval = Annotated[list[Loss], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class Summary(TypedDict):
    """Scores of a group of questions."""

    exact_match: Percent
    exact_match_interval: Interval | None
    f1: Percent
    f1_interval: Interval | None
    total: Count


class AblationRow(Summary):
    """Scores under an ablation, and what was lost by it."""

    by_question_type: dict[str, Summary]
    exact_match_loss: NotRequired[Loss]
    exact_match_loss_interval: NotRequired[Interval | None]


class NotMeasured(TypedDict):
    """An ablation that could not be measured."""

    exact_match: None
    exact_match_interval: None
    f1: None
    f1_interval: None
    by_question_type: None


class MemoryAblation(TypedDict):
    """The model with its memory and without."""

    normal: AblationRow
    zeroed: AblationRow | NotMeasured
    shuffled: AblationRow | NotMeasured
    reset: AblationRow | NotMeasured


class Floor(TypedDict):
    """Scores without intervals, such as those of always answering "no answer"."""

    exact_match: Percent
    f1: Percent


class Chosen(TypedDict):
    """How the threshold was chosen."""

    method: str
    split: str
    questions: Count


class NotChosen(TypedDict):
    """A threshold that was not chosen from data."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # read by pydantic

    method: str


class Intervals(TypedDict):
    """The 95% intervals of all questions, and from how many contexts."""

    exact_match: Interval | None
    f1: Interval | None
    contexts: Count


class Scores(TypedDict):
    """The part of `metrics.json` that every model card shows."""

    exact_match: Percent
    f1: Percent
    total: Annotated[int, Field(ge=1, le=2**53)]
    HasAns_f1: Percent | None
    HasAns_total: Count
    NoAns_f1: Percent | None
    NoAns_total: Count
    null_score_diff_threshold: Number
    always_no_answer: Floor


class CardScores(Scores):
    """All of `metrics.json` that a model card shows."""

    memory_ablation: NotRequired[MemoryAblation]


class Metrics(Scores):
    """`metrics.json`."""

    HasAns_exact: Percent | None
    NoAns_exact: Percent | None
    null_score_diff_threshold_choice: Chosen | NotChosen
    intervals: Intervals
    by_question_type: dict[str, Summary]
    by_segments: Annotated[dict[SegmentCount, Summary], Field(min_length=1)]
    memory_ablation: MemoryAblation
    memory_ablation_note: NotRequired[str | None]
    oracle_threshold: NotRequired[Floor]
    always_answering: NotRequired[Summary | None]
    routing_ablation: NotRequired[dict[str, AblationRow | NotMeasured]]


class NBestEntry(TypedDict):
    """A candidate answer; without characters, the empty one."""

    text: str
    char_start: Count | None
    char_end: Count | None
    segment: Count
    start_logit: Number
    end_logit: Number
    probability: Share


class Information(TypedDict):
    """What the routing knows of the documents' condition, in bits."""

    bits: Number
    chance_bits: Number
    chance_bits_95: Number
    p_value: Share


Shares = Annotated[list[Share], Field(min_length=2, max_length=8)]


class Routing(TypedDict):
    """`routing.json`; null for models that route nothing."""

    expert_utilization: Shares | None
    mean_entropy: Number | None
    expert_diversity: list[list[Number]] | None
    routing_consistency: Number | None
    condition_information: Information | None
    pattern: str | None
    note: str | None


class Determinism(TypedDict):
    """`determinism.json`."""

    bit_identical: bool


class SegmentsOfDocuments(TypedDict):
    """How many segments the documents of a split have."""

    mean: Number | None
    max: Count


class AnswersOfSplit(TypedDict):
    """Where the answers of a split lie."""

    inside_a_segment: Count
    inside_no_segment: Count
    no_token_span: Count


class LeftOut(TypedDict):
    """Questions left out of a split for one reason."""

    documents: Count
    first_ids: list[str]


class SplitReport(TypedDict):
    """What `data.json` says of a split."""

    documents: Count
    answerable: Count
    unanswerable: Count
    segments: Count
    segments_per_document: SegmentsOfDocuments
    answers: AnswersOfSplit
    cut_questions: Count
    left_out: dict[str, LeftOut]


class ChunkSettingsReport(TypedDict):
    """What the chunks were made with, as far as messages need it."""

    max_question_length: Count


class DataReport(TypedDict):
    """`data.json`."""

    settings: ChunkSettingsReport
    train: SplitReport
    calibration: SplitReport
    dev: SplitReport


class HeldOut(TypedDict):
    """Scores of a pretrained encoder on text that it was not trained on."""

    tokens: Number
    loss: Number
    unigram_loss: Number
    masked_accuracy: Share
    unigram_accuracy: Share


class CorpusPart(TypedDict):
    """A part of a corpus."""

    tokens: Annotated[int, Field(ge=1, le=2**53)]


class CorpusReport(TypedDict):
    """What an encoder was pretrained on."""

    train: CorpusPart
    sources: list[str]


class Pretraining(TypedDict):
    """`pretraining.json`."""

    parameters: Count
    tokens_read: Count
    heldout: HeldOut
    corpus: CorpusReport
    settings: dict[str, str | int | float | bool | None]


class Source(TypedDict):
    """What an encoder was converted from."""

    name: str


class Distilled(TypedDict):
    """How long a converted encoder was distilled."""

    steps: Count
    tokens_read: Count


class Closeness(TypedDict):
    """How close a converted encoder is to its source."""

    cosine_by_layer: Annotated[list[Number], Field(min_length=1)]


class AfterSteps(TypedDict):
    """The same after each step of the conversion."""

    distillation: Closeness


class Conversion(TypedDict):
    """`conversion.json`."""

    source: Source
    parameters: Count
    distillation: Distilled
    after: AfterSteps
    weights_sha256: str


_CONVERSION = TypeAdapter(Conversion)
_METRICS, _SCORES, _ROUTING = TypeAdapter(Metrics), TypeAdapter(CardScores), TypeAdapter(Routing)
_N_BEST = TypeAdapter(dict[str, Annotated[list[NBestEntry], Field(min_length=1)]])
_DETERMINISM, _DATA, _PRETRAINING = TypeAdapter(Determinism), TypeAdapter(DataReport), TypeAdapter(Pretraining)


class Answered(Protocol):
    """The part of `Documents` that predictions are compared with."""

    def __len__(self) -> int: ...
    def num_segments(self) -> Any: ...
    def question_id(self, index: int) -> str: ...
    def context_text(self, index: int) -> str: ...


def read_metrics(path: Path) -> dict[str, Any]:
    """Reads `metrics.json` with all that the page and the comparison need. Raises DataError."""
    return check_metrics(_read(path, "evaluate"), path)


def check_metrics(metrics: Any, path: Path) -> dict[str, Any]:
    """Returns `metrics` if they are what `metrics.json` holds; raises DataError, which names `path`."""
    _check(_METRICS, metrics, path, "evaluate")
    for name in set(metrics["memory_ablation"]) - set(MemoryAblation.__annotations__):
        raise _refusal(path, "evaluate", f"memory_ablation has {name[:LONGEST_SHOWN]!r}, which is unknown")
    ablations = {"memory_ablation": metrics["memory_ablation"], "routing_ablation": metrics.get("routing_ablation", {})}
    for table, rows in ablations.items():
        for name, row in rows.items():
            groups = row["by_question_type"]
            if groups is not None and list(groups) != list(metrics["by_question_type"]):
                raise _refusal(
                    path, "evaluate", f"{table}.{name[:LONGEST_SHOWN]} has other question types than the whole"
                )
    if ablations["routing_ablation"]:
        for name in ("learned", "uniform"):
            row = ablations["routing_ablation"].get(name)
            if row is None or row["exact_match"] is None or (name == "uniform" and LOST not in row):
                raise _refusal(path, "evaluate", f"routing_ablation.{name} is missing")
    return metrics


def read_scores(path: Path) -> dict[str, Any]:
    """Reads the part of `metrics.json` that a model card shows. Raises DataError."""
    return _check(_SCORES, _read(path, "evaluate"), path, "evaluate")


def read_n_best(path: Path, documents: Answered) -> dict[str, list[dict[str, Any]]]:
    """Reads `nbest_predictions.json`. Raises DataError also if it is about other documents."""
    found = _check(_N_BEST, _read(path, "evaluate"), path, "evaluate")
    ids = [documents.question_id(i) for i in range(len(documents))]
    if set(ids) != set(found):
        raise _refusal(path, "evaluate", "it is about other questions than the dev split of the chunks")
    for i, (question_id, count) in enumerate(zip(ids, documents.num_segments(), strict=True)):
        text = documents.context_text(i)
        empty = 0
        for entry in found[question_id]:
            start, end = entry["char_start"], entry["char_end"]
            empty += start is None
            sound = (end is None and entry["text"] == "") if start is None else _stands(text, start, end, entry["text"])
            if not sound or entry["segment"] >= count:
                raise _refusal(path, "evaluate", f"an answer to question {question_id[:LONGEST_SHOWN]!r} is not in it")
        if empty != 1:
            raise _refusal(path, "evaluate", f"question {question_id[:LONGEST_SHOWN]!r} has {empty} empty answers")
    return found


def read_training(path: Path) -> dict[str, list[float]]:
    """Reads the columns of `training.csv`, a number a step. Raises DataError."""
    try:
        if is_unusable(path, MOST_BYTES):
            raise ValueError("is no regular file, or too large")
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file)
        columns = {name: [_number(row[place]) for row in rows] for place, name in enumerate(names)}
        if any(len(row) != len(names) for row in rows):
            raise ValueError("has lines of different lengths")
    except FileNotFoundError:
        raise _missing(path, "train") from None
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise _refusal(path, "train", f"it cannot be read ({reason_of(error)})") from None
    lacking = [name for name in ("step", "loss", "learning_rate") if name not in columns]
    if lacking or len(columns) < len(names) or not rows:
        raise _refusal(
            path, "train", f"it has no column {lacking[0]}" if lacking else "it has no steps, or names twice"
        )
    if columns["step"] != [float(step) for step in range(1, len(rows) + 1)]:
        raise _refusal(path, "train", "its steps are not 1, 2, 3, …")
    return columns


def read_routing(path: Path) -> dict[str, Any]:
    """Reads `routing.json`. Raises DataError."""
    return check_routing(_read(path, "analyze"), path)


def check_routing(routing: Any, path: Path) -> dict[str, Any]:
    """Returns `routing` if it is what `routing.json` holds; raises DataError, which names `path`."""
    _check(_ROUTING, routing, path, "analyze")
    num_experts = len(routing["expert_utilization"] or ())
    diversity = routing["expert_diversity"] or []
    if len(diversity) != num_experts or any(len(row) != num_experts for row in diversity):
        raise _refusal(path, "analyze", f"expert_diversity is not of {num_experts} experts")
    if num_experts and (routing["mean_entropy"] is None or routing["pattern"] is None):
        raise _refusal(path, "analyze", "mean_entropy or pattern is null, but there are experts")
    return routing


def read_determinism(path: Path) -> dict[str, Any]:
    """Reads `determinism.json`. Raises DataError."""
    return _check(_DETERMINISM, _read(path, "verify"), path, "verify")


def read_data_report(path: Path) -> dict[str, Any]:
    """Reads `data.json`. Raises DataError."""
    return _check(_DATA, _read(path, "chunk"), path, "chunk")


def read_pretraining(path: Path) -> dict[str, Any]:
    """Reads `pretraining.json`, which lies beside an encoder. Raises DataError."""
    return _read_of_command(_PRETRAINING, path, "pretrain")


def read_conversion(path: Path) -> dict[str, Any]:
    """Reads `conversion.json`, which lies beside a converted encoder. Raises DataError."""
    return _read_of_command(_CONVERSION, path, "convert")


def _read_of_command(schema: TypeAdapter[Any], path: Path, command: str) -> dict[str, Any]:
    try:
        return _check(schema, read_json(path), path, command)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)}); name a folder of gmmxlnet {command}") from None


def _read(path: Path, stage: str) -> Any:
    try:
        return read_json(path, most=MOST_BYTES)
    except FileNotFoundError:
        raise _missing(path, stage) from None
    except (OSError, ValueError) as error:
        raise _refusal(path, stage, f"it cannot be read ({reason_of(error)})") from None


def _check(schema: TypeAdapter[Any], value: Any, path: Path, stage: str) -> Any:
    """Returns the value itself, since a schema drops what it does not name."""
    try:
        schema.validate_python(value, strict=True)
    except ValidationError as error:
        raise _refusal(path, stage, first_fault(error)) from None
    return value


def first_fault(error: ValidationError) -> str:
    """Where a value first differs from its schema, and how."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part)[:LONGEST_SHOWN] for part in fault["loc"]) or "the whole"
    return f"{place}: {fault['msg']}"


def _missing(path: Path, stage: str) -> DataError:
    return DataError(f"{path}: there is no such file; run the {stage} stage first: dvc repro {stage}")


def _refusal(path: Path, stage: str, reason: str) -> DataError:
    command = f"gmmxlnet {stage}" if stage in ("pretrain", "convert") else f"dvc repro --force {stage}"
    return DataError(f"{path}: is not what {stage} wrote: {reason}; make it again: {command}")


def _stands(text: str, start: int, end: int | None, words: str) -> bool:
    return end is not None and text[start:end] == words and start <= end <= len(text)


def _number(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value) or "_" in cell:
        raise ValueError(f"holds {cell[:LONGEST_SHOWN]!r} in place of a number")
    return value

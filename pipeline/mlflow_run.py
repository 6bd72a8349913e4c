"""`Run`: an MLflow run that never ends a stage. What the store does not take is kept and tried again.

Numbers and tags go to the tracking store, files to the artifact store; each may fail without the other. After a failure
the next attempt waits, so that a store that is away costs a training at most a twentieth of its time. What is still
missing when the stage ends is kept in `.mlflow-unsent/` (`pipeline/unsent.py`), and `make track` sends it.
"""

import hashlib
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    RunData,
    RunTag,
)
from mlflow.exceptions import RestException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_MODEL_IS_EXTERNAL, MLFLOW_RUN_NOTE

from gmmxlnet.data.dataset_names import held_by, load_settings
from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import GMMXLNetError, reason_of
from gmmxlnet.messages import say, without_credentials
from gmmxlnet.models.checkpoint import shared_files
from gmmxlnet.utils.files import read_json
from pipeline.experiment import Experiment, model_hash
from pipeline.places import find_local
from pipeline.run_description import describe_run
from pipeline.unsent import Unsent

MODEL_TAG = "model_sha256"  # of the weights' fingerprint: other code makes another model of the same parameters
# MLflow's pages sort metrics and their groups by name, those without a group first, capitals before small letters.
FIRST_METRICS = {"dev/exact_match": "EM", "dev/f1": "F1", "train/loss": "loss"}
DIGEST_CHARACTERS = 8  # as many as MLflow's own digests have; its pages show them whole
METRICS_A_BATCH = 500  # MLflow takes at most 1,000
MOST_WAITING = 100_000  # metrics kept in memory (30 MB) while a store is away; the oldest give way
LONGEST_PART = 60  # characters of a question type in a metric's name
SHORTEST_PAUSE = 10.0  # seconds between a failure and the next attempt
PAUSE_FACTOR = 20.0  # and this times as long as the failed attempt took
NUMBERS, FILES = "numbers", "files"  # the two stores
REQUEST_SECONDS, FILE_SECONDS = "20", "120"  # a server answers a file when it is in the artifact store
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"

# MLflow would try for minutes, and a request that is repeated blindly can make a second run: Run looks first and then
# tries again. A person's own settings win.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault(TIMEOUT, REQUEST_SECONDS)
for noisy in ("mlflow", "alembic", "databricks"):  # their errors, of many lines, come as exceptions too
    logging.getLogger(noisy).setLevel(logging.CRITICAL)


@dataclass
class Opened:
    """A run that the store has, and what it knew of it when it was opened.

    Args:
        latest: the last value of each metric.
        steps: the steps of each metric that are not to be logged again.
    """

    client: MlflowClient
    run_id: str
    mlflow_experiment: str
    latest: dict[str, float] = field(default_factory=dict)
    steps: dict[str, set[int]] = field(default_factory=dict)


Action = Callable[[Opened], object]


class Run:
    """An MLflow run, or nothing at all.

    Args:
        open_store: connects, and finds or makes the run; called again after it has failed. None: log nothing.
        unsent: where to keep what is missing at the end; None for runs that are made anew from files.
        remedy: the command that sends what is missing.
        resumes: whether the run may have steps of a training that goes on.
    """

    def __init__(
        self,
        open_store: Callable[[], Opened] | None,
        unsent: Unsent | None = None,
        remedy: str = "make track",
        resumes: bool = False,
    ) -> None:
        self.num_sent = {NUMBERS: 0, FILES: 0}
        self.failure: str | None = None  # what was said
        self._open_store, self._unsent, self._remedy, self._resumes = open_store, unsent, remedy, resumes
        self._opened: Opened | None = None
        self._waiting: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._actions: dict[str, list[Action]] = {NUMBERS: [], FILES: []}
        self._refused: list[Action] = []
        self._paused_until = {NUMBERS: 0.0, FILES: 0.0}
        self._status: str | None = None
        self._gave_up_some = False
        self._attempt(NUMBERS)

    @property
    def run_id(self) -> str:
        """MLflow's id; empty as long as the store cannot be reached."""
        return self._opened.run_id if self._opened else ""

    @property
    def is_complete(self) -> bool:
        """Whether the store has all that was logged."""
        waits = self._waiting or self._tags or self._status or any(self._actions.values())
        return not (waits or self._refused or self._gave_up_some)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep finite numbers for the next batch (`flush`); others, and what the run has already, are left out."""
        if self._open_store is None:
            return
        now = int(time.time() * 1000)
        first = {short: values[name] for name, short in FIRST_METRICS.items() if name in values}
        for name, value in (first | dict(values)).items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._waiting.append(Metric(_allowed(name), float(value), now, step))
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[:-MOST_WAITING]
            self._gave_up_some = True
        if len(self._waiting) >= METRICS_A_BATCH:
            self.flush()

    def log_report(self, path: str | Path, prefix: str) -> None:
        """Log a JSON report: its numbers as metrics (`dev/by_segments/2/f1`), the file as an artifact."""
        values = read_json(path)
        self.log_metrics(dict(_numbers(values, prefix)))
        self.log_file(path, "reports")

    def log_file(self, path: str | Path, folder: str) -> None:
        """Copy one file into the artifact folder `folder`."""
        self._do(FILES, lambda run: run.client.log_artifact(run.run_id, str(path), folder))

    def log_results(self, metrics: str | Path, experiment: Experiment) -> None:
        """Log `reports/metrics.json`, and say in the run's description what it came to."""
        self.log_report(metrics, "dev")
        words = describe_run(experiment, read_json(metrics))
        self.set_tags({MLFLOW_RUN_NOTE: words})

    def log_model(self, path: str | Path, name: str) -> None:
        """Copy a checkpoint's own files, ready for `from_pretrained`; mark the run as the one that made these weights.

        The run's list of models names it too, as one whose files lie elsewhere: large files are not kept twice.
        """
        weights = model_hash(Path(path))
        if self._unsent is not None:
            self._unsent.model = weights
        self.set_tags({MODEL_TAG: weights})
        for inside, file in shared_files(Path(path))[0].items():
            self.log_file(file, Path("model", inside).parent.as_posix())
        tags = {MODEL_TAG: weights, MLFLOW_MODEL_IS_EXTERNAL: "true", "checkpoint": "model/ of the source run"}

        def name_it(run: Opened) -> None:
            outputs = run.client.get_run(run.run_id).outputs
            if outputs is not None and outputs.model_outputs:
                return
            model = run.client.create_logged_model(
                run.mlflow_experiment, name, run.run_id, tags, model_type="GMMXLNetForQA"
            )
            run.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
            run.client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])

        self._do(NUMBERS, name_it)

    def log_dataset(self, experiment: Experiment, documents: Documents) -> None:
        """Name the data that a run trains on, with the hash of its chunks and its size."""
        held = text_of(held_by(experiment.dataset, "train"))
        settings = load_settings(experiment.dataset)
        is_here = Path(find_local(held)).exists()
        profile = {"documents": len(documents), "segments": int(documents.num_segments().sum())}
        dataset = Dataset(
            name=Path(held).name,
            digest=experiment.data[:DIGEST_CHARACTERS],
            source_type="code" if settings else "local" if is_here else "hugging_face",
            source=json.dumps({"tags": dict(settings)} if settings else {"uri": held, "path": held}),
            profile=json.dumps(profile),
        )
        named = DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])

        def name_it(run: Opened) -> None:
            inputs = run.client.get_run(run.run_id).inputs
            if inputs is None or not inputs.dataset_inputs:
                run.client.log_inputs(run.run_id, [named])

        self._do(NUMBERS, name_it)

    def log_folder(self, path: str | Path, folder: str) -> None:
        """Copy all files of a folder (plots) into the artifact folder `folder`."""
        self._do(FILES, lambda run: run.client.log_artifacts(run.run_id, str(path), folder))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; empty ones are left out."""
        if self._open_store is not None:
            self._tags |= {key: value for key, value in tags.items() if value}
            self._attempt(NUMBERS)

    def rename(self, name: str) -> None:
        """Change the name under which the run is listed."""
        self._do(NUMBERS, lambda run: run.client.update_run(run.run_id, name=name))

    def read(self) -> RunData | None:
        """What the store knows of the run by now; None when there is no store."""
        found: list[RunData] = []
        self._do(NUMBERS, lambda run: found.append(run.client.get_run(run.run_id).data))
        return found[0] if found else None

    def artifact_sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file below an artifact folder, by its path; empty when there is no store."""
        sizes: dict[str, int] = {}

        def add(run: Opened, inside: str) -> None:
            for file in run.client.list_artifacts(run.run_id, inside):
                if file.is_dir:
                    add(run, file.path)
                else:
                    sizes[file.path] = file.file_size or 0

        self._do(FILES, lambda run: add(run, folder))
        return sizes

    def restore(self, kept: Unsent) -> None:
        """Log what an earlier process could not, with its times."""
        self._waiting += kept.metrics
        self.set_tags(kept.tags)

    def flush(self) -> None:
        """Sends buffered metrics."""
        self._attempt(NUMBERS)

    def close(self, status: str) -> None:
        """Sends all that waits, marks the run FINISHED, FAILED or KILLED, and keeps what could not be sent."""
        if self._open_store is None:
            return
        self._status = status
        self._attempt(NUMBERS, at_once=True)
        self._attempt(FILES, at_once=self._opened is not None)
        if self.is_complete:
            if self.failure is not None:
                say("MLflow works again: what was missed of this run is logged", file=sys.stderr)
        elif self._unsent is not None and (self._waiting or self._tags or self._status or self._actions[NUMBERS]):
            try:
                self._unsent.keep(self._waiting, self._tags)
            except (OSError, GMMXLNetError) as error:
                say(f"warning: what MLflow did not take cannot be kept: {reason_of(error)}", file=sys.stderr)

    def _do(self, store: str, action: Action) -> None:
        if self._open_store is not None:
            self._actions[store].append(action)
            self._attempt(store)

    def _attempt(self, store: str, at_once: bool = False) -> None:
        """Send what waits for a store, unless it failed a short while ago."""
        if self._open_store is None or (time.monotonic() < self._paused_until[store] and not at_once):
            return
        begin = time.monotonic()
        try:
            if self._opened is None:
                self._opened = self._open_store()
            with _patience(store):
                self._send(store, self._opened)
        except Exception as error:  # of MLflow, its database, its server or a plugin: no training ends for its records
            now = time.monotonic()
            for failed in (store,) if self._opened else (NUMBERS, FILES):
                self._paused_until[failed] = now + max(SHORTEST_PAUSE, PAUSE_FACTOR * (now - begin))
            self._warn(error)

    def _send(self, store: str, run: Opened) -> None:
        if store == NUMBERS:
            self._send_numbers(run)
        actions = self._actions[store]
        while actions:
            try:
                actions[0](run)
                self.num_sent[store] += 1
            except Exception as error:
                if not _is_refusal(error):
                    raise
                self._refused.append(actions[0])
                self._warn(error)
            del actions[0]
        if store == NUMBERS and self._status is not None:
            run.client.set_terminated(run.run_id, self._status)
            self._status = None

    def _send_numbers(self, run: Opened) -> None:
        """Metrics and tags, in batches; a batch leaves memory when the store has it."""
        self._skip_known(run)
        while self._waiting:
            batch = self._waiting[:METRICS_A_BATCH]
            run.client.log_batch(run.run_id, metrics=batch)
            del self._waiting[: len(batch)]
            self.num_sent[NUMBERS] += len(batch)
        if self._tags:
            run.client.log_batch(run.run_id, tags=tags_of(self._tags))
            self._tags = {}

    def _skip_known(self, run: Opened) -> None:
        """Forget metrics that the run has: a training that goes on repeats the steps after its checkpoint."""
        if self._resumes:
            for name in {metric.key for metric in self._waiting if metric.step} - set(run.steps):
                known = name in run.latest
                run.steps[name] = (
                    {metric.step for metric in run.client.get_metric_history(run.run_id, name)} if known else set()
                )
        self._waiting = [metric for metric in self._waiting if not _is_known(metric, run)]

    def _warn(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = reason_of(error)
            say(
                f"warning: MLflow failed and this run goes on without it: {self.failure}; "
                f"{self._remedy} sends what is missing",
                file=sys.stderr,
            )


def _is_known(metric: Metric, run: Opened) -> bool:
    """Of a training's step, whether it was logged; of a report's number, whether it has this value already."""
    if metric.step:
        return metric.step in run.steps.get(metric.key, ())
    return metric.key in run.latest and run.latest[metric.key] == metric.value


def _is_refusal(error: Exception) -> bool:
    """Whether the store answered and will always answer so, as one of an older version does to a call it lacks."""
    if isinstance(error, RestException):
        return error.get_http_status_code() < 500
    status = getattr(getattr(error, "response", None), "status_code", None)  # of requests.HTTPError
    return status is not None and status < 500


@contextmanager
def _patience(store: str) -> Iterator[None]:
    """More time for a file, which a server passes on before it answers, unless a person has set it."""
    if store == NUMBERS or os.environ[TIMEOUT] != REQUEST_SECONDS:
        yield
        return
    os.environ[TIMEOUT] = FILE_SECONDS
    try:
        yield
    finally:
        os.environ[TIMEOUT] = REQUEST_SECONDS


def _numbers(values: Any, name: str) -> Iterator[tuple[str, float]]:
    """All numbers in nested mappings and lists, named by the way to them: `zeroed/f1`, `f1_interval/low`."""
    if isinstance(values, bool | int | float):
        yield name, float(values)
    elif isinstance(values, dict | list):
        ends = ("low", "high") if name.endswith("_interval") else range(len(values))
        for key, value in values.items() if isinstance(values, dict) else zip(ends, values, strict=True):
            yield from _numbers(value, f"{name}/{_part(key)}" if name else _part(key))


def _part(key: object) -> str:
    """A key as a part of a metric's name: MLflow refuses `//`, `.` and `..` as parts, and names of over 250 characters.

    What had to be changed ends in a hash, so that no two keys become one.
    """
    text = str(key)
    part = re.sub(r"[^\w\-. ]", "_", text)[:LONGEST_PART]
    if part == text and part.strip(". "):
        return part
    return f"{part.strip('. ') or 'name'}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _allowed(name: str) -> str:
    """MLflow's names know letters, digits and a few signs."""
    return re.sub(r"[^\w\-. /]", "_", name)


def text_of(value: Any) -> str:
    """A parameter's or a tag's value as MLflow keeps it."""
    return without_credentials(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def tags_of(values: Mapping[str, str]) -> list[RunTag]:
    """Tags with a value."""
    return [RunTag(key, text_of(value)) for key, value in values.items() if value]

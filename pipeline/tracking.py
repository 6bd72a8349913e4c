"""MLflow: one run per experiment; tracking failures never fail a stage.

    with start_run(experiment, training_key) as run:            # the train stage
        trainer.add_callback(MLflowCallback(run)); …
        run.log_folder("models/gmm", "model")
    with experiment_run("models/gmm") as run:                   # later stages: the same run, found by its key
        run.log_report("reports/metrics.json")

The store is MLFLOW_TRACKING_URI, else `mlflow.db` in the main repository with `mlartifacts/` beside it. When it cannot
be reached or fails, the stage says so once, on one line, and goes on without it. Runs are addressed by id through
MlflowClient, never through MLflow's global state, so an exported MLFLOW_RUN_ID cannot make two runs one.
"""

import hashlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunData,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER,
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME,
    MLFLOW_GIT_COMMIT,
    MLFLOW_MODEL_IS_EXTERNAL,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import reason_of
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.messages import say, without_credentials
from gmmxlnet.models.checkpoint import shared_files
from gmmxlnet.utils.files import read_json
from pipeline.experiment import Experiment, model_hash
from pipeline.places import find_local, main_root
from pipeline.run_description import UNITS, describe_run
from pipeline.run_names import title
from pipeline.store_check import check_store, locked, sqlite_file

MLFLOW_EXPERIMENT = "gmm-xlnet"  # all runs are compared under this one name
# MLflow's pages sort metrics and their groups by name, those without a group first, capitals before small letters.
FIRST_METRICS = {"dev/exact_match": "EM", "dev/f1": "F1", "train/loss": "loss"}
EXPERIMENT_TAGS = {  # what MLflow's pages show first
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME: "EM",
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER: "True",
    "mlflow.experimentKind": "custom_model_development",  # older MLflow chooses its pages by it, 3.17 by the address
    MLFLOW_RUN_NOTE: f"GMM-XLNet: one run a training; `make compare` lists those of a comparison below it. {UNITS}",
}
KEY_TAG = "experiment_key"
TRAINING_TAG = "training_key"  # of the experiment, its code, the libraries and the machine: decides the numbers
MODEL_TAG = "model_sha256"  # of the weights' fingerprint: other code makes another model of the same parameters
COMPARISON_TAG = "comparison"
SUMMARY = ("train_", "total_flos")  # what the Trainer says at its end; `cost/…` says it better
DIGEST_CHARACTERS = 8  # as many as MLflow's own digests have; its pages show them whole
METRICS_A_BATCH = 500  # MLflow takes at most 1,000
PARAMS_A_BATCH = 100
LONGEST_PART = 60  # characters of a question type in a metric's name
SQLITE_WAIT_SECONDS = 8  # for other processes that write to the same file

# MLflow would try for minutes; a person's own settings win.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
for noisy in ("mlflow", "alembic", "databricks"):  # their errors, of many lines, come as exceptions too
    logging.getLogger(noisy).setLevel(logging.CRITICAL)


class Run:
    """An MLflow run, or nothing at all once the store has failed."""

    def __init__(self, client: MlflowClient | None, run_id: str, mlflow_experiment: str = "") -> None:
        self.run_id = run_id
        self._mlflow_experiment = mlflow_experiment
        self._client = client
        self._waiting: list[Metric] = []
        self._logged: dict[str, int] = {}

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep finite numbers for the next batch (`flush`); others, and what `skip_logged` found, are left out."""
        now = int(time.time() * 1000)
        first = {short: values[name] for name, short in FIRST_METRICS.items() if name in values}
        for name, value in (first | dict(values)).items():
            new = step > self._logged.get(_allowed(name), -1)
            if new and isinstance(value, int | float) and math.isfinite(value):
                self._waiting.append(Metric(_allowed(name), float(value), now, step))
        if len(self._waiting) >= METRICS_A_BATCH:
            self.flush()

    def skip_logged(self) -> None:
        """Do not log again what the run has: a training that goes on repeats the steps after its checkpoint."""

        def last_steps(client: MlflowClient) -> None:
            for name in client.get_run(self.run_id).data.metrics:
                self._logged[name] = max(metric.step for metric in client.get_metric_history(self.run_id, name))

        self._try(last_steps)

    def log_report(self, path: str | Path, prefix: str) -> None:
        """Log a JSON report: its numbers as metrics (`dev/by_segments/2/f1`), the file as an artifact."""
        values = read_json(path)
        self.log_metrics(dict(_numbers(values, prefix)))
        self.log_file(path, "reports")

    def log_file(self, path: str | Path, folder: str) -> None:
        """Copy one file into the artifact folder `folder`."""
        self._try(lambda client: client.log_artifact(self.run_id, str(path), folder))

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
        self.set_tags({MODEL_TAG: weights})
        for inside, file in shared_files(Path(path))[0].items():
            self.log_file(file, Path("model", inside).parent.as_posix())
        tags = {MODEL_TAG: weights, MLFLOW_MODEL_IS_EXTERNAL: "true", "checkpoint": "model/ of the source run"}

        def name_it(client: MlflowClient) -> None:
            model = client.create_logged_model(
                self._mlflow_experiment, name, self.run_id, tags, model_type="GMMXLNetForQA"
            )
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
            client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

        self._try(name_it)

    def log_dataset(self, experiment: Experiment, documents: Documents) -> None:
        """Name the data that a run trains on, with the hash of its chunks and its size."""
        names = [
            _text(experiment.parameters[key]) for key in ("dataset", "dataset.train") if key in experiment.parameters
        ]
        profile = {"documents": len(documents), "segments": int(documents.num_segments().sum())}
        dataset = Dataset(
            name=Path(names[0]).name,
            digest=experiment.data[:DIGEST_CHARACTERS],
            source_type="local" if Path(find_local(names[0])).exists() else "hugging_face",
            source=json.dumps({"uri": names[0], "path": names[0]}),
            profile=json.dumps(profile),
        )
        named = DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])
        self._try(lambda client: client.log_inputs(self.run_id, [named]))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; empty ones are left out."""
        chosen = _tags(tags)
        self._try(lambda client: client.log_batch(self.run_id, tags=chosen))

    def rename(self, name: str) -> None:
        """Change the name under which the run is listed."""
        self._try(lambda client: client.update_run(self.run_id, name=name))

    def read(self) -> RunData | None:
        """What the store knows of the run by now; None when there is no store."""
        self.flush()
        found: list[RunData] = []
        self._try(lambda client: found.append(client.get_run(self.run_id).data))
        return found[0] if found else None

    def log_folder(self, path: str | Path, folder: str) -> None:
        """Copy all files of a folder (a checkpoint, plots) into the artifact folder `folder`."""
        self._try(lambda client: client.log_artifacts(self.run_id, str(path), folder))

    def flush(self) -> None:
        """Sends buffered metrics."""
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), METRICS_A_BATCH):
            batch = waiting[first : first + METRICS_A_BATCH]
            self._try(partial(MlflowClient.log_batch, run_id=self.run_id, metrics=batch))

    def close(self, status: str) -> None:
        """Sends buffered metrics and marks the run FINISHED, FAILED or KILLED."""
        self.flush()
        self._try(lambda client: client.set_terminated(self.run_id, status))

    def _try(self, action: Callable[[MlflowClient], object]) -> None:
        if self._client is None:
            return
        try:
            action(self._client)
        except Exception as error:  # of MLflow, its database or its server: no training ends for its records
            self._client = None
            _warn(error)


class MLflowCallback(TrainerCallback):
    """Logs the Trainer's metrics to a run, with their steps."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called before the first step; a training that goes on has a log by then, not all of which reached MLflow."""
        for logs in state.log_history:
            values = {name: value for name, value in logs.items() if name != "step"}
            self.on_log(args, state, control, values, step=int(logs["step"]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        *,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Called by the Trainer whenever it logs, in every process; one of them tells MLflow."""
        if state.is_world_process_zero and logs:
            named = {f"train/{name}": value for name, value in logs.items() if not name.startswith(SUMMARY)}
            self.run.log_metrics(named, step=state.global_step if step is None else step)


@contextmanager
def no_run() -> Iterator[Run]:
    """For processes beside the main one, which alone logs."""
    yield Run(None, "")


@contextmanager
def start_run(experiment: Experiment, training_key: str) -> Iterator[Run]:
    """The run of a training: a new one, or the one that the same training began and did not finish."""

    def choose(client: MlflowClient, mlflow_experiment: str) -> str:
        unfinished = f" and attributes.status != 'FINISHED' and tags.{TRAINING_TAG} = '{training_key}'"
        found = _find(client, mlflow_experiment, experiment.key, unfinished)
        return found or _create(client, mlflow_experiment, experiment, {TRAINING_TAG: training_key})

    with _closed_well(_open(choose)) as run:
        run.skip_logged()
        yield run


@contextmanager
def experiment_run(model_folder: str | Path) -> Iterator[Run]:
    """The run of the training that made a model; a new one if that training came from DVC's cache, unrun here."""
    with _closed_well(find_run(model_folder)) as run:
        yield run


def find_run(model_folder: str | Path) -> Run:
    """As `experiment_run`, to read or correct a run: its status does not change."""
    experiment, weights = Experiment.read(Path(model_folder)), model_hash(Path(model_folder))

    def choose(client: MlflowClient, mlflow_experiment: str) -> str:
        found = _find(client, mlflow_experiment, experiment.key, f" and tags.{MODEL_TAG} = '{weights}'")
        return found or _create(client, mlflow_experiment, experiment, {MODEL_TAG: weights})

    return _open(choose)


def comparison_run(name: str) -> Run:
    """The run under which a comparison's experiments are listed; made once, which also makes a new store's tables."""

    def choose(client: MlflowClient, mlflow_experiment: str) -> str:
        kind = f"tags.{COMPARISON_TAG} = '{name}' and tags.kind = 'comparison'"
        found = client.search_runs([mlflow_experiment], kind, ViewType.ACTIVE_ONLY, max_results=1)
        if found:
            return found[0].info.run_id
        tags = {COMPARISON_TAG: name, "kind": "comparison", MLFLOW_GIT_COMMIT: _git_commit()}
        return client.create_run(mlflow_experiment, run_name=f"comparison-{name}", tags=tags).info.run_id

    return _open(choose)


def _open(choose: Callable[[MlflowClient, str], str]) -> Run:
    """Connect, find or make the MLflow experiment, and let `choose` name the run in it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{main_root() / 'mlflow.db'}"
    try:
        with _prepared(uri) as (address, artifacts):
            client = MlflowClient(tracking_uri=address, registry_uri=address)
            mlflow_experiment = _mlflow_experiment(client, artifacts)
            return Run(client, choose(client, mlflow_experiment), mlflow_experiment)
    except Exception as error:  # a store is named by a person, and MLflow's plugins raise what they like
        _warn(error)
        return Run(None, "")


@contextmanager
def _prepared(uri: str) -> Iterator[tuple[str, str | None]]:
    """Yield address and artifact location of a store that can be used; a file is locked for this process.

    Two processes that use a new sqlite file at once would both create its tables; the lock lets one go first.
    """
    check_store(uri)
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        yield uri, None
    elif scheme == "sqlite":
        folder = sqlite_file(uri).parent
        with locked(folder):
            wait = "" if "?" in uri else f"?timeout={SQLITE_WAIT_SECONDS}"
            yield uri + wait, (folder / "mlartifacts").as_uri()
    else:
        yield uri, (main_root() / "mlartifacts").as_uri()


def _mlflow_experiment(client: MlflowClient, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(MLFLOW_EXPERIMENT)
    if found is not None:
        for name, value in EXPERIMENT_TAGS.items():  # of a store that an earlier version made
            if name not in found.tags:
                client.set_experiment_tag(found.experiment_id, name, value)
        return found.experiment_id
    try:
        return client.create_experiment(MLFLOW_EXPERIMENT, artifacts, EXPERIMENT_TAGS)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        return _mlflow_experiment(client, artifacts)  # another process was faster


def _find(client: MlflowClient, mlflow_experiment: str, key: str, further: str = "") -> str | None:
    """The newest run with this key, if there is one."""
    found = client.search_runs(
        [mlflow_experiment],
        f"tags.{KEY_TAG} = '{key}'{further}",
        ViewType.ACTIVE_ONLY,
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0].info.run_id if found else None


def _create(client: MlflowClient, mlflow_experiment: str, experiment: Experiment, further: Mapping[str, str]) -> str:
    names = ("profile", "memory_type", "num_memory_experts", "routing_mode", "seed")
    unused = () if KINDS[experiment.parameters["memory_type"]].routes else ("num_memory_experts", "routing_mode")
    tags = {
        MLFLOW_RUN_NOTE: describe_run(experiment, {}),
        MLFLOW_GIT_COMMIT: _git_commit(),
        MLFLOW_SOURCE_NAME: "pipeline/train.py",
        MLFLOW_SOURCE_TYPE: "LOCAL",
        KEY_TAG: experiment.key,
        "kind": "experiment",
        "dvc_exp_name": os.environ.get("DVC_EXP_NAME", ""),
        **{name: _text(experiment.parameters[name]) for name in names if name not in unused},
        **further,
    }
    run_id = client.create_run(mlflow_experiment, run_name=title(experiment)).info.run_id
    parameters = [Param(key, _text(value)) for key, value in experiment.parameters.items()]
    for first in range(0, len(parameters), PARAMS_A_BATCH):
        client.log_batch(run_id, params=parameters[first : first + PARAMS_A_BATCH])
    client.log_batch(run_id, tags=_tags(tags))
    return run_id


@contextmanager
def _closed_well(run: Run) -> Iterator[Run]:
    """Close the run with the status that the stage ends with."""
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.close(status)


def _git_commit() -> str:
    """The commit checked out here; empty outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


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


def _text(value: Any) -> str:
    return without_credentials(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _tags(values: Mapping[str, str]) -> list[RunTag]:
    """Tags with a value."""
    return [RunTag(key, _text(value)) for key, value in values.items() if value]


def _warn(error: Exception) -> None:
    reason = reason_of(error)
    say(f"warning: MLflow failed and this run goes on without it: {reason}", file=sys.stderr)

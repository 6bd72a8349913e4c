"""MLflow: one run per experiment; tracking failures never fail a stage.

    with start_run(experiment, training_key) as run:            # the train stage
        trainer.add_callback(MLflowCallback(run)); …
        run.log_folder("models/gmm", "model")
    with experiment_run("models/gmm") as run:                   # later stages: the same run, found by its key
        run.log_report("reports/metrics.json")

The store is MLFLOW_TRACKING_URI, else `mlflow.db` in the main repository with `mlartifacts/` beside it. When it cannot
be reached or fails, the stage says so once, on one line, and goes on; what it missed is sent when the store works
again, or by `make track`. Runs are addressed by id through MlflowClient, never through MLflow's global state, so an
exported MLFLOW_RUN_ID cannot make two runs one.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Param, ViewType
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import (
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER,
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME,
    MLFLOW_GIT_COMMIT,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gmmxlnet.memory_kinds import KINDS
from pipeline.experiment import Experiment, model_hash
from pipeline.git import git_commit
from pipeline.mlflow_run import MODEL_TAG, Opened, Run, tags_of, text_of
from pipeline.places import main_root
from pipeline.run_description import UNITS, describe_run
from pipeline.run_names import title
from pipeline.store_check import check_store, locked, sqlite_file
from pipeline.unsent import Unsent

MLFLOW_EXPERIMENT = "gmm-xlnet"  # all runs are compared under this one name
EXPERIMENT_TAGS = {  # what MLflow's pages show first
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME: "EM",
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER: "True",
    "mlflow.experimentKind": "custom_model_development",  # older MLflow chooses its pages by it, 3.17 by the address
    MLFLOW_RUN_NOTE: f"GMM-XLNet: one run a training; `make compare` lists those of a comparison below it. {UNITS}",
}
KEY_TAG = "experiment_key"
TRAINING_TAG = "training_key"  # of the experiment, its code, the libraries and the machine: decides the numbers
COMPARISON_TAG = "comparison"
SUMMARY = "train_runtime"  # is in what the Trainer says at its end, the last epoch once more; `cost/…` says it better
PARAMS_A_BATCH = 100
SQLITE_WAIT_SECONDS = 8  # for other processes that write to the same file


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
        if state.is_world_process_zero and logs and SUMMARY not in logs:
            named = {f"train/{name}": value for name, value in logs.items()}
            self.run.log_metrics(named, step=state.global_step if step is None else step)


@contextmanager
def no_run() -> Iterator[Run]:
    """For processes beside the main one, which alone logs."""
    yield Run(None)


@contextmanager
def start_run(experiment: Experiment, training_key: str) -> Iterator[Run]:
    """The run of a training: a new one, or the one that the same training began and did not finish."""

    def choose(client: MlflowClient, mlflow_experiment: str) -> StoredRun:
        unfinished = f" and attributes.status != 'FINISHED' and tags.{TRAINING_TAG} = '{training_key}'"
        found = _find(client, mlflow_experiment, experiment.key, unfinished)
        return found or _create(client, mlflow_experiment, experiment, {TRAINING_TAG: training_key})

    unsent = Unsent(experiment, training_key)
    with _closed_well(Run(_opener(choose, experiment), unsent, resumes=True)) as run:
        yield run


@contextmanager
def experiment_run(model_folder: str | Path) -> Iterator[Run]:
    """The run of the training that made a model; a new one if that training came from DVC's cache, unrun here."""
    with _closed_well(find_run(model_folder)) as run:
        yield run


def find_run(model_folder: str | Path) -> Run:
    """As `experiment_run`, to read or correct a run: its status does not change."""
    experiment, weights = Experiment.read(Path(model_folder)), model_hash(Path(model_folder))
    return run_of(experiment, weights)


def run_of(experiment: Experiment, weights: str) -> Run:
    """The run of these weights, for numbers that it may have in part."""
    unsent = Unsent(experiment, model=weights)

    def choose(client: MlflowClient, mlflow_experiment: str) -> StoredRun:
        found = _find(client, mlflow_experiment, experiment.key, f" and tags.{MODEL_TAG} = '{weights}'")
        if found is not None:
            return found
        training_key = Unsent.of_model(experiment, weights).training_key
        if training_key:  # the store went away before it was told of the weights
            began = _find(client, mlflow_experiment, experiment.key, f" and tags.{TRAINING_TAG} = '{training_key}'")
            if began is not None and MODEL_TAG not in began.data.tags:
                client.set_tag(began.info.run_id, MODEL_TAG, weights)
                return began
        known = {MODEL_TAG: weights, TRAINING_TAG: training_key}
        return _create(client, mlflow_experiment, experiment, known)

    return Run(_opener(choose, experiment), unsent, resumes=True)


def comparison_run(name: str) -> Run:
    """The run under which a comparison's experiments are listed; made once, which also makes a new store's tables."""

    def choose(client: MlflowClient, mlflow_experiment: str) -> StoredRun:
        kind = f"tags.{COMPARISON_TAG} = '{name}' and tags.kind = 'comparison'"
        found = client.search_runs([mlflow_experiment], kind, ViewType.ACTIVE_ONLY, max_results=1)
        if found:
            return found[0]
        tags = {COMPARISON_TAG: name, "kind": "comparison", MLFLOW_GIT_COMMIT: git_commit()}
        return client.create_run(mlflow_experiment, run_name=f"comparison-{name}", tags=tags)

    return Run(_opener(choose, None), remedy="make compare, run again,")


def _opener(choose: Callable[[MlflowClient, str], StoredRun], experiment: Experiment | None) -> Callable[[], Opened]:
    """A function that connects, finds or makes the MLflow experiment, and lets `choose` name the run in it."""

    def open_store() -> Opened:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{main_root() / 'mlflow.db'}"
        with _prepared(uri) as (address, artifacts):
            client = MlflowClient(tracking_uri=address, registry_uri=address)
            mlflow_experiment = _mlflow_experiment(client, artifacts)
            run = choose(client, mlflow_experiment)
            if experiment is not None:
                _log_parameters(client, run, experiment)
            return Opened(client, run.info.run_id, mlflow_experiment, dict(run.data.metrics))

    return open_store


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


def _find(client: MlflowClient, mlflow_experiment: str, key: str, further: str = "") -> StoredRun | None:
    """The newest run with this key, if there is one."""
    found = client.search_runs(
        [mlflow_experiment],
        f"tags.{KEY_TAG} = '{key}'{further}",
        ViewType.ACTIVE_ONLY,
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0] if found else None


def _create(
    client: MlflowClient, mlflow_experiment: str, experiment: Experiment, further: Mapping[str, str]
) -> StoredRun:
    """A run with all its tags from the first, so that it is found again if the store fails right after."""
    names = ("profile", "memory_type", "num_memory_experts", "routing_mode", "seed")
    unused = () if KINDS[experiment.parameters["memory_type"]].routes else ("num_memory_experts", "routing_mode")
    tags = {
        MLFLOW_RUN_NOTE: describe_run(experiment, {}),
        MLFLOW_GIT_COMMIT: git_commit(),
        MLFLOW_SOURCE_NAME: "pipeline/train.py",
        MLFLOW_SOURCE_TYPE: "LOCAL",
        KEY_TAG: experiment.key,
        "kind": "experiment",
        "dvc_exp_name": os.environ.get("DVC_EXP_NAME", ""),
        **{name: text_of(experiment.parameters[name]) for name in names if name not in unused},
        **further,
    }
    allowed: dict[str, Any] = {tag.key: tag.value for tag in tags_of(tags)}
    return client.create_run(mlflow_experiment, run_name=title(experiment), tags=allowed)


def _log_parameters(client: MlflowClient, run: StoredRun, experiment: Experiment) -> None:
    """Log the parameters that a run lacks: all of a new one, the rest of one that the store failed on."""
    missing = [Param(key, text_of(value)) for key, value in experiment.parameters.items() if key not in run.data.params]
    for first in range(0, len(missing), PARAMS_A_BATCH):
        client.log_batch(run.info.run_id, params=missing[first : first + PARAMS_A_BATCH])


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

"""`make track`: sends MLflow what it missed of finished trainings, once it works again.

    python -m pipeline.track        # what stages kept in .mlflow-unsent/, then the results in this workspace

It may be run at any time and any number of times: numbers that a run has are not logged again, and files replace
themselves. For an experiment from the queue or from another machine, `dvc exp apply NAME` first.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.messages import say
from gmmxlnet.models.checkpoint import shared_files
from gmmxlnet.reports import read_training
from gmmxlnet.training import TrainingConfig
from pipeline.commands import command
from pipeline.experiment import FILE_NAME, Experiment, folder_hash
from pipeline.mlflow_run import FILES, NUMBERS, Run
from pipeline.places import CHUNKS, METRICS, MODEL, PAGE, PLOTS, REPORTS, ROUTING, TRAINING_CSV
from pipeline.stage import run_stage
from pipeline.tracking import find_run, run_of
from pipeline.unsent import Unsent

MADE = (MODEL, CHUNKS, REPORTS)  # by stages


def send_kept(kept: Unsent) -> Run:
    """Send numbers and tags that a stage could not log."""
    run = run_of(kept.experiment, kept.model)
    run.restore(kept)
    _finish(run)
    kept.file.unlink()
    return run


def send_workspace() -> Run:
    """Send what the run of the model in this workspace lacks, from the files that the stages wrote."""
    experiment, run = Experiment.read(MODEL), find_run(MODEL)
    if CHUNKS.is_dir() and folder_hash(CHUNKS) == experiment.data:
        run.log_dataset(experiment, Documents.open(CHUNKS, "train"))
    if TRAINING_CSV.exists():
        for step, values in logged_means(TRAINING_CSV):
            run.log_metrics(values, step)
        run.log_file(TRAINING_CSV, "reports")
    sizes = run.artifact_sizes("model")
    files = shared_files(MODEL)[0]
    if any(sizes.get(f"model/{inside}") != file.stat().st_size for inside, file in files.items()):
        run.log_model(MODEL, experiment.name)
    outdated = outdated_stages()
    if METRICS.exists() and "evaluate" not in outdated:
        run.log_results(METRICS, experiment)
    if PAGE.exists() and not {"evaluate", "analyze"} & outdated:
        run.log_report(ROUTING, "routing")
        run.log_folder(PLOTS, PLOTS.as_posix())
        run.log_file(PAGE, "reports")
    for stage in sorted(outdated):
        say(f"track: {stage} has not run since what it reads changed; its results are not sent (dvc repro)")
    _finish(run)
    return run


def logged_means(table: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The numbers of `reports/training.csv` as a training logs them: means over every `logging_steps` steps."""
    columns = {name: np.asarray(values, dtype=float) for name, values in read_training(table).items()}
    steps, every = columns.pop("step").astype(int), TrainingConfig.logging_steps
    for last in range(every, len(steps) + 1, every):
        yield (
            int(steps[last - 1]),
            {f"train/{name}": float(values[last - every : last].mean()) for name, values in columns.items()},
        )


def outdated_stages() -> set[str]:
    """Those of evaluate and analyze whose results in the workspace are of another model, by DVC's lock."""
    if not Path("dvc.lock").exists():  # the stages were run by hand
        return set()
    status = json.loads(command("dvc", "status", "--json", "evaluate", "analyze"))
    made = tuple(path.as_posix() for path in MADE)
    return {
        stage
        for stage, changes in status.items()
        for change in changes
        if isinstance(change, dict) and any(path.startswith(made) for paths in change.values() for path in paths)
    } & {"evaluate", "analyze"}


def _finish(run: Run) -> None:
    run.close("FINISHED")
    if run.failure is not None:
        raise GMMXLNetError(f"MLflow failed: {run.failure}; nothing is lost: run make track again when it works")


def main() -> None:
    """Send all there is."""
    runs = [send_kept(kept) for kept in Unsent.all()]
    if (MODEL / FILE_NAME).exists():
        runs.append(send_workspace())
    numbers, files = (sum(run.num_sent[store] for run in runs) for store in (NUMBERS, FILES))
    say(f"track: {len(runs)} runs are complete; sent {numbers:,} numbers and requests, {files:,} files and folders")


if __name__ == "__main__":
    run_stage(main)

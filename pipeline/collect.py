"""A finished experiment's result: scores and routing from its commit, cost from its MLflow run.

What MLflow lacks (a stage that DVC restored from its cache did not run, so it told nothing) is logged here.
"""

import tempfile
from pathlib import Path

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from mlflow.entities import RunData
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from gmmxlnet.comparison import Result
from gmmxlnet.errors import CheckpointError
from gmmxlnet.reports import read_metrics, read_routing
from gmmxlnet.verification import fingerprint
from pipeline import experiment
from pipeline.cost import count_parameters
from pipeline.finished import file_at
from pipeline.mlflow_run import Run
from pipeline.places import METRICS, MODEL, ROUTING
from pipeline.tracking import COMPARISON_TAG, find_run
from pipeline.variants import Planned

SMALL = (experiment.FILE_NAME, fingerprint.FILE_NAME)  # all that is needed to find the run


def collect(planned: Planned, revision: str, parent: Run, comparison: str, name: str) -> Result:
    """The result of `planned`, which is in `revision`; its run is listed as `name` below `parent` from now on."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder)
        fetch(revision, local / "model", SMALL)
        for path in (METRICS, ROUTING):
            (local / path.name).write_text(file_at(revision, path.as_posix()), encoding="utf-8")
        metrics, routing = read_metrics(local / METRICS.name), read_routing(local / ROUTING.name)
        run = find_run(local / "model")
        known = run.read()
        if known is not None:
            has_files = bool(run.artifact_sizes("model"))
            if known.metrics.get("dev/exact_match") != metrics["exact_match"] or not has_files:
                has_model = has_files and "cost/parameters" in known.metrics
                complete(run, planned, revision, local, has_model=has_model)
            parents = {MLFLOW_PARENT_RUN_ID: parent.run_id, COMPARISON_TAG: comparison, "dvc_exp_name": planned.name}
            run.set_tags(parents)
            run.rename(name)
        known = run.read()
    return Result(variant=planned.variant, seed=planned.seed, metrics=metrics, routing=routing, cost=cost_of(known))


def fetch(revision: str, folder: Path, names: tuple[str, ...] | None = None) -> None:
    """Copy a model's folder as it was in a revision, or only some of its files, out of DVC's cache."""
    folder.mkdir(parents=True, exist_ok=True)
    files = DVCFileSystem(rev=revision)
    try:
        for name in names or [Path(path).name for path in files.ls(MODEL.as_posix(), detail=False)]:
            files.get_file((MODEL / name).as_posix(), str(folder / name))
    except (DvcException, FileNotFoundError) as error:
        raise CheckpointError(
            f"{MODEL} of {revision[:12]} is not in DVC's cache ({error}); `dvc pull` or train anew"
        ) from None


def complete(run: Run, planned: Planned, revision: str, local: Path, *, has_model: bool) -> None:
    """Log what the run lacks of results and checkpoint."""
    if not has_model:
        fetch(revision, local / "model")
        run.log_metrics({"cost/parameters": count_parameters(local / "model")})
        run.log_model(local / "model", planned.variant)
    run.log_results(local / METRICS.name, experiment.Experiment.read(local / "model"))
    run.log_report(local / ROUTING.name, "routing")
    run.close("FINISHED")


def cost_of(known: RunData | None) -> dict[str, str | float]:
    """What a training took, as far as its run tells."""
    if known is None:
        return {}
    cost: dict[str, str | float] = {
        name.removeprefix("cost/"): value for name, value in known.metrics.items() if name.startswith("cost/")
    }
    return cost | {name: known.tags[name] for name in ("threads", "device") if name in known.tags}

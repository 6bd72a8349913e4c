"""`make compare`: train the variants through DVC's queue, then write `reports/comparison.md`, `.csv` and `.png`.

    python -m pipeline.compare                                  # ten variants, the seed of params.yaml
    python -m pipeline.compare --variants none token --seeds 13 14 --jobs 2 --name long --set profile=squad_v2_long

Run again, it trains only what is not done: same name, same parameters, same code. What fails is named, the rest is
reported all the same, and the exit status is 1.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from gmmxlnet.comparison import Result, plot_comparison, render_report, write_csv
from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.utils.files import atomic_file
from gmmxlnet.utils.plots import save_figure
from pipeline import dvc_queue
from pipeline.collect import collect
from pipeline.params import run_stage
from pipeline.tracking import Run, comparison_run
from pipeline.variants import DEFAULT_NAME, VARIANTS, Planned, plan

REPORTS = Path("reports")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help="of the comparison; others than sample get reports of their own"
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help=f"of {' '.join(VARIANTS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="default: the seed in params.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="experiments that run at once")
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="key=value, as of dvc exp run -S")
    parser.add_argument("--report-only", action="store_true", help="train nothing: report on what is done")
    return parser.parse_args(arguments)


def train(planned: Sequence[Planned], jobs: int) -> None:
    """Queue what is neither done nor queued, and wait until the queue is through with it."""
    states = dvc_queue.states()
    rest = [one for one in planned if not dvc_queue.find_done(one)]
    for one in rest:
        if states.get(one.name) not in ("queued", "running"):
            dvc_queue.enqueue(one, failed=states.get(one.name) == "failed")
    print(
        f"compare: {len(planned) - len(rest)} of {len(planned)} are done, {len(rest)} to run, {jobs} at once",
        flush=True,
    )
    if not rest:
        return
    # Threads of several trainings would wait for each other; a person's own setting wins.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    try:
        dvc_queue.wait(
            [one.name for one in rest], jobs, lambda name, state: print(f"compare: {name} {state}", flush=True)
        )
    except KeyboardInterrupt:
        print("compare: no longer waiting; the queue goes on. To end it: dvc queue stop --kill", file=sys.stderr)
        raise SystemExit(130) from None


def report(planned: Sequence[Planned], comparison: str, parent: Run) -> dict[str, str]:
    """Write the report; returns the experiments without a result, and why."""
    states, results, missing = dvc_queue.states(), [], {}
    several = len({one.seed for one in planned}) > 1
    for one in planned:
        revision = dvc_queue.find_done(one)
        if revision is None:
            state = states.get(one.name, "not run")
            missing[one.name] = f"failed: {dvc_queue.why_failed(one.name)}" if state == "failed" else state
            continue
        name = f"{one.variant}-s{one.seed}" if several else one.variant
        results.append(collect(one, revision, parent, comparison, name))
    results.sort(key=lambda result: [one.variant for one in planned].index(result.variant))
    write(results, missing, planned, comparison, parent)
    return missing


def write(
    results: Sequence[Result], missing: Mapping[str, str], planned: Sequence[Planned], comparison: str, parent: Run
) -> None:
    """Write the three files and copy them to MLflow."""
    stem = REPORTS / ("comparison" if comparison == DEFAULT_NAME else f"comparison-{comparison}")
    files = [stem.with_suffix(suffix) for suffix in (".md", ".csv", ".png")]
    text = render_report(f"Comparison: {comparison}", results, setting(planned), missing, files[2].name)
    with atomic_file(files[0]) as scratch:
        scratch.write_text(text, encoding="utf-8")
    if results:
        write_csv(files[1], results)
        save_figure(plot_comparison(results), files[2])
    for file in files if results else files[:1]:
        parent.log_file(file, "reports")
    parent.set_tags({MLFLOW_RUN_NOTE: text.partition("![")[0]})
    parent.close("FAILED" if missing else "FINISHED")
    print(f"compare: {len(results)} of {len(planned)} have a result -> {', '.join(map(str, files))}")


def setting(planned: Sequence[Planned]) -> dict[str, str]:
    """What all experiments of a comparison share, in words."""
    params, active = planned[0].params, planned[0].params.active
    steps = f"at most {active.max_steps:,} steps, " if active.max_steps else ""
    batch = active.batch_size * active.gradient_accumulation_steps
    documents = f"the first {active.max_train_documents:,}" if active.max_train_documents else "all"
    dataset = active.dataset if isinstance(active.dataset, str) else active.dataset.train
    return {
        "profile": f"{params.profile}, documents are {active.context}s, {documents} of {dataset} for training",
        "encoder": f"{active.base_model}, segments of {active.max_seq_length} tokens, {active.precision}",
        "budget of each": f"{steps}{active.num_epochs} epochs, {batch} documents a step, "
        f"learning rate {active.learning_rate:g}",
        "memory": f"{params.memory_num_tokens} slots, reconstruction weight {params.memory_reconstruction_weight:g}, "
        f"load balance weight {params.load_balance_weight:g}",
    }


def main() -> None:
    """Plan, train, report."""
    arguments = parse(None)
    planned = plan(arguments.name, arguments.variants, arguments.seeds, arguments.set)
    parent = comparison_run(arguments.name)  # before anything runs beside it: the store is made here
    if not arguments.report_only:
        train(planned, arguments.jobs)
    missing = report(planned, arguments.name, parent)
    if missing:
        said = "; ".join(f"{name} ({why})" for name, why in missing.items())
        raise GMMXLNetError(f"no result of {said}. See `dvc queue logs NAME`; make compare again runs only these")


if __name__ == "__main__":
    run_stage(main)

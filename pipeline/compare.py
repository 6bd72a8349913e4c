"""`make compare`: train the variants through DVC's or Slurm's queue, write `reports/comparison.md`, `.csv`, `.png`.

    python -m pipeline.compare                                  # 11 variants, the seed of params.yaml
    python -m pipeline.compare --variants none token --seeds 13 14 --jobs 2 --name long --set profile=squad_v2_long
    python -m pipeline.compare --launcher slurm --jobs 8        # docs/scaling.md

Run again, it trains only what is not done: same name, same parameters, same code. What fails is named, the rest is
reported all the same, and the exit status is 1.
"""

import argparse
import sys
from collections.abc import Sequence

from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.messages import say
from pipeline import dvc_queue, slurm_queue
from pipeline.finished import find_finished
from pipeline.queues import Queue
from pipeline.stage import errors_on_one_line
from pipeline.variants import DEFAULT_NAME, VARIANTS, Planned, plan

QUEUES: dict[str, Queue] = {"dvc": dvc_queue, "slurm": slurm_queue}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help="of the comparison; others than sample get reports of their own"
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help=f"of {' '.join(VARIANTS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="default: the seed in params.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="experiments that run at once")
    parser.add_argument("--launcher", choices=tuple(QUEUES), default="dvc", help="whose queue runs them")
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="key=value, as of dvc exp run -S")
    parser.add_argument("--report-only", action="store_true", help="train nothing: report on what is done")
    return parser.parse_args(arguments)


def train(planned: Sequence[Planned], queue: Queue, jobs: int) -> None:
    """Queue what is neither finished nor queued, and wait until the queue is through with it."""
    rest = [one for one in planned if not find_finished(one)]
    say(f"compare: {len(planned) - len(rest)} of {len(planned)} are done, {len(rest)} to run, {jobs} at once")
    if not rest:
        return
    last: dict[str, str] = {}

    def tell(name: str, state: str) -> None:
        if last.get(name) != state:
            say(f"compare: {name} {state}")
        last[name] = state

    queue.check()
    queue.submit(rest, jobs, tell)
    try:
        queue.wait([one.name for one in rest], jobs, tell)
    except KeyboardInterrupt:
        say(f"compare: no longer waiting; the queue goes on. To end it: {queue.TO_END}", file=sys.stderr)
        raise SystemExit(130) from None


def main() -> None:
    """Plan, train, report."""
    arguments = parse(None)
    planned = plan(arguments.name, arguments.variants, arguments.seeds, arguments.set)
    queue = QUEUES[arguments.launcher]
    if not arguments.report_only:
        train(planned, queue, arguments.jobs)
    # Imported late: it brings torch and MLflow, half a GiB that need not lie idle beside the trainings.
    from pipeline.compare_report import report

    missing = report(planned, arguments.name, queue.state_and_reason)
    if missing:
        said = "; ".join(f"{name} ({why})" for name, why in missing.items())
        raise GMMXLNetError(f"no result of {said}. See {queue.log_of('NAME')}; make compare again runs only these")


if __name__ == "__main__":
    with errors_on_one_line("compare"):
        main()

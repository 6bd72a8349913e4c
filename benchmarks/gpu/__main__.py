"""`make bench-gpu`: the figures that need a GPU, in bfloat16 at the size of xlnet-base.

    python -m benchmarks.gpu [--families NAME ...] [--repeats 6] [--out reports/gpu] [--limit 180] [--fresh] [--quick]

Figures are taken in a process that this one starts. Where a family brings it down (an illegal memory access leaves no
GPU to a process) or takes longer than --limit seconds, another one takes the rest; the exit status is 1 if a family
failed. The same command again takes only what is missing. With --quick it runs in miniature on whatever there is, a CPU
too, to show that it runs: such figures are not written as if they were taken.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import EXTRA, FIGURES
from benchmarks.gpu.state import DONE, FAILED, RUNNING, State

NO_GPU = 2  # exit status of the worker where there is no GPU


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="families: " + ", ".join([*FIGURES, *EXTRA])
    )
    parser.add_argument("--quick", action="store_true", help="a miniature, whose figures say nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/gpu"), help="folder of the reports")
    parser.add_argument("--families", nargs="+", choices=[*FIGURES, *EXTRA], default=list(FIGURES), metavar="NAME")
    parser.add_argument("--repeats", type=int, help="how often each run is repeated; default 6")
    parser.add_argument("--limit", type=int, default=180, help="seconds that a family may take")
    parser.add_argument("--fresh", action="store_true", help="take these families again")
    arguments = parser.parse_args()
    state = State(arguments.out)
    state.forget(name for name in arguments.families if arguments.fresh or state.of(name) != DONE)
    worker = [sys.executable, "-m", "benchmarks.gpu.worker", "--out", str(arguments.out)]
    worker += ["--limit", str(arguments.limit)] + (["--quick"] if arguments.quick else [])
    worker += ["--repeats", str(arguments.repeats)] if arguments.repeats else []
    ended = -1
    while True:
        status = subprocess.run([*worker, "--families", *arguments.families]).returncode
        state = State(arguments.out)
        for name in arguments.families:
            if state.of(name) == RUNNING:
                reason = f"ended its process (status {status}) or took more than {arguments.limit} s"
                state.set(name, FAILED, reason=reason)
                print(f"{name}: failed: {reason}", flush=True)
        before, ended = ended, sum(state.of(name) is not None for name in arguments.families)
        if status in (0, NO_GPU) or ended == before:
            break
    return status if status == NO_GPU else int(any(state.of(name) != DONE for name in arguments.families))


if __name__ == "__main__":
    sys.exit(main())

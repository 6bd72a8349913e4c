"""Takes families of figures one after another, in this process; `python -m benchmarks.gpu` starts it."""

import argparse
import faulthandler
import gc
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu import EXTRA, FIGURES
from benchmarks.gpu.kernels import attention_ways, compiled_ways, correctness, flex_ways, triton_correctness
from benchmarks.gpu.memory import experts, options, segments
from benchmarks.gpu.profiles import write_profile
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.state import DONE, FAILED, RUNNING, State
from benchmarks.gpu.training import against_transformers, determinism_price, lengths, utilization, whole
from benchmarks.report import machine, rows_of, write_report
from benchmarks.timing import Figure
from gmmxlnet.errors import reason_of
from gmmxlnet.utils.seeding import seed_everything

NO_GPU, BROKEN = 2, 3  # exit status: there is no GPU; this process can use it no longer
FAMILIES: dict[str, Callable[[Setup], list[Figure]]] = {
    "correctness": correctness,
    "training": against_transformers,
    "lengths": lengths,
    "utilization": utilization,
    "determinism": determinism_price,
    "triton-correctness": triton_correctness,
    "attention": attention_ways,
    "flex": flex_ways,
    "options": options,
    "experts": experts,
    "segments": segments,
    "compiled-attention": compiled_ways,
    "whole": whole,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", required=True)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--limit", type=int, required=True)
    arguments = parser.parse_args()
    seed_everything(0)  # before CUDA starts: the deterministic mode needs it
    torch.use_deterministic_algorithms(False)
    setup = Setup.of(arguments.quick, arguments.repeats)
    if not setup.on_gpu and not setup.quick:
        print("bench-gpu: torch sees no GPU here, no figure was taken; --quick runs a miniature on the CPU")
        return NO_GPU
    state = State(arguments.out)
    state.begin({"machine": machine(), "sizes": asdict(setup) | {"device": setup.device.type}})
    for name in arguments.families:
        if state.of(name) is None and not take(name, setup, state, arguments.out, arguments.limit):
            return BROKEN
    render(state, setup, arguments.out)
    return 0


def take(name: str, setup: Setup, state: State, folder: Path, limit: int) -> bool:
    """Take a family's figures and write them; returns whether this process can go on."""
    state.set(name, RUNNING)
    faulthandler.dump_traceback_later(limit, exit=True)  # also where a kernel never ends
    begin = time.perf_counter()
    try:
        figures = _figures(name, setup, folder)
    except Exception as error:  # whatever a compiler or a kernel raises costs this family alone
        reason = reason_of(error)
        with (folder / "errors.txt").open("a", encoding="utf-8") as log:
            log.write(f"{name}\n{traceback.format_exc()}\n")
        state.set(name, FAILED, reason=reason)
        print(f"{name}: failed: {reason}", flush=True)
    else:
        spent = round(time.perf_counter() - begin, 1)
        state.set(name, DONE, seconds=spent, rows=rows_of(name, figures))
        for found in figures:
            spread = f"{found.lowest:.3g} to {found.highest:.3g}"
            print(f"{found.name}: {found.value:.3g} ({spread}; bar {found.bar}{'' if found.met else ', MISSED'})")
        print(f"{name}: {spent} s", flush=True)
    finally:
        faulthandler.cancel_dump_traceback_later()
    render(state, setup, folder)
    gc.collect()
    return _is_usable(setup)


def _figures(name: str, setup: Setup, folder: Path) -> list[Figure]:
    if name == "profile":
        write_profile(setup, folder)
        return []
    return FAMILIES[name](setup)


def _is_usable(setup: Setup) -> bool:
    """Whether this process can still use the device; empties torch's cache."""
    if not setup.on_gpu:
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def render(state: State, setup: Setup, folder: Path) -> None:
    """Write the reports with all families that are done."""
    known = [*FIGURES, *EXTRA]
    rows = [row for name in known if state.of(name) == DONE for row in state.families[name]["rows"]]
    missing = list(FIGURES) if setup.quick else [name for name in FIGURES if state.of(name) != DONE]
    not_taken = []
    for name in missing:
        reason = state.families.get(name, {}).get("reason")
        not_taken.append(FIGURES[name] + (f" (failed: {reason})" if reason else ""))
    write_report(rows, not_taken, machine(), folder, "make bench-gpu")


if __name__ == "__main__":
    sys.exit(main())

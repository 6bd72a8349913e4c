"""`make bench`: every figure that a CPU can give, into reports/benchmarks.json and .md.

python -m benchmarks [--quick] [--out reports] [--repeats 7] [--only chunking encoder …]

With --only the other figures in the two files stay as they are.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets

from benchmarks.chunking import chunking_figures
from benchmarks.encoder import encoder_figures, memory_figures, recompute_figures, segment_figures
from benchmarks.evaluation import evaluation_figures
from benchmarks.experts import SIZES, expert_figures
from benchmarks.gpu import FIGURES as GPU_FIGURES
from benchmarks.inputs import Scale, Texts
from benchmarks.report import rows_of, write
from benchmarks.timing import Figure
from benchmarks.training import training_figures


def _expert_figures(size: str, scale: Scale, texts: Texts) -> list[Figure]:
    return expert_figures(scale, size)


FAMILIES: dict[str, Callable[[Scale, Texts], list[Figure]]] = {
    "chunking": chunking_figures,
    "training": training_figures,
    "evaluation": evaluation_figures,
    "encoder": lambda scale, texts: encoder_figures(scale),
    "memory": lambda scale, texts: memory_figures(scale),
    "segments": lambda scale, texts: segment_figures(scale),
    "recompute": lambda scale, texts: recompute_figures(scale),
    **{f"experts-{size}": partial(_expert_figures, size) for size in SIZES},
}


def main() -> None:
    """Take the figures that are asked for, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a miniature, whose figures say nothing")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder of the two files")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--repeats", type=int, help="how often each run is repeated")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread for both: their other work has one
    datasets.disable_progress_bars()
    scale, texts = Scale.of(arguments.quick, arguments.repeats), Texts(arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        figures = FAMILIES[name](scale, texts)
        for found in figures:
            spread = f"{found.lowest:.3g} to {found.highest:.3g}"
            print(f"{found.name}: {found.value:.3g} ({spread}; bar {found.bar})", flush=True)
        on_a_gpu = [f"{figure} (make bench-gpu)" for figure in GPU_FIGURES.values()]
        write(rows_of(name, figures), list(FAMILIES), on_a_gpu, arguments.out)


if __name__ == "__main__":
    main()

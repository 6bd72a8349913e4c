"""`reports/benchmarks.json` and the table `reports/benchmarks.md`."""

import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Figure
from gmmxlnet.utils.files import atomic_file, write_json

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "tokenizers_parallelism": os.environ.get("TOKENIZERS_PARALLELISM", "unset"),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def write(figures: list[Figure], not_taken: list[str], folder: Path) -> None:
    """Both files; `not_taken` names figures that this machine cannot give."""
    about = machine()
    rows = [{**asdict(figure), "bar": str(figure.bar), "met": figure.met} for figure in figures]
    write_json(folder / "benchmarks.json", {"machine": about, "figures": rows, "not_taken": not_taken})
    with atomic_file(folder / "benchmarks.md") as scratch:
        scratch.write_text(table(figures, not_taken, about), encoding="utf-8")


def table(figures: list[Figure], not_taken: list[str], about: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Ratios, each taken in one process, in turns with its peer; the median, and the lowest and highest of all",
        "repeats. Made by `make bench`; what is measured how stands in `benchmarks/`.",
        "",
        "| figure | bar | median | spread | repeats | met |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        spread = f"{figure.lowest:.3g} to {figure.highest:.3g}" if figure.repeats > 1 else "exact"
        met = "yes" if figure.met else "**no**"
        lines.append(f"| {figure.name} | {figure.bar} | {figure.value:.3g} | {spread} | {figure.repeats} | {met} |")
    lines += ["", "What they were taken with:", ""]
    lines += [f"* {figure.name}: {_listed(figure.details)}" for figure in figures if figure.details]
    if not_taken:
        lines += ["", "Not taken here:", "", *(f"* {name}" for name in not_taken)]
    lines += ["", "Machine: " + _listed(about) + ".", ""]
    return "\n".join(lines)


def _listed(details: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in details.items() if value is not None)

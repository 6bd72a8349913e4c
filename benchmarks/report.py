"""`reports/benchmarks.json` and the table `reports/benchmarks.md`."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.timing import Figure
from gmmxlnet.errors import reason_of
from gmmxlnet.messages import say
from gmmxlnet.utils.files import atomic_file, read_json, write_json
from gmmxlnet.utils.tables import markdown_table

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
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    """None where it is not installed: not every family needs every package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def rows_of(family: str, figures: list[Figure]) -> list[dict[str, Any]]:
    """Figures as the report keeps them, with how busy the machine is now: much else on it widens the spread."""
    load = [round(x, 1) for x in os.getloadavg()]
    return [
        {"family": family, **asdict(figure), "bar": str(figure.bar), "met": figure.met, "load_average": load}
        for figure in figures
    ]


def write(rows: list[dict[str, Any]], families: Sequence[str], not_taken: list[str], folder: Path) -> None:
    """Both files, in the order of `families`; those of them not taken anew stay if they are this machine's.

    `not_taken` names figures that this machine cannot give.
    """
    about, path = machine(), folder / "benchmarks.json"
    taken = {row["family"] for row in rows}
    rows = [row for row in _before(path, about, families) if row["family"] not in taken] + rows
    rows = sorted(rows, key=lambda row: families.index(row["family"]))
    write_report(rows, not_taken, about, folder)


def write_report(
    rows: list[dict[str, Any]], not_taken: list[str], about: dict[str, Any], folder: Path, command: str = "make bench"
) -> None:
    """Both files with these rows and no others."""
    write_json(folder / "benchmarks.json", {"machine": about, "figures": rows, "not_taken": not_taken})
    with atomic_file(folder / "benchmarks.md") as scratch:
        scratch.write_text(table(rows, not_taken, about, command), encoding="utf-8")


def _before(path: Path, about: dict[str, Any], families: Sequence[str]) -> list[dict[str, Any]]:
    """This machine's figures in the report so far; of a damaged one, which is written anew, none."""
    try:
        before = read_json(path)
        of_here = before["machine"] == about
        return [row for row in before["figures"] if row["family"] in families] if of_here else []
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        say(f"{path}: cannot be read ({reason_of(error)}) and is written anew", sys.stderr)
        return []


def table(rows: list[dict[str, Any]], not_taken: list[str], about: dict[str, Any], command: str = "make bench") -> str:
    """The report as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Ratios, each taken in one process, in turns with its peer; the median, and the lowest and highest of all",
        "repeats, on the clock. Beside it the median by this process's own processor time, which the machine's other",
        f"work moves less. Made by `{command}`; what is measured how stands in `benchmarks/`.",
        "",
    ]
    cells = []
    for row in rows:
        of_processor = row["details"].get("processor_time")
        cells.append(
            {
                "figure": row["name"],
                "bar": row["bar"],
                "median": f"{row['value']:.3g}",
                "spread": f"{row['lowest']:.3g} to {row['highest']:.3g}" if row["repeats"] > 1 else "exact",
                "repeats": row["repeats"],
                "met": "yes" if row["met"] else "**no**",
                "by processor time": "" if of_processor is None else f"{of_processor:.3g}",
            }
        )
    lines.append(markdown_table(pd.DataFrame(cells)) if cells else "None yet.")
    lines += ["", "What they were taken with; the load is how many processes wanted a core in the last minutes:", ""]
    for row in rows:
        lines.append(f"* {row['name']}: {_listed(row['details'] | {'load': row['load_average'][1]})}")
    if not_taken:
        lines += ["", "Not taken here:", "", *(f"* {name}" for name in not_taken)]
    lines += ["", "Machine: " + _listed(about) + ".", ""]
    return "\n".join(lines)


def _listed(details: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in details.items() if value is not None)

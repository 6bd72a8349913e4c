"""From which commit, when and where a model was trained and its page made: what no output may depend on.

Outputs are the same for the same inputs, so these facts lie beside them in files that neither git nor DVC keeps: train
writes `reports/trained.json`, analyze writes `reports/provenance.js`, which the page shows.
"""

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import torch

from gmmxlnet.data.dataset_names import places
from gmmxlnet.devices import processor_kind
from gmmxlnet.messages import said
from gmmxlnet.utils.files import write_json
from pipeline.experiment import Experiment, model_hash
from pipeline.git import git
from pipeline.places import MODEL, REPORTS, TRAINED, find_local

CPU_INFO = Path("/proc/cpuinfo")
OUTPUTS = (REPORTS.as_posix(), "dvc.lock")  # a run changes them; they are no change of what it is made from


def write_trained(device: torch.device) -> None:
    """Say beside the reports where and when the model was trained."""
    write_json(TRAINED, {"model": model_hash(MODEL), "trained": here(device)})


def page_facts(experiment: Experiment, device: torch.device) -> dict[str, str]:
    """What the page shows: where and when the model was trained and analyzed, and how old the data are."""
    facts = {
        "trained": _trained() or "not in this folder: the model came from DVC's cache or from another experiment",
        "analyzed": here(device),
        "newest data": newest(places(experiment.dataset)),
    }
    return {name: said(text) for name, text in facts.items() if text}


def here(device: torch.device) -> str:
    """Time, commit, processor, libraries, and GPU if there is one, of this process."""
    processor = f"{_processor()}, {processor_kind()}"
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        _described_commit(),
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    ]
    return "; ".join(filter(None, parts))


def newest(names: Iterable[str]) -> str:
    """The date of the last commit that changed these files or folders, or of their newest file; empty if not here."""
    paths = [path for path in (Path(find_local(name)) for name in names) if path.exists()]
    if not paths:
        return ""
    named = ("--", *map(str, paths))
    if not git("status", "--porcelain", *named) and (date := git("log", "-1", "--format=%cs", *named)):
        return "" if git("rev-parse", "--is-shallow-repository") == "true" else f"commit of {date}"
    files = [file for path in paths for file in [path, *path.rglob("*")] if file.is_file()]
    seconds = max((file.stat().st_mtime for file in files), default=None)
    return "" if seconds is None else f"file of {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _described_commit() -> str:
    """The commit, and whether files that git keeps, other than a run's outputs, are not as it has them."""
    commit = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":(exclude){x}" for x in OUTPUTS))
    return f"commit {commit}{' with changes' if changed else ''}" if commit else ""


def _processor() -> str:
    """The processor's model, or its architecture where the system does not say more."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def _trained() -> str:
    """What `write_trained` wrote of this very model; empty if it did not, or the file is damaged."""
    try:
        found = json.loads(TRAINED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    told = isinstance(found, dict) and found.get("model") == model_hash(MODEL) and found.get("trained")
    return told if isinstance(told, str) else ""

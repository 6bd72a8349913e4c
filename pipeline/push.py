"""Stage `push`: share the model on the Hub when `hub_model_id` names a repository; else only say that it was not.

Reads models/gmm and its reports (which hold only after `verify` and `evaluate` went well); leaves reports/push.json.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gmmxlnet.errors import HubError
from gmmxlnet.utils.files import write_json
from gmmxlnet.utils.hub import push_folder
from pipeline.experiment import Experiment
from pipeline.params import load_params, run_stage

MODEL = Path("models/gmm")
REPORTS = Path("reports")


def main() -> None:
    """Push or say why not."""
    params = load_params()
    if params.hub_model_id is None:
        write_json(REPORTS / "push.json", {"pushed": False, "reason": "hub_model_id is null in params.yaml"})
        print("push: hub_model_id is null in params.yaml, so nothing was pushed")
        return
    if not _report("determinism.json")["bit_identical"]:
        raise HubError(f"{MODEL}: reports/determinism.json says that it does not reload bit for bit; not pushed")
    experiment = Experiment.read(MODEL)
    metrics = _report("metrics.json")
    message = f"{experiment.name}: EM {metrics['exact_match']:.2f}, F1 {metrics['f1']:.2f}"
    pushed = push_folder(MODEL, params.hub_model_id, tag=f"experiment-{experiment.key[:12]}", message=message)
    write_json(REPORTS / "push.json", {"pushed": True} | asdict(pushed))
    print(f"push: {pushed.num_files} files are at {pushed.repo_id}, tag {pushed.tag}, commit {pushed.commit}")


def _report(name: str) -> dict[str, Any]:
    try:
        return json.loads((REPORTS / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HubError(f"{REPORTS / name}: there is no such file; run the stages before this one: dvc repro") from None


if __name__ == "__main__":
    run_stage(main)

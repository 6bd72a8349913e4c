"""Paths: what stages write for each other, and the main repository, outside of which a queued experiment runs.

Paths are relative to the folder that a stage runs in: the repository, or DVC's copy of it below `.dvc/tmp`.
"""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
CHUNKS = Path("data/chunks")
TOKENIZER = "tokenizer"  # in a folder of chunks
MODEL = Path("models/gmm")
REPORTS = Path("reports")
CHECK_REPORT = REPORTS / "check.json"
DATA_REPORT = REPORTS / "data.json"
TRAINING_CSV = REPORTS / "training.csv"
TRAINED = REPORTS / "trained.json"
THROUGHPUT = REPORTS / "throughput.csv"
DETERMINISM = REPORTS / "determinism.json"
PREDICTIONS = REPORTS / "predictions.json"
NULL_ODDS = REPORTS / "null_odds.json"
N_BEST = REPORTS / "nbest_predictions.json"
METRICS = REPORTS / "metrics.json"
ROUTING = REPORTS / "routing.json"
SUMMARY = REPORTS / "summary.json"
ABLATION = REPORTS / "ablation.csv"
PLOTS = REPORTS / "plots"
PAGE = REPORTS / "index.html"
PROVENANCE = REPORTS / "provenance.js"
PUSH_REPORT = REPORTS / "push.json"

CODE_ROOT = Path(__file__).resolve().parents[1]  # of the code that runs: in a queued experiment, the copy


def main_root() -> Path:
    """The main repository, also from a queued DVC experiment, which works in a copy that is thrown away."""
    return Path(os.environ.get("DVC_ROOT") or CODE_ROOT)


def find_local(name: str) -> str:
    """`name` as a path that exists here or, for an experiment queued elsewhere, in the main repository; else as it is.

    Queued experiments run in a copy below `.dvc/tmp`, where `../shared` is another place.
    """
    main = main_root()
    return str(main / name) if not Path(name).exists() and (main / name).exists() else name

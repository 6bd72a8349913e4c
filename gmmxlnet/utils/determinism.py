"""Is what was trained what is loaded? A checkpoint against its fingerprint, in a fresh process and with a control."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gmmxlnet.errors import CheckpointError
from gmmxlnet.utils.fingerprint import Fingerprint

WEIGHTS = "model.safetensors"


def check_reload(folder: Path, seed: int) -> dict[str, Any]:
    """Load `folder` in a fresh process, seeded otherwise, and compare every tensor and logit bit for bit.

    Then change one bit of one tensor in a copy and load that: the comparison must notice.

    Returns: what `reports/determinism.json` holds; `differing_tensors` names those that are not the same.
    Raises CheckpointError where the checkpoint cannot be loaded.
    """
    trained = Fingerprint.read(folder)
    loaded = _fingerprint_in_fresh_process(folder, seed + 1)
    with tempfile.TemporaryDirectory() as scratch:
        altered_folder = Path(scratch) / "altered"
        shutil.copytree(folder, altered_folder)
        _flip_one_bit(altered_folder / WEIGHTS)
        altered = _fingerprint_in_fresh_process(altered_folder, seed + 1)
    names = sorted(set(trained.tensors) | set(loaded.tensors))
    return {
        "bit_identical": trained == loaded,
        "tensors": len(loaded.tensors),
        "differing_tensors": [name for name in names if trained.tensors.get(name) != loaded.tensors.get(name)],
        "max_abs_logit_diff": trained.max_abs_logit_diff(loaded),
        "fresh_process": True,
        "negative_control_detected": altered.tensors != trained.tensors,
        "tensor_sha256": loaded.tensors,
    }


def _fingerprint_in_fresh_process(folder: Path, seed: int) -> Fingerprint:
    done = subprocess.run(
        [sys.executable, "-m", "gmmxlnet.utils.fingerprint", str(folder)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        raise CheckpointError(f"{folder}: cannot be loaded in a fresh process: {reason}")
    return Fingerprint(**json.loads(done.stdout))


def _flip_one_bit(weights: Path) -> None:
    """Flip the lowest bit of the first element of the last tensor by name."""
    tensors = load_file(weights)
    name = max(tensors)
    tensors[name].flatten().view(torch.uint8)[0] ^= 1
    save_file(tensors, weights, metadata={"format": "pt"})

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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models.adapter_files import ADAPTER_WEIGHTS
from gmmxlnet.utils.fingerprint import Fingerprint

WEIGHTS = "model.safetensors"


def check_reload(folder: Path, seed: int) -> dict[str, Any]:
    """Load `folder` in a fresh process, seeded otherwise, and compare every tensor and logit bit for bit.

    Then it loads a copy in which one bit of one tensor is changed: the comparison must notice.

    Returns: what `reports/determinism.json` holds; `differing_tensors` names those that are not the same.
    Raises CheckpointError where the checkpoint cannot be loaded.
    """
    trained = Fingerprint.read(folder)
    with tempfile.TemporaryDirectory() as scratch:
        altered_folder = Path(scratch) / "altered"
        shutil.copytree(folder, altered_folder)
        weights = ADAPTER_WEIGHTS if (folder / ADAPTER_WEIGHTS).exists() else WEIGHTS
        try:
            _flip_one_bit(altered_folder / weights)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder / weights}: cannot be loaded ({error}); train again: dvc repro -f train"
            ) from None
        loaded, altered = _fingerprints_in_fresh_process([folder, altered_folder], seed + 1)
    names = sorted(set(trained.tensors) | set(loaded.tensors))
    return {
        "bit_identical": trained == loaded,
        "tensors": len(loaded.tensors),
        "differing_tensors": [name for name in names if trained.tensors.get(name) != loaded.tensors.get(name)],
        "max_abs_logit_diff": trained.max_abs_logit_diff(loaded),
        "fresh_process": True,
        "negative_control_detected": altered.tensors != loaded.tensors,
        "tensor_sha256": loaded.tensors,
    }


def _fingerprints_in_fresh_process(folders: list[Path], seed: int) -> list[Fingerprint]:
    done = subprocess.run(
        [sys.executable, "-m", "gmmxlnet.utils.fingerprint", *map(str, folders)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        raise CheckpointError(f"{folders[0]}: cannot be loaded in a fresh process: {reason}")
    return [Fingerprint(**json.loads(line)) for line in done.stdout.splitlines()]


def _flip_one_bit(weights: Path) -> None:
    """Flip the lowest bit of the first element of the last tensor by name."""
    tensors = load_file(weights)
    name = max(tensors)
    tensors[name].flatten().view(torch.uint8)[0] ^= 1
    save_file(tensors, weights, metadata={"format": "pt"})

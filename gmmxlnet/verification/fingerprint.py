"""Fingerprints of models: hashes of all tensors, and logits on a batch derived from the configuration.

The logits are computed in float64 and rounded, so that they do not depend on the processor or the number of threads: a
model is recognised on a machine other than the one that trained it.

`python -m gmmxlnet.verification.fingerprint --seed N FOLDER…` loads checkpoints and prints their fingerprints as JSON,
a line each; `gmmxlnet verify` runs it in a fresh process and compares with what training wrote beside the weights.
"""

import argparse
import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from gmmxlnet import garbage
from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.utils.files import read_object, write_json
from gmmxlnet.utils.tensors import tensor_hash

FILE_NAME = "fingerprint.json"
PROBE_DOCUMENTS, PROBE_SEGMENTS, PROBE_TOKENS = 2, 3, 24
DECIMALS = 6  # of the logits; processors differ in the 14th, so hardly one probe in 100,000 rounds differently


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 of every tensor by name (dtype, shape and bytes), and the probe's start and end logits.

    The logits are flattened and rounded to `DECIMALS` decimals.
    """

    tensors: dict[str, str]
    logits: list[float]

    @classmethod
    def of(cls, model: GMMXLNetForQA) -> "Fingerprint":
        """Of a model as it stands in memory; computed on the CPU, in float64 and evaluation mode."""
        tensors = {name: tensor_hash(tensor) for name, tensor in sorted(model.state_dict().items())}
        logits = probe_logits(model).flatten().numpy()
        return cls(tensors, (np.round(logits, DECIMALS) + 0.0).tolist())  # + 0.0: no negative zeros

    @classmethod
    def read(cls, folder: Path) -> "Fingerprint":
        """What `write` left in a checkpoint's folder. Raises CheckpointError where it is missing or damaged."""
        file = folder / FILE_NAME
        values = read_object(file, missing="train again: dvc repro -f train")
        try:
            return cls(tensors=dict(values["tensors"]), logits=[float(logit) for logit in values["logits"]])
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{file}: damaged ({error!r}); train again: dvc repro -f train") from None

    def write(self, folder: Path) -> None:
        """Write `fingerprint.json` into a checkpoint's folder. Raises CheckpointError where logits are no numbers."""
        if not np.isfinite(self.logits).all():
            raise CheckpointError(
                f"{folder}: the trained model's logits are NaN or infinite; its training diverged: lower learning_rate "
                "or max_grad_norm, or use precision float32"
            )
        write_json(folder / FILE_NAME, asdict(self))

    def max_abs_logit_diff(self, other: "Fingerprint") -> float:
        """The largest difference of the two probes' logits; infinite where their numbers differ."""
        if len(self.logits) != len(other.logits):
            return float("inf")
        return float(np.abs(np.subtract(self.logits, other.logits)).max())


def probe_logits(model: GMMXLNetForQA) -> torch.Tensor:
    """Start and end logits (2, B, S, L) float64 on the probe; the model is left as it was."""
    probe = copy.deepcopy(model).cpu().double().eval()
    with torch.no_grad():
        output = probe(**_probe_batch(model.config))
    return torch.stack([output.start_logits, output.end_logits])


def _probe_batch(config: GMMXLNetConfig) -> dict[str, torch.Tensor]:
    """Random words in segments of the usual layout; the first document has a segment less than the second."""
    m = config.memory_num_tokens
    L = PROBE_TOKENS + 2 * m
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size - 2 * m, size=(PROBE_DOCUMENTS, PROBE_SEGMENTS, L))
    types = np.zeros_like(ids)
    types[..., L // 2 :], types[..., -1] = 1, 2
    if m:
        ids[..., L // 2 - m : L // 2] = config.write_token_id + np.arange(m)
        ids[..., L // 2 : L // 2 + m] = config.read_token_id + np.arange(m)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.ones(ids.shape, dtype=torch.int64),
        "token_type_ids": torch.from_numpy(types),
        "num_segments": torch.arange(PROBE_SEGMENTS - PROBE_DOCUMENTS + 1, PROBE_SEGMENTS + 1),
    }


def main() -> None:
    """Print the fingerprints of the checkpoints named on the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, required=True, help="of whatever loading would draw")
    parser.add_argument("folders", nargs="+")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    for folder in arguments.folders:
        print(json.dumps(asdict(Fingerprint.of(GMMXLNetForQA.from_pretrained(folder)))))


if __name__ == "__main__":
    garbage.leave_at_exit()
    main()

"""Parameters of a model so small that a whole experiment takes half a minute."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SIZE = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16}
PROFILE = {
    "max_train_documents": 40,
    "max_eval_documents": 6,
    "max_steps": 2,
    "calibration_fraction": 0.2,
    "portable_bits": False,  # which asks for two threads
}


def shrink(params_file: Path, **profile: Any) -> None:
    """Rewrite the sample profile of a `params.yaml`; `profile` has options that differ from `PROFILE`."""
    yaml = YAML()
    params = yaml.load(params_file.read_text(encoding="utf-8"))
    params["profiles"]["sample"] |= PROFILE | profile
    params["profiles"]["sample"]["scratch_size"] |= SIZE
    yaml.dump(params, params_file)

"""The name of an MLflow run: its memory, and what differs from the committed `params.yaml`.

gmm-k4-write                            as committed
gmm-k4-write, 80 steps                  with profiles.sample.max_steps=80
none, squad_v2, seed 14, 2 epochs       another profile, and changes in it
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from gmmxlnet.errors import ConfigError
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.git import git
from pipeline.params import load_params
from pipeline.places import PARAMS

IN_THE_NAME = {"memory_type", "num_memory_experts", "routing_mode", "adapter", "profile"}
COUNTED = {"max_steps": "steps", "num_epochs": "epochs"}
MOST_DIFFERENCES = 3
LONGEST_VALUE = 40


def title(experiment: Experiment) -> str:
    """The name; without differences where the committed parameters cannot be read."""
    values = experiment.parameters
    found = committed_parameters(values["profile"])
    if found is None:
        return experiment.name
    profile, committed = found
    parts = [experiment.name] + [values["profile"]] * (values["profile"] != profile)
    names = [name for name in values if name not in IN_THE_NAME and values[name] != committed.get(name, values[name])]
    parts += [_in_words(name, values[name]) for name in names[:MOST_DIFFERENCES]]
    if len(names) > MOST_DIFFERENCES:
        parts.append(f"{len(names) - MOST_DIFFERENCES} more")
    return ", ".join(parts)


def committed_parameters(profile: str) -> tuple[str, dict[str, Any]] | None:
    """The committed choice of profile, and the committed parameters with `profile` in use; None if unknown."""
    revision = os.environ.get("DVC_EXP_BASELINE_REV") or "HEAD"  # a queued experiment's HEAD has its changes
    text = git("show", f"{revision}:./{PARAMS}")
    if not text:  # no repository, or no git
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PARAMS.name
        file.write_text(text, encoding="utf-8")
        try:
            params = load_params(file)
        except ConfigError:  # of another version
            return None
    if profile not in params.profiles:
        return None
    return params.profile, canonical_parameters(params.model_copy(update={"profile": profile}))


def _in_words(name: str, value: Any) -> str:
    if name in COUNTED and value is not None:
        return f"{value} {COUNTED[name]}"
    return f"{name.rpartition('.')[2].replace('_', ' ')} {str(value)[:LONGEST_VALUE]}"

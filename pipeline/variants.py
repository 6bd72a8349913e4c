"""The variants that `make compare` trains: their names, and the parameters that make them.

gmm-k4-write-s13                memory_type=gmm num_memory_experts=4 routing_mode=write-based seed=13
gmm-k4-write-norec-s13          the same without memory reconstruction: memory_reconstruction_weight=0
long-token-s14                  of the comparison named long
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides

from gmmxlnet.data.dataset_names import held_by
from gmmxlnet.errors import ConfigError
from gmmxlnet.memory_kinds import KINDS
from pipeline.params import Params, load_params
from pipeline.places import PARAMS

SIMPLE = tuple(name for name, kind in KINDS.items() if not kind.routes)
MIXTURES = tuple(name for name, kind in KINDS.items() if kind.routes)
VARIANTS = (*SIMPLE, *(f"{name}-k{k}-{mode}" for name in MIXTURES for k in (2, 4, 8) for mode in ("write", "read")))
WITHOUT_SLOTS = tuple(name for name, kind in KINDS.items() if not kind.slots)  # these have nothing to reconstruct
NO_RECONSTRUCTION = "-norec"
MIXTURE = re.compile(rf"({'|'.join(MIXTURES)})-k(\d+)-(write|read)")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")  # valid in a git reference and in a file's name
DEFAULT_NAME = "sample"


@dataclass(frozen=True)
class Planned:
    """One experiment of a comparison: what it is called in DVC, and the overrides of `params.yaml` that make it."""

    name: str
    variant: str
    seed: int
    overrides: tuple[str, ...]
    own: tuple[str, ...]
    """Those of the overrides that tell this experiment from the others."""
    params: Params


def plan(comparison: str, variants: list[str], seeds: list[int], settings: list[str]) -> list[Planned]:
    """All experiments of a comparison, checked before any of them runs.

    Args:
        seeds: empty for the one in `params.yaml`.
        settings: further overrides, `key=value` as `dvc exp run -S` takes them.

    Raises ConfigError for a name or a value that cannot be.
    """
    if not NAME.fullmatch(comparison):
        raise ConfigError(f"the comparison's name must be small letters, digits, - and _, not {comparison!r}")
    chosen = {item.partition("=")[0] for item in settings} & {
        "seed",
        "memory_type",
        "num_memory_experts",
        "routing_mode",
    }
    if chosen:
        raise ConfigError(f"{', '.join(sorted(chosen))}: set by each variant; use VARIANTS and SEEDS")
    prefix = "" if comparison == DEFAULT_NAME else f"{comparison}-"
    planned = []
    for seed in dict.fromkeys(seeds) or [load_params(PARAMS).seed]:
        for variant in dict.fromkeys(variants):
            name = f"{prefix}{variant}-s{seed}"
            own = (*variant_overrides(variant), f"seed={seed}")
            overrides = (*settings, *own)
            params = overridden(PARAMS.read_text("utf-8"), overrides)
            planned.append(Planned(name, variant, seed, overrides, own, params))
    return planned


def variant_overrides(variant: str) -> list[str]:
    """The overrides that make a variant. Raises ConfigError for an unknown one."""
    remembering = variant.removesuffix(NO_RECONSTRUCTION)
    if remembering != variant and remembering not in WITHOUT_SLOTS:
        return [*variant_overrides(remembering), "memory_reconstruction_weight=0"]
    if variant in SIMPLE:
        return [f"memory_type={variant}"]
    found = MIXTURE.fullmatch(variant)
    if not found:
        known = (
            f"{', '.join(SIMPLE)} or gmm-kK-write or gmm-kK-read with K from 2 to 8; all that have slots also "
            f"with {NO_RECONSTRUCTION} at the end"
        )
        raise ConfigError(f"VARIANTS: must be of {known}, not {variant}")
    return [f"memory_type={found[1]}", f"num_memory_experts={found[2]}", f"routing_mode={found[3]}-based"]


def quoted(value: str | int) -> str:
    """A value as an override spells it, whatever characters are in it."""
    return str(value) if isinstance(value, int) else "'" + value.replace("\\", r"\\").replace("'", r"\'") + "'"


def overridden(text: str, overrides: tuple[str, ...] | list[str]) -> Params:
    """The parameters in the text of a `params.yaml`, changed as DVC would change them, and checked."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PARAMS.name
        file.write_text(text, encoding="utf-8")
        try:
            apply_overrides(file, list(overrides))
            return load_params(file)
        except DvcException as error:
            raise ConfigError(f"{' '.join(overrides)}: {error.__cause__ or error}") from None
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(file), f"{PARAMS} with {' '.join(overrides)}")) from None


def in_use(params: Params) -> dict[str, Any]:
    """The parameters that count: the top level and the profile in use."""
    return params.model_dump(exclude={"profiles"}) | {"active": params.active.model_dump()}


def setting(planned: Sequence[Planned], precision: str | None = None) -> dict[str, str]:
    """What all experiments of a comparison share, in words.

    Args:
        precision: what they computed in, where that is known.
    """
    params, active = planned[0].params, planned[0].params.active
    steps = f"at most {active.max_steps:,} steps, " if active.max_steps else ""
    batch = active.batch_size * active.gradient_accumulation_steps
    documents = f"the first {active.max_train_documents:,}" if active.max_train_documents else "all"
    dataset = held_by(params.dataset, "train")
    return {
        "profile": f"{params.profile}, documents are {active.context}s, {documents} of {dataset} for training",
        "encoder": f"{active.base_model}, segments of {active.max_seq_length} tokens, {precision or active.precision}",
        "budget of each": f"{steps}{active.num_epochs} epochs, {batch} documents a step, "
        f"learning rate {active.learning_rate:g}",
        "memory": f"{params.memory_num_tokens} slots, reconstruction weight {params.memory_reconstruction_weight:g}, "
        f"load balance weight {params.load_balance_weight:g}",
    }

"""Check the properties that a caller of `from_pretrained` requires of a checkpoint."""

from pathlib import Path
from typing import Any

from gmmxlnet.errors import CheckpointError, ConfigError
from gmmxlnet.models.configuration import ALIASES, BOOKKEEPING, LOSS_SETTINGS, GMMXLNetConfig

FREE = (*LOSS_SETTINGS, "dropout", "routing_temperature")  # settings of further training


def apply_asked(config: GMMXLNetConfig, asked: dict[str, Any], folder: Path | str) -> GMMXLNetConfig:
    """Return the checkpoint's configuration with the requested values of the keys in `FREE`.

    All other requested values must equal the checkpoint's. Exception: a token memory may be requested as `gmm`, a
    mixture of one expert.

    Raises CheckpointError with what was found, what was expected and what to call instead.
    """
    given = asked.pop("config", None)
    if given is not None:
        asked = _differences(config, given, folder) | asked
    asked = {ALIASES.get(key, key): value for key, value in asked.items()}
    _check_kind(config, asked, folder)
    changed = {}
    for key, value in asked.items():
        if not hasattr(config, key) or key.startswith("_"):
            raise ConfigError(f"from_pretrained: there is no option {key!r}")
        if key in FREE:
            changed[key] = value
        elif getattr(config, key) != value:
            raise CheckpointError(
                f"{folder}: {key} is {getattr(config, key)!r}, asked for was {value!r}; call "
                f"GMMXLNetForQA.from_pretrained without {key}, or name a checkpoint that was trained with it"
            )
    return GMMXLNetConfig.from_dict({**config.to_dict(), **changed}) if changed else config


def _check_kind(config: GMMXLNetConfig, asked: dict[str, Any], folder: Path | str) -> None:
    """Check `memory_type`, `use_gmm_memory` and the number of experts, and remove them from `asked`."""
    found = config.memory_type
    use_gmm = asked.pop("use_gmm_memory", None)
    wanted = asked.pop("memory_type", None)
    wanted = "none" if wanted == "standard" else wanted
    if wanted is None and use_gmm is not None:
        wanted = "gmm" if use_gmm else "none"
    if wanted not in (None, found) and (found, wanted) != ("token", "gmm"):
        remedy = "call GMMXLNetForQA.from_pretrained without memory_type to load it as it is"
        if found == "none":
            remedy += ", or GMMXLNetForQA(base_model=...) to put a memory around an XLNet encoder"
        raise CheckpointError(f"{folder}: its memory_type is {found}, expected {wanted}; {remedy}")
    experts = asked.pop("num_memory_experts", config.num_memory_experts)
    if experts != config.num_memory_experts:
        raise CheckpointError(
            f"{folder}: has {config.num_memory_experts} experts (memory_type {found}), expected {experts}; call "
            "GMMXLNetForQA.from_pretrained without num_experts, or name a checkpoint that was trained with that number"
        )


def _differences(config: GMMXLNetConfig, given: Any, folder: Path | str) -> dict[str, Any]:
    """Return the values in which a configuration that was passed in differs from the checkpoint's."""
    if not isinstance(given, GMMXLNetConfig):
        raise CheckpointError(
            f"{folder}: was to be loaded with a {type(given).__name__}, expected a GMMXLNetConfig; leave config out"
        )
    own, other = config.to_dict(), given.to_dict()
    keys = [key for key in own if key not in (*BOOKKEEPING, *ALIASES)]
    return {key: other.get(key) for key in keys if own[key] != other.get(key)}

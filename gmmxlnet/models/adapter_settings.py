"""The `adapter` entry of `config.json`: the adapter's size and the base model it belongs to."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from gmmxlnet.errors import ConfigError
from gmmxlnet.options import ADAPTER, OneOf, Optional, Text, require, shown

BASE_VARIABLE = "GMMXLNET_BASE_MODEL"  # environment variable that overrides where the base model is
DEFAULT_RANK, DEFAULT_ALPHA, DEFAULT_DROPOUT = 8, 16, 0.05
RULES = {
    "type": OneOf(("lora",)),
    **{name: ADAPTER[f"lora_{name}"] for name in ("rank", "alpha", "dropout")},
    "base_model": Text("a folder or a Hub id"),
    "base_revision": Optional(Text("a commit")),
    "base_sha256": Text("a hash"),
}


@dataclass(frozen=True, kw_only=True)
class AdapterSize:
    """LoRA's parameters (Hu et al. 2021, https://arxiv.org/abs/2106.09685): W + alpha / rank · B·A."""

    rank: int = DEFAULT_RANK  # r: rows of A, columns of B
    alpha: int = DEFAULT_ALPHA  # the update is scaled by alpha / rank
    dropout: float = DEFAULT_DROPOUT  # dropout probability of A's input in training


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(AdapterSize):
    """An adapter and the base model that it requires."""

    base_model: str  # a folder or a Hub id
    base_revision: str | None = None  # commit of a base model from the Hub
    base_sha256: str  # `weights_hash` of the encoder's tensors at the start of training
    type: str = "lora"

    @classmethod
    def from_dict(cls, values: Any) -> "AdapterSettings":
        """Build from the entry in `config.json`. Raises ConfigError for a missing, unknown or invalid key."""
        if not isinstance(values, dict):
            raise ConfigError(f"config: adapter must be null or an object with keys and values, not {shown(values)}")
        known = {field.name for field in fields(cls)}
        wrong = sorted(known ^ {str(name) for name in values})
        if wrong:
            what = "is missing" if wrong[0] in known else "is unknown"
            raise ConfigError(f"config: adapter.{wrong[0]} {what}; its keys are {', '.join(sorted(known))}")
        require(
            {f"config: adapter.{name}": rule for name, rule in RULES.items()},
            {f"config: adapter.{name}": value for name, value in values.items()},
        )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry for `config.json`."""
        return asdict(self)

"""What `config.json` says of an adapter: its size, and the base model it is for."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from gmmxlnet.errors import ConfigError

BASE_VARIABLE = "GMMXLNET_BASE_MODEL"  # environment variable: where the base is, when not where the checkpoint says
LARGEST = 65_536
DEFAULT_RANK, DEFAULT_ALPHA, DEFAULT_DROPOUT = 8, 16, 0.05


@dataclass(frozen=True, kw_only=True)
class AdapterSize:
    """LoRA's parameters (Hu et al. 2021, https://arxiv.org/abs/2106.09685): W + alpha / rank · B·A."""

    rank: int = DEFAULT_RANK  # r: rows of A, columns of B
    alpha: int = DEFAULT_ALPHA  # the update is scaled by alpha / rank
    dropout: float = DEFAULT_DROPOUT  # of what A is given, in training


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(AdapterSize):
    """An adapter, and the base model without which it is nothing."""

    base_model: str  # a folder or a Hub id
    base_revision: str | None = None  # the commit, of a base from the Hub
    base_sha256: str  # `weights_hash` of the encoder's tensors, as they were when training began
    type: str = "lora"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AdapterSettings":
        """From `config.json`; raises ConfigError where a key is missing, unknown or impossible."""
        known = {field.name for field in fields(cls)}
        wrong = sorted(known ^ set(values))
        if wrong:
            what = "is missing" if wrong[0] in known else "is unknown"
            raise ConfigError(f"config: adapter.{wrong[0]} {what}; its keys are {', '.join(sorted(known))}")
        for name, is_right, needs in (
            ("type", values["type"] == "lora", "lora"),
            ("rank", _is_size(values["rank"]), f"an integer in [1, {LARGEST:,}]"),
            ("alpha", _is_size(values["alpha"]), f"an integer in [1, {LARGEST:,}]"),
            ("dropout", _is_number(values["dropout"]) and 0 <= values["dropout"] < 1, "a number in [0, 1)"),
            ("base_model", isinstance(values["base_model"], str) and values["base_model"], "a folder or a Hub id"),
            ("base_revision", isinstance(values["base_revision"], str | None), "a commit, or null"),
            ("base_sha256", isinstance(values["base_sha256"], str), "a hash"),
        ):
            if not is_right:
                raise ConfigError(f"config: adapter.{name} must be {needs}, not {values[name]!r}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` holds it."""
        return asdict(self)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

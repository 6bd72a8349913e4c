"""`ConversionSettings`: the options of a conversion, with their help for the command line."""

from dataclasses import dataclass, field
from typing import Any

from gmmxlnet.errors import ConfigError
from gmmxlnet.options import PRECISIONS

SHORTEST = 80  # of max_length: room for a question of 40 tokens and as much text


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": f"{help} (default: %(default)s)"})


@dataclass(frozen=True, kw_only=True)
class ConversionSettings:
    """The options of a conversion. Raises ConfigError if a value is invalid."""

    minutes: float = _setting(15.0, "of distillation; what is before and after it takes one or two more")
    steps: int | None = _setting(None, "of distillation, instead of minutes; 0 for none")
    max_length: int = _setting(384, "tokens of the longest segment; longer distances are clamped")
    tokens_per_step: int = _setting(3072, "of distillation, in windows of one length")
    learning_rate: float = _setting(4e-4, "of distillation")
    ridge: float = _setting(0.3, "keeps what stands for biases short; 0 is exact, and cannot be fine-tuned")
    seed: int = _setting(13, "of all draws")
    device: str = _setting("auto", "auto, cpu or cuda")
    precision: str = _setting("auto", "float32, bfloat16, or auto: bfloat16 on a GPU, and on a CPU that has AMX")

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise ConfigError(f"steps must be an integer >= 0, not {self.steps}")
        for name in ("minutes", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be a number > 0, not {getattr(self, name)}")
        if not 0 <= self.ridge < float("inf"):
            raise ConfigError(f"ridge must be a number >= 0, not {self.ridge}")
        if self.max_length < SHORTEST:
            raise ConfigError(f"max_length must be an integer >= {SHORTEST}, not {self.max_length}")
        if self.tokens_per_step < 1:
            raise ConfigError(f"tokens_per_step must be an integer >= 1, not {self.tokens_per_step}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed must be an integer in [0, 2**31), not {self.seed}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")

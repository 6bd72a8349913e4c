"""`PretrainingSettings`: everything a pretraining varies, with defaults for one GPU and a few million tokens."""

from dataclasses import dataclass

from transformers import XLNetTokenizerFast

from gmmxlnet.errors import ConfigError
from gmmxlnet.models.configuration import GMMXLNetConfig


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
    """The size of the encoder and how it is trained; 25 million parameters with XLNet's vocabulary as it stands."""

    n_layer: int = 8
    d_model: int = 384
    n_head: int = 6
    d_inner: int = 1024
    dropout: float = 0.1
    initializer_range: float = 0.05
    induction_heads: bool = True
    """Start with heads that match equal tokens and look at neighbors (`gmmxlnet.models.induction`)."""
    length: int = 512
    """Tokens of a window, three special ones included."""
    mask_share: float = 0.15
    """Of a window's tokens that are to be predicted."""
    steps: int = 4000
    batch_size: int = 128
    """Windows at once."""
    gradient_accumulation_steps: int = 1
    learning_rate: float = 6e-4
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    precision: str = "float32"
    device: str = "auto"
    seed: int = 13

    def __post_init__(self) -> None:
        if self.length < 16:
            raise ConfigError(f"length must be an integer >= 16, not {self.length}")
        if not 0 < self.mask_share < 0.5:
            raise ConfigError(f"mask_share must be a number between 0 and 0.5, not {self.mask_share}")
        for name in ("steps", "batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be an integer >= 1, not {getattr(self, name)}")

    def encoder_config(self, tokenizer: XLNetTokenizerFast) -> GMMXLNetConfig:
        """The encoder's configuration, without memory. Raises ConfigError for an impossible size."""
        names = ("n_layer", "d_model", "n_head", "d_inner", "dropout", "initializer_range")
        tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "sep", "bos", "eos")}
        return GMMXLNetConfig(**{name: getattr(self, name) for name in names}, vocab_size=len(tokenizer), **tokens)

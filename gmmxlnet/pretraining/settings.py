"""`PretrainingSettings`: the options of pretraining, with defaults for one GPU and a few million tokens."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gmmxlnet.options import ENCODER, PRECISIONS, RUN, TRAINING, Flag, Integer, Number, OneOf, require

if TYPE_CHECKING:  # these import torch, which the command line's help does not need
    from transformers import XLNetTokenizerFast

    from gmmxlnet.models.configuration import GMMXLNetConfig

RULES = (
    ENCODER
    | RUN
    | TRAINING
    | {
        "induction_heads": Flag(),
        "length": Integer(16, 2**16),
        "mask_share": Number(above=0, below=0.5),
        "steps": Integer(1, 10**9),
        "precision": OneOf(PRECISIONS),
    }
)


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": f"{help} (default: %(default)s)"})


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
    """The encoder's size and its training; the defaults give 25 million parameters with XLNet's vocabulary.

    Raises ConfigError if a value is invalid.
    """

    _argument_group_name = "the encoder and its training"  # in the command line's help

    n_layer: int = _setting(8, "encoder layers")
    d_model: int = _setting(384, "hidden size, even and a multiple of n_head")
    n_head: int = _setting(6, "attention heads")
    d_inner: int = _setting(1024, "width of the feed-forward layers")
    dropout: float = _setting(0.1, "share of activations left out in training")
    initializer_range: float = _setting(0.05, "standard deviation of the initial weights")
    induction_heads: bool = _setting(True, "start with heads that match equal tokens and look at neighbors")
    length: int = _setting(512, "tokens of a window, three special ones included")
    mask_share: float = _setting(0.15, "share of a window's tokens that are to be predicted")
    steps: int = _setting(4000, "optimizer steps")
    batch_size: int = _setting(128, "windows at once")
    gradient_accumulation_steps: int = _setting(1, "batches added up before the optimizer steps")
    learning_rate: float = _setting(6e-4, "peak of the schedule: a linear rise, then a linear fall to zero")
    warmup_fraction: float = _setting(0.1, "share of the steps in which the learning rate rises")
    weight_decay: float = _setting(0.01, "AdamW's decoupled decay; biases and norms are spared")
    precision: str = _setting("auto", "float32, bfloat16, or auto: bfloat16 on a GPU, and on a CPU that has AMX")
    device: str = _setting("auto", "auto (a GPU where torch sees one), cpu or cuda")
    seed: int = _setting(13, "of the initial weights, the order of windows, masks and dropout")

    def __post_init__(self) -> None:
        require(RULES, vars(self))

    def encoder_config(self, tokenizer: "XLNetTokenizerFast") -> "GMMXLNetConfig":
        """Return the encoder's configuration, without memory. Raises ConfigError for an invalid size."""
        from gmmxlnet.models.configuration import GMMXLNetConfig

        names = ("n_layer", "d_model", "n_head", "d_inner", "dropout", "initializer_range")
        tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "sep", "bos", "eos")}
        return GMMXLNetConfig(**{name: getattr(self, name) for name in names}, vocab_size=len(tokenizer), **tokens)

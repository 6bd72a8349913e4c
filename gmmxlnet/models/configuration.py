"""`GMMXLNetConfig`: the architecture of an encoder and of the memory that travels through it, as in `config.json`."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import XLNetConfig

from gmmxlnet.errors import ConfigError

FORMAT_VERSION = "1.0"
MEMORY_TYPES = ("none", "mems", "token", "differentiable", "gmm")
TOKEN_MEMORY_TYPES = ("token", "gmm")  # those that put write and read tokens into every segment
ROUTING_MODES = ("write-based", "read-based")
POOLING_METHODS = ("mean", "max", "attention")
INIT_STRATEGIES = ("learned", "zeros", "uniform", "orthogonal")
SPAN_LOSSES = ("segment", "document")
MIN_EXPERTS, MAX_EXPERTS = 2, 8
MAX_MEMORY_SLOTS = 32
_ALIASES = {"num_experts": "num_memory_experts", "hidden_dim": "d_model"}


@strict
class GMMXLNetConfig(XLNetConfig):
    """An XLNet encoder's keys (`transformers.XLNetConfig`) and, beside them, the memory's and the losses'.

    Args:
        memory_type: `none`, `mems` (XLNet's cache of the last `mem_len` tokens), `token` (one expert, no router),
            `differentiable` (a bank of slots) or `gmm`; missing or `standard` in a file means `none`.
        num_memory_experts: k, from 2 to 8 for `gmm`; 1 for `token`; 0 for the others. Written as `num_experts` too.
        memory_slots: m, slots per expert and read (write) tokens per segment, or slots of the bank, 1 to 32; 0 for
            `none` and `mems`.
        routing_mode, routing_temperature, pooling_method: how a segment's write states choose the experts.
        expert_init_strategies: one name per expert: `learned`, `zeros`, `uniform` or `orthogonal`.
        expert_dropout: in training, the probability with which a document does without an expert; one always remains.
        memory_heads: slices into which the bank's slots are cut, each addressed by itself; divides d_model.
        memory_sharpness: β of the bank's addressing: a slot that matches scores β nats above an unrelated one.
        usage_tracking: whether the bank's writes prefer slots that were written little.
        load_balance_weight, entropy_regularization_weight, memory_reconstruction_weight: weights of the loss's parts.
        span_loss: `segment` (one softmax a segment) or `document` (one over all segments of a document).
        bptt_segments: gradients cross at most this many segments, less one; None for no limit.
        sep_token_id: separates context, question and `<cls>`; tells content from structure.
        segment_layout: how documents were cut in training (`max_seq_length`, `doc_stride`, `memory_num_tokens`), which
            `answer` does likewise; None: not trained yet.

    `vocab_size` counts the memory tokens: the last 2·m ids, the m read tokens first, then the m write tokens.

    Raises:
        ConfigError: a value is impossible, alone or together with another.
    """

    model_type = "gmmxlnet"
    attribute_map = {**XLNetConfig.attribute_map, **_ALIASES}  # noqa: RUF012 (as transformers has it)

    memory_type: str = "none"
    num_memory_experts: int = 0
    memory_slots: int = 0
    routing_mode: str = "write-based"
    routing_temperature: float | int = 1.0
    pooling_method: str = "mean"
    expert_init_strategies: list[str] | None = None
    expert_dropout: float | int = 0.0
    memory_heads: int = 1
    memory_sharpness: float | int = 8.0
    usage_tracking: bool = True
    load_balance_weight: float | int = 0.01
    entropy_regularization_weight: float | int = 0.0
    memory_reconstruction_weight: float | int = 0.0
    span_loss: str = "segment"
    bptt_segments: int | None = None
    sep_token_id: int | None = 4
    segment_layout: dict[str, int] | None = None
    version: str = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        for alias, name in _ALIASES.items():
            if alias in kwargs and kwargs.pop(alias) != getattr(self, name):
                raise ConfigError(f"config: {alias} and {name} must be equal (the former is an alias of the latter)")
        if self.memory_type == "standard":
            self.memory_type = "none"
        if self.memory_type in ("none", "mems"):
            self.memory_slots = 0
        if self.memory_type == "token":
            self.num_memory_experts = 1
        elif self.memory_type != "gmm":
            self.num_memory_experts = 0
        if self.expert_init_strategies is None:
            self.expert_init_strategies = ["learned"] * self.num_memory_experts
        super().__post_init__(**kwargs)
        self._check_memory()

    def _check_memory(self) -> None:
        _one_of("memory_type", self.memory_type, MEMORY_TYPES)
        _one_of("routing_mode", self.routing_mode, ROUTING_MODES)
        _one_of("pooling_method", self.pooling_method, POOLING_METHODS)
        _one_of("span_loss", self.span_loss, SPAN_LOSSES)
        self._check_experts()
        if self.memory_type not in ("none", "mems") and not 1 <= self.memory_slots <= MAX_MEMORY_SLOTS:
            raise ConfigError(
                f"memory_num_tokens must be > 0 and at most {MAX_MEMORY_SLOTS} when memory_type is {self.memory_type}, "
                f"not {self.memory_slots}"
            )
        if self.memory_type == "mems" and not (self.mem_len or 0) >= 1:
            raise ConfigError(f"mem_len must be an integer >= 1 when memory_type is mems, not {self.mem_len}")
        if self.memory_heads < 1 or (self.memory_type == "differentiable" and self.d_model % self.memory_heads):
            raise ConfigError(
                f"memory_heads must be >= 1 and divide d_model, which is {self.d_model}, not {self.memory_heads}"
            )
        for name in ("routing_temperature", "memory_sharpness"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"{name} must be > 0 and finite, not {getattr(self, name)}")
        for name in ("load_balance_weight", "entropy_regularization_weight", "memory_reconstruction_weight"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"{name} must be >= 0 and finite, not {getattr(self, name)}")
        if self.bptt_segments is not None and self.bptt_segments < 1:
            raise ConfigError(f"bptt_segments must be null or an integer >= 1, not {self.bptt_segments}")

    def _check_experts(self) -> None:
        if self.memory_type == "gmm" and not MIN_EXPERTS <= self.num_memory_experts <= MAX_EXPERTS:
            raise ConfigError(
                f"num_memory_experts must be an integer in [{MIN_EXPERTS}, {MAX_EXPERTS}], "
                f"not {self.num_memory_experts}"
            )
        if not 0 <= self.expert_dropout < 1:
            raise ConfigError(f"expert_dropout must be in [0, 1), not {self.expert_dropout}")
        if len(self.expert_init_strategies) != self.num_memory_experts:
            raise ConfigError(
                f"expert_init_strategies must name one strategy for each of the {self.num_memory_experts} experts, "
                f"not {len(self.expert_init_strategies)}"
            )
        for strategy in self.expert_init_strategies:
            _one_of("expert_init_strategies", strategy, INIT_STRATEGIES)

    @property
    def has_memory_tokens(self) -> bool:
        """Whether every segment carries read and write tokens."""
        return self.memory_type in TOKEN_MEMORY_TYPES

    @property
    def memory_num_tokens(self) -> int:
        """Read tokens of each segment, and as many write tokens: m, or 0 where the memory needs none."""
        return self.memory_slots if self.has_memory_tokens else 0

    @property
    def read_token_id(self) -> int:
        """Id of `[MEM_READ_0]`: the first id above the encoder's own vocabulary."""
        return self.vocab_size - 2 * self.memory_num_tokens

    @property
    def write_token_id(self) -> int:
        """Id of `[MEM_WRITE_0]`."""
        return self.vocab_size - self.memory_num_tokens

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` shows it: with `num_experts` and `hidden_dim`, the names that other readers use."""
        return {**super().to_dict(), "num_experts": self.num_memory_experts, "hidden_dim": self.d_model}


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}")

"""`GMMXLNetConfig`: the architecture of the encoder and its memory, as saved in `config.json`."""

import functools
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Self

from huggingface_hub.errors import StrictDataclassError
from transformers import XLNetConfig
from transformers.activations import ACT2FN

from gmmxlnet.errors import CheckpointConfigError, ConfigError, reason_of
from gmmxlnet.memory_kinds import KINDS, MemoryKind
from gmmxlnet.models.adapter_settings import AdapterSettings
from gmmxlnet.options import (
    CHUNKING,
    ENCODER,
    LOSS,
    MEMORY,
    SHARE,
    SLOTS,
    Flag,
    Integer,
    Number,
    OneOf,
    Optional,
    Text,
    check_slots,
    check_strategies,
    require,
    shown,
)

FORMAT_VERSION = "1.0"
MAX_SIZE = 2**31  # of any dimension; larger: a damaged file
BY_TRANSFORMERS = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError)  # for invalid keys
ALIASES = {"num_experts": "num_memory_experts", "hidden_dim": "d_model"}
BOOKKEEPING = ("transformers_version", "_name_or_path", "dtype", "architectures")  # not part of the architecture
LOSS_SETTINGS = tuple(LOSS)  # affect training, not the architecture
# The rules of `gmmxlnet.options` adapted: k, m and mem_len depend on the kind of memory, strategies are optional.
RULES = {name: rule for name, rule in (MEMORY | LOSS).items() if name not in ("num_memory_experts", "mem_len")} | {
    "memory_slots": Integer(),
    "num_memory_experts": Integer(),
    "expert_init_strategies": Optional(MEMORY["expert_init_strategies"], "for learned"),
    "sep_token_id": Optional(Integer(0, MAX_SIZE)),
    "version": Text(f"a format's number such as {FORMAT_VERSION}", r"[0-9]{1,4}\.[0-9]{1,4}"),
}
SIZES = {  # keys of XLNetConfig
    **{name: Integer(1, MAX_SIZE - 1) for name in ("vocab_size", "d_head")},
    **{name: ENCODER[name] for name in ("n_layer", "d_model", "n_head", "d_inner", "dropout")},
    "ff_activation": OneOf(tuple(ACT2FN)),
    "summary_last_dropout": SHARE,
    "layer_norm_eps": Number(above=0, below=1),
    "initializer_range": Number(least=0),
}
LAYOUT = {name: (CHUNKING | MEMORY)[name] for name in ("max_seq_length", "doc_stride", "memory_num_tokens")}
# In config.json attn_type is this list instead of "bi". A transformers class that is given one of our checkpoints would
# initialize all weights at random with only a warning; a list in place of a string makes it fail and print this text.
_ATTN_TYPE_IN_FILES = ["bi", "a gmmxlnet checkpoint: load it with gmmxlnet.models.GMMXLNetForQA.from_pretrained"]


def _with_own_errors(cls: type) -> type:
    """Class decorator: convert transformers' own errors about wrong types to ConfigError."""
    init: Any = cls.__init__  # type: ignore[misc]  # the class is final here

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except ConfigError:
            raise
        except StrictDataclassError as error:
            cause = str(error).strip().splitlines()[-1].strip()
            raise ConfigError(f"config: {cause.split(': ', 1)[-1][:300]}") from None
        except BY_TRANSFORMERS as error:
            raise ConfigError(f"config: {reason_of(error)}") from None

    cls.__init__ = checked  # type: ignore[misc]
    return cls


@_with_own_errors
class GMMXLNetConfig(XLNetConfig):
    """Configuration of the encoder (keys of `transformers.XLNetConfig`), the memory and the losses.

    Args:
        memory_type: `none`, `mems` (XLNet's cache of the last `mem_len` tokens), `words` (the last `mem_len` words,
            looked up), `token` (one expert, no router), `differentiable` (a bank of slots) or `gmm`; in a file a
            missing value or `standard` means `none`.
        num_memory_experts: k, from 2 to 8 for `gmm`; 1 for `token`; 0 for the others. Alias: `num_experts`.
        memory_slots: m, slots per expert and number of read tokens and of write tokens per segment, or slots of the
            bank, 1 to 32; 0 for `none`, `mems` and `words`.
        routing_mode, routing_temperature, pooling_method: how a segment's write states are routed to the experts.
        router: `learned`, `frozen` (keeps its random initial weights) or `uniform` (1/k for every expert).
        routing_top_k: a segment is written to, and read from, at most so many experts; None for all.
        expert_init_strategies: `learned`, `zeros`, `uniform` or `orthogonal`, one for all experts or a list.
        memory_gate_bias: initial bias b of the gates of `token` and `gmm`, which are open to about σ(b) at first.
        memory_lookup: for `token` and `gmm`: every token also reads, by content, all experts' slots that match it.
        memory_word_sharpness: nats by which a memory slot that is a word's embedding scores this word above an
            unrelated one, in the lookup and in the reconstruction and association losses.
        expert_dropout: in training, probability of dropping an expert for a document; one is always kept.
        memory_heads: heads of the bank, each with its own slice of every slot and its own addressing; divides d_model.
        memory_sharpness: β of the bank's addressing: a slot that matches scores β nats above an unrelated one.
        usage_tracking: whether writes to the bank prefer slots that have been written to less.
        load_balance_weight, entropy_regularization_weight, memory_reconstruction_weight, memory_association_weight:
            weights of the loss terms.
        memory_reconstruction_target: words that the memory has to predict after a segment: those read so far that
            occur again later in the document (`recurring`), or those of the segment (`segment`).
        span_loss: `segment` (one softmax per segment) or `document` (one over all segments of a document).
        bptt_segments: gradients flow through at most this many consecutive segments; None for no limit.
        adapter: `AdapterSettings` of a model with a frozen encoder and LoRA; None if all weights are trained.
        sep_token_id: the token between context, question and `<cls>`; used to tell content from structure.
        segment_layout: how documents were split in training (`max_seq_length`, `doc_stride`, `memory_num_tokens`);
            `answer` uses the same values. None before training.

    `vocab_size` includes the memory tokens, whose ids are the last 2·m: first m read tokens, then m write tokens.

    Raises:
        ConfigError: a value is invalid, alone or in combination with another.
    """

    model_type = "gmmxlnet"
    attribute_map = {**XLNetConfig.attribute_map, **ALIASES}  # noqa: RUF012 (as transformers has it)

    memory_type: str = "none"
    num_memory_experts: int = 0
    memory_slots: int = 0
    routing_mode: str = "write-based"
    routing_temperature: float | int = 1.0
    router: str = "learned"
    routing_top_k: int | None = None
    pooling_method: str = "mean"
    expert_init_strategies: list[str] | str | None = None
    memory_gate_bias: float | int = 1.0
    memory_lookup: bool = False
    memory_word_sharpness: float | int = 8.0
    expert_dropout: float | int = 0.0
    memory_heads: int = 1
    memory_sharpness: float | int = 8.0
    usage_tracking: bool = True
    load_balance_weight: float | int = 0.01
    entropy_regularization_weight: float | int = 0.0
    memory_reconstruction_weight: float | int = 0.0
    memory_reconstruction_target: str = "recurring"
    memory_association_weight: float | int = 0.0
    span_loss: str = "segment"
    bptt_segments: int | None = None
    adapter: dict[str, Any] | None = None
    sep_token_id: int | None = 4
    segment_layout: dict[str, int] | None = None
    version: str = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        for alias, name in ALIASES.items():
            if alias in kwargs and kwargs.pop(alias) != getattr(self, name):
                raise ConfigError(f"config: {alias} and {name} must be equal (the former is an alias of the latter)")
        if self.memory_type == "standard":
            self.memory_type = "none"
        require(RULES, vars(self))
        if not self.kind.slots:
            self.memory_slots = 0
        least, most = self.kind.experts
        self.num_memory_experts = self.kind.num_experts(self.num_memory_experts)
        Integer(least, most).require("num_memory_experts", self.num_memory_experts)
        self._name_strategies(free=least < most)
        if self.n_head < 1:
            raise ConfigError(f"n_head must be {ENCODER['n_head'].words}, not {self.n_head}")
        super().__post_init__(**kwargs)
        self._check_version()
        self._check_encoder()
        self._check_memory()
        super().validate()

    def validate(self) -> None:
        """Validate again; transformers calls this before it writes `config.json`. Raises ConfigError."""
        require(RULES, vars(self))
        self._check_memory()
        super().validate()

    def _name_strategies(self, *, free: bool) -> None:
        """Expand to one strategy per expert; if the number of experts is not `free`, drop the surplus ones."""
        strategies, count = self.expert_init_strategies or "learned", self.num_memory_experts
        if isinstance(strategies, str):
            strategies = [strategies] * count
        self.expert_init_strategies = strategies if free else strategies[:count]

    def _check_version(self) -> None:
        if _numbers(self.version) > _numbers(FORMAT_VERSION):
            raise ConfigError(
                f"version {self.version} of the format is newer than {FORMAT_VERSION}, the newest that this gmmxlnet "
                "reads; install a newer one: pip install --upgrade gmmxlnet"
            )

    def _check_encoder(self) -> None:
        require(SIZES, vars(self))
        if self.d_head != self.d_model // self.n_head:
            raise ConfigError(f"d_head must be d_model // n_head = {self.d_model // self.n_head}, not {self.d_head}")
        if self.vocab_size <= 2 * self.memory_num_tokens:
            raise ConfigError(
                f"vocab_size must exceed the {2 * self.memory_num_tokens} memory tokens, not {self.vocab_size}"
            )
        if self.attn_type != "bi" or self.bi_data:
            raise ConfigError(f"attn_type must be 'bi' and bi_data false, not {self.attn_type!r} and {self.bi_data}")

    def _check_memory(self) -> None:
        check_slots(self.memory_type, self.memory_slots)
        check_strategies(self.expert_init_strategies, self.num_memory_experts)
        if self.kind.caches and (self.mem_len or 0) < 1:
            raise ConfigError(
                f"mem_len must be an integer >= 1 when memory_type is {self.memory_type}, not {self.mem_len}"
            )
        if self.adapter is not None:
            AdapterSettings.from_dict(self.adapter)
        if self.segment_layout is not None:
            self._check_layout()
        self.kind.load()(self).check()  # imported lazily: the modules of the kinds import this one

    def _check_layout(self) -> None:
        if not isinstance(self.segment_layout, dict) or set(self.segment_layout) != set(LAYOUT):
            raise ConfigError(
                f"segment_layout must be null or have {', '.join(LAYOUT)}, not {shown(self.segment_layout)}"
            )
        for name, rule in LAYOUT.items():
            rule.require(f"segment_layout.{name}", self.segment_layout[name])

    @property
    def kind(self) -> MemoryKind:
        """The registry entry of the kind of memory."""
        return KINDS[self.memory_type]

    @property
    def has_memory_tokens(self) -> bool:
        """Whether every segment has read and write tokens."""
        return self.kind.tokens

    @property
    def has_router(self) -> bool:
        """Whether a router chooses among several experts."""
        return self.kind.routes

    @property
    def memory_num_tokens(self) -> int:
        """Number of read tokens, and of write tokens, per segment: m, or 0 if the memory needs none."""
        return self.memory_slots if self.has_memory_tokens else 0

    @property
    def read_token_id(self) -> int:
        """Id of `[MEM_READ_0]`: the first id above the encoder's own vocabulary."""
        return self.vocab_size - 2 * self.memory_num_tokens

    @property
    def write_token_id(self) -> int:
        """Id of `[MEM_WRITE_0]`."""
        return self.vocab_size - self.memory_num_tokens

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build from the contents of `config.json`. Raises CheckpointConfigError, which is also a ConfigError."""
        if config_dict.get("attn_type") == _ATTN_TYPE_IN_FILES:
            config_dict = {**config_dict, "attn_type": _ATTN_TYPE_IN_FILES[0]}
        try:
            return super().from_dict(config_dict, **kwargs)
        except ConfigError as error:
            raise CheckpointConfigError(str(error)) from None
        except BY_TRANSFORMERS as error:
            raise CheckpointConfigError(f"config: {reason_of(error)}") from None

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the contents of `config.json`."""
        return {**super().to_diff_dict(), "attn_type": _ATTN_TYPE_IN_FILES}

    def to_dict(self) -> dict[str, Any]:
        """Return all values, with the aliases `num_experts` and `hidden_dim` that other readers use."""
        return {**super().to_dict(), "num_experts": self.num_memory_experts, "hidden_dim": self.d_model}


def check_arguments(num_experts: object, memory_slots: object, use_gmm_memory: object, memory: dict[str, Any]) -> None:
    """Check `GMMXLNetForQA`'s arguments for wrong types and unknown names. Raises ConfigError."""
    if type(num_experts) is not int:  # the valid range depends on the kind of memory
        MEMORY["num_memory_experts"].require("num_memory_experts", num_experts)
    if type(memory_slots) is not int:
        SLOTS.require("memory_slots", memory_slots)
    Flag().require("use_gmm_memory", use_gmm_memory)
    known = {field.name for field in fields(GMMXLNetConfig)}
    for name in memory:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            raise ConfigError(f"GMMXLNetForQA has no argument {name!r}" + "".join(f"; {x!r} is near" for x in nearest))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))

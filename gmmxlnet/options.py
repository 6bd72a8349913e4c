"""Every option and the values it takes, said once: for configurations, `params.yaml` and the command line.

    MEMORY["num_memory_experts"].words                          # an integer in [2, 8]
    MEMORY["num_memory_experts"].require("num_memory_experts", 9)   # ConfigError: … must be an integer in [2, 8], not 9

An option is added by its rule here, its field (default and explanation) in `GMMXLNetConfig` or `TrainingConfig`, its
use, and its lines in `params.yaml` and `dvc.yaml`. Bounds far above anything sensible are there too: a number of
absurd size is refused by its name rather than by whatever it exhausts. Neither torch nor pydantic is imported.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from gmmxlnet.errors import ConfigError
from gmmxlnet.memory_kinds import KINDS, MAX_EXPERTS, MIN_EXPERTS
from gmmxlnet.messages import cut, without_credentials
from gmmxlnet.windows import ContextKind

MAX_FLOAT = 3.4e38  # of float32
LONGEST_SHOWN = 60  # characters of a wrong value that an error quotes
LONGEST_TEXT = 4096  # characters of a name or a path
MAX_N_BEST = 10_000  # candidates of an answer


class Rule:
    """What values an option takes."""

    @property
    def words(self) -> str:
        """The end of the sentence "NAME must be …"."""
        raise NotImplementedError

    @property
    def type(self) -> Any:
        """The option's type, for annotations."""
        raise NotImplementedError

    def accepts(self, value: object) -> bool:
        """Whether this is such a value. `4.0` is no integer, `True` no number, `"4"` neither."""
        raise NotImplementedError

    def require(self, name: str, value: object) -> None:
        """Raise ConfigError, which names the option, unless the value is right."""
        if not self.accepts(value):
            raise ConfigError(f"{name} must be {self.words}, not {shown(value)}")


@dataclass(frozen=True)
class Integer(Rule):
    """A whole number from `least` to `most`, both included, and a multiple of `step`."""

    least: int | None = None
    most: int | None = None
    step: int = 1
    says: str | None = None

    @property
    def words(self) -> str:
        """See `Rule`."""
        if self.says is not None:
            return self.says
        kind = "an integer" if self.step == 1 else "an even integer" if self.step == 2 else f"a multiple of {self.step}"
        if self.least is not None and self.most is not None:
            return f"{kind} in [{self.least}, {self.most}]"
        return kind if self.least is None else f"{kind} >= {self.least}"

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return int

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and value % self.step == 0
        )


@dataclass(frozen=True)
class Number(Rule):
    """A finite number that float32 can hold, whole ones included; `above` and `below` are excluded."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    @property
    def words(self) -> str:
        """See `Rule`."""
        low = f"({self.above}" if self.above is not None else f"[{self.least}"
        high = f"{self.below})" if self.below is not None else f"{self.most}]"
        if self.below is None and self.most is None:
            return f"> {self.above} and finite" if self.above is not None else f">= {self.least} and finite"
        return f"a number in {low}, {high}"

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return float

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and -MAX_FLOAT <= value <= MAX_FLOAT  # false for NaN, too
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )


@dataclass(frozen=True)
class OneOf(Rule):
    """One of some names; a collection that grows later (`KINDS`) is asked each time."""

    names: Collection[str]

    @property
    def words(self) -> str:
        """See `Rule`."""
        return either(self.names)

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return str

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        return isinstance(value, str) and value in self.names


@dataclass(frozen=True)
class Flag(Rule):
    """True or false."""

    @property
    def words(self) -> str:
        """See `Rule`."""
        return "true or false"

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return bool

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text(Rule):
    """A text that is neither empty nor endless, of a pattern if one is given."""

    says: str
    pattern: str | None = None

    @property
    def words(self) -> str:
        """See `Rule`."""
        return self.says

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return str

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_TEXT:
            return False
        return self.pattern is None or re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True)
class Optional(Rule):
    """What another rule takes, or null, with what null means."""

    rule: Rule
    meaning: str = ""

    @property
    def words(self) -> str:
        """See `Rule`."""
        return f"{self.rule.words}, or null {self.meaning}".rstrip()

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return self.rule.type | None

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        return value is None or self.rule.accepts(value)


@dataclass(frozen=True)
class ListOf(Rule):
    """A list of one to `most` values, each of which another rule takes."""

    rule: Rule
    says: str
    most: int = 1000

    @property
    def words(self) -> str:
        """See `Rule`."""
        return self.says

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return list[self.rule.type]  # type: ignore[name-defined]  # known when it runs

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        return isinstance(value, list) and 1 <= len(value) <= self.most and all(map(self.rule.accepts, value))


@dataclass(frozen=True)
class OneOrEach(Rule):
    """One value for all experts, or a list with one for each (`check_strategies` counts them)."""

    rule: Rule

    @property
    def words(self) -> str:
        """See `Rule`."""
        return f"{self.rule.words}, or a list with one of them for each expert"

    @property
    def type(self) -> Any:
        """See `Rule`."""
        return self.rule.type | list[self.rule.type]  # type: ignore[name-defined]  # known when it runs

    def accepts(self, value: object) -> bool:
        """See `Rule`."""
        return self.rule.accepts(value) or (isinstance(value, list) and all(map(self.rule.accepts, value)))


def either(names: Collection[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def shown(value: object) -> str:
    """A wrong value as an error quotes it: on one line, and not at length."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**LONGEST_SHOWN:
        return (
            f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"  # Python refuses to print the longest
        )
    if isinstance(value, str):
        value = without_credentials(value[:LONGEST_TEXT])[: LONGEST_SHOWN + 1]
    try:
        text = repr(value)
    except ValueError:  # such a number inside
        text = f"a {type(value).__name__} of endless numbers"
    return shortened(text)


def shortened(text: str) -> str:
    """A text without credentials, not at length."""
    return cut(without_credentials(text[:LONGEST_TEXT]), LONGEST_SHOWN)  # half a URL would not be known as one


def _count(most: int) -> Integer:
    return Integer(1, most)


PRECISIONS = ("auto", "float32", "bfloat16")  # of answers, conversions and pretraining
REPOSITORY = r"[\w.-]+/[\w.-]+"
STRATEGIES = OneOf(("learned", "zeros", "uniform", "orthogonal"))
MAX_MEMORY_SLOTS = 32
SLOTS = Integer(1, MAX_MEMORY_SLOTS)
SHARE = Number(least=0, below=1)
WEIGHT = Number(least=0)
POSITIVE = Number(above=0)
SIZE = _count(2**16)

# What a memory is: keys of `GMMXLNetConfig`, where `memory_num_tokens` is `memory_slots`.
MEMORY: dict[str, Rule] = {
    "memory_type": OneOf(KINDS),
    "num_memory_experts": Integer(MIN_EXPERTS, MAX_EXPERTS),
    "memory_num_tokens": Integer(0, MAX_MEMORY_SLOTS, says=f"{SLOTS.words}, or 0 for a memory without slots"),
    "mem_len": Optional(SIZE, "for max_seq_length"),
    "routing_mode": OneOf(("write-based", "read-based")),
    "routing_temperature": POSITIVE,
    "router": OneOf(("learned", "frozen", "uniform")),
    "routing_top_k": Optional(Integer(1, MAX_EXPERTS), "for all experts"),
    "pooling_method": OneOf(("mean", "max", "attention")),
    "memory_heads": SIZE,
    "memory_sharpness": POSITIVE,
    "usage_tracking": Flag(),
    "expert_init_strategies": OneOrEach(STRATEGIES),
    "memory_gate_bias": Number(least=-20, most=20),
    "memory_lookup": Flag(),
    "memory_word_sharpness": POSITIVE,
}

# What trains a model rather than what it is: keys of `GMMXLNetConfig` that a loaded model may be given anew.
LOSS: dict[str, Rule] = {
    "expert_dropout": SHARE,
    "load_balance_weight": WEIGHT,
    "entropy_regularization_weight": WEIGHT,
    "memory_reconstruction_weight": WEIGHT,
    "memory_reconstruction_target": OneOf(("recurring", "segment")),
    "memory_association_weight": WEIGHT,
    "span_loss": OneOf(("segment", "document")),
    "bptt_segments": Optional(_count(10**6), "for all segments"),
}

ADAPTER: dict[str, Rule] = {
    "adapter": OneOf(("none", "lora")),
    "lora_rank": SIZE,
    "lora_alpha": SIZE,
    "lora_dropout": SHARE,
}

# An encoder that starts from random weights: keys of transformers' XLNetConfig.
ENCODER: dict[str, Rule] = {
    "n_layer": _count(1000),
    "d_model": Integer(2, 2**16, step=2),
    "n_head": SIZE,
    "d_inner": _count(2**20),
    "dropout": SHARE,
    "initializer_range": POSITIVE,
}

# What a pretrained encoder is given anew.
BASE: dict[str, Rule] = {"dropout": Optional(SHARE, "for what base_model's configuration says")}

# How documents are cut.
CHUNKING: dict[str, Rule] = {
    "max_seq_length": SIZE,
    "doc_stride": Integer(0, 2**16, says=f"an integer in [0, {2**16}]: the tokens that consecutive windows share"),
    "max_question_length": SIZE,
    "context": OneOf(get_args(ContextKind)),
    "max_train_documents": Optional(_count(10**9), "for no limit"),
    "max_eval_documents": Optional(_count(10**9), "for no limit"),
    "calibration_fraction": Number(above=0, below=1),
}

# A dataset that is made rather than read: the settings of `gmmxlnet.data.load.LoadWorld`, and how many documents.
MAX_TOWNS = 16
LOAD: dict[str, Rule] = {
    "num_towns": _count(MAX_TOWNS),
    "num_updates": Integer(0, MAX_TOWNS),
    "lag": Integer(0, 10**4),
    "town_with_list": Flag(),
    "segment_tokens": Integer(30, 2**16, says=f"an integer in [30, {2**16}]: the list of duties takes 30"),
    "num_train": _count(10**9),
    "num_dev": _count(10**9),
}

# How to train: keys of `TrainingConfig`.
RUN: dict[str, Rule] = {
    "seed": Integer(0, 2**32 - 1),
    "device": OneOf(("auto", "cpu", "cuda")),
}
TRAINING: dict[str, Rule] = {
    "batch_size": SIZE,
    "gradient_accumulation_steps": SIZE,
    "num_epochs": _count(10**6),
    "max_steps": Optional(_count(10**9), "for no limit"),
    "progressive_segments": Optional(
        ListOf(_count(10**6), "a list of integers >= 1 such as [2, 4, 6]"), "to never cut a document"
    ),
    "learning_rate": Number(above=0, most=1),
    "learning_rate_memory": Optional(Number(above=0, most=1), "for learning_rate"),
    "warmup_fraction": SHARE,
    "decay_fraction": Number(least=0, most=1),
    "weight_decay": WEIGHT,
    "max_grad_norm": POSITIVE,
    "gradient_checkpointing": Flag(),
    "precision": OneOf((*PRECISIONS, "float16")),
    "num_workers": Integer(0, 256),
    "save_steps": Optional(_count(10**9), "to choose by time"),
    "save_total_limit": _count(1000),
}

EVALUATION: dict[str, Rule] = {
    "eval_batch_size": SIZE,
    "n_best_size": _count(MAX_N_BEST),
    "max_answer_length": SIZE,
}

HUB: dict[str, Rule] = {
    "hub_model_id": Optional(Text("owner/name of a Hub repository", REPOSITORY)),
    "hub_dataset_id": Optional(Text("owner/name of a Hub dataset", REPOSITORY)),
    "hub_push_chunks": Flag(),
}


def require(rules: Mapping[str, Rule], values: Mapping[str, object]) -> None:
    """Raise ConfigError for the first of `values` that its rule refuses; what has no rule is not looked at."""
    for name, value in values.items():
        if name in rules:
            rules[name].require(name, value)


def check_slots(memory_type: str, memory_num_tokens: int) -> None:
    """Raise ConfigError where a memory that needs slots has none."""
    if KINDS[memory_type].slots and not SLOTS.accepts(memory_num_tokens):
        raise ConfigError(
            f"memory_num_tokens must be > 0 and at most {SLOTS.most} when memory_type is {memory_type}, not "
            f"{shown(memory_num_tokens)}: it is the number of memory slots (of each expert); 16 suits most uses"
        )


def check_top_k(routing_top_k: int | None, num_experts: int) -> None:
    """Raise ConfigError where more experts are to be chosen than there are."""
    if routing_top_k is not None and routing_top_k > num_experts:
        raise ConfigError(
            f"routing_top_k must be at most the {num_experts} experts, or null for all of them, not {routing_top_k}"
        )


def check_strategies(strategies: str | Sequence[str], num_experts: int) -> None:
    """Raise ConfigError where a list of initializations is not as long as there are experts."""
    if not isinstance(strategies, str) and len(strategies) != num_experts:
        raise ConfigError(
            f"expert_init_strategies must be one name, or a list with one strategy for each of the {num_experts} "
            f"experts, not {len(strategies)}"
        )


def check_schedule(
    num_epochs: int, progressive_segments: Sequence[int] | None, warmup_fraction: float, decay_fraction: float
) -> None:
    """Raise ConfigError where a stage of the curriculum has no epoch, or rise and fall of the learning rate overlap."""
    stages = len(progressive_segments or ())
    if stages > num_epochs:
        raise ConfigError(
            f"num_epochs must be at least {stages}, one for each stage of progressive_segments "
            f"{shown(progressive_segments)}, not {num_epochs}"
        )
    if warmup_fraction + decay_fraction > 1:
        raise ConfigError(
            f"decay_fraction must be at most {1 - warmup_fraction:g}, which is what warmup_fraction {warmup_fraction} "
            f"leaves, not {decay_fraction}"
        )


def check_updates(num_updates: int, num_towns: int) -> None:
    """Raise ConfigError where more towns are to change than a load world has."""
    if num_updates > num_towns:
        raise ConfigError(f"num_updates must be at most num_towns, which is {num_towns}, not {num_updates}")


def check_heads(name: str, heads: int, d_model: int) -> None:
    """Raise ConfigError unless heads are slices of the hidden size."""
    if d_model % heads:
        raise ConfigError(f"{name} must divide d_model, which is {d_model}, not {heads}")

"""`TrainingConfig` and `GMMTrainingConfig`: everything a training run varies, and the guide's three presets."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Any, Self, get_type_hints

from gmmxlnet.errors import ConfigError
from gmmxlnet.memory_kinds import MAX_EXPERTS, MIN_EXPERTS
from gmmxlnet.models.configuration import MAX_MEMORY_SLOTS, GMMXLNetConfig
from gmmxlnet.utils.files import read_json, write_json

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(kw_only=True)
class TrainingConfig:
    """How to train, whatever the memory.

    Raises ConfigError when a value, or two together, cannot work.
    """

    output_dir: str = "outputs/gmm-xlnet"
    """Folder for what the trainer leaves."""
    seed: int = 13
    """Of the initial weights, the order of documents and dropout."""
    memory_num_tokens: int = 16
    """m: memory slots per expert, and read and write tokens per segment."""
    use_differentiable_memory: bool = False
    """The model trained has the memory without special tokens, for which `memory_num_tokens` may be 0."""
    num_epochs: int = 3
    """Passes over the documents."""
    max_steps: int | None = None
    """Stop after so many optimizer steps; None: after `num_epochs`."""
    batch_size: int = 4
    """Documents of a batch, whatever the number of processes that share it."""
    gradient_accumulation_steps: int = 1
    """Batches added up before the optimizer steps."""
    learning_rate: float = 5e-5
    """Peak of the schedule: a linear rise, a plateau, a linear fall to zero."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises."""
    decay_fraction: float = 0.9
    """Share of the steps, the last ones, in which it falls."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay; biases and norms are spared."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this Euclidean norm."""
    progressive_segments: list[int] | None = None
    """Most segments of a document in each stage of the curriculum; stages share the epochs evenly. None: never cut."""
    gradient_checkpointing: bool = False
    """Keep of each segment only the memory before it, and read it again in the backward pass: less room, more time."""
    precision: str = "float32"
    """`float32`, `bfloat16` or `float16`: of the encoder's products; routing and losses stay in float32."""
    fp16: bool = False
    """The guide's name for precision float16."""
    num_workers: int = 0
    """Processes that make batches; 0: the training process does."""
    device: str = "auto"
    """`auto`: a GPU where torch sees one; `cpu`; `cuda`."""
    logging_steps: int = 10
    """Steps between two lines of log."""
    hub_model_id: str | None = None
    """Model repository to share the model in: `upload_checkpoint(folder, config.hub_model_id)`, or `push_to_hub`."""
    hub_dataset_id: str | None = None
    """Dataset repository with prepared chunks: `documents_from_hub(config.hub_dataset_id, "train", folder)`."""
    resume_dir: str | None = None
    """Folder of the checkpoints that a killed training goes on from, of this training alone; None: none are kept."""
    save_steps: int | None = None
    """Steps between two of them; None: as often as saving takes 1% of the time, at most every 15 s."""
    save_total_limit: int = 2
    """How many of them are kept."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            wanted = (
                f"an integer in [{MIN_EXPERTS}, {MAX_EXPERTS}]" if name == "num_memory_experts" else _in_words(hint)
            )
            _require(_is_a(getattr(self, name), hint), name, getattr(self, name), wanted)
        for name in ("num_epochs", "batch_size", "gradient_accumulation_steps", "logging_steps", "save_total_limit"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "an integer >= 1")
        for name in ("max_steps", "save_steps"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "null or an integer >= 1")
        for name in ("num_workers", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "an integer >= 0")
        _require(
            0 <= self.memory_num_tokens <= MAX_MEMORY_SLOTS,
            "memory_num_tokens",
            self.memory_num_tokens,
            f"an integer in [0, {MAX_MEMORY_SLOTS}]",
        )
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "a number >= 0")
        for name in ("learning_rate", "max_grad_norm"):
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a number > 0")
        _require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "a number in [0, 1)")
        most = 1 - self.warmup_fraction
        _require(0 <= self.decay_fraction <= most, "decay_fraction", self.decay_fraction, f"a number in [0, {most:g}]")
        _require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        if self.fp16 and self.precision == "bfloat16":
            raise ConfigError("fp16 and precision bfloat16 contradict each other; set one of them")
        _require(self.device in DEVICES, "device", self.device, " or ".join(DEVICES))
        stages = self.progressive_segments
        _require(
            stages is None or (len(stages) > 0 and min(stages) >= 1),
            "progressive_segments",
            stages,
            "null or a list of integers >= 1",
        )
        if stages and self.num_epochs < len(stages):
            raise ConfigError(
                f"num_epochs must be at least {len(stages)}, one for each of progressive_segments {stages}, "
                f"not {self.num_epochs}"
            )

    def stage_of(self, epoch: int) -> int:
        """Index into `progressive_segments` of an epoch; the epochs are shared out evenly over the stages."""
        return epoch * len(self.progressive_segments or [0]) // self.num_epochs

    def max_segments_at(self, epoch: int) -> int | None:
        """Most segments of a document in an epoch; None: no limit."""
        return self.progressive_segments[self.stage_of(epoch)] if self.progressive_segments else None

    def to_json(self, path: str | Path) -> None:
        """Write all fields."""
        write_json(path, asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read what `to_json` wrote. Raises ConfigError where it is something else."""
        try:
            values = read_json(path)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON ({error}); write it with to_json") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: must be a mapping from fields to values, not {type(values).__name__}")
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"{path}: unknown field {unknown[0]!r}")
        return cls(**values)


@dataclass(kw_only=True)
class GMMTrainingConfig(TrainingConfig):
    """A training run with gated memories. Raises ConfigError as `TrainingConfig` and `GMMXLNetConfig` do."""

    use_gmm_memory: bool = False
    """Must be True for GMM training; False trains without memory."""
    num_memory_experts: int = 4
    """k, from 2 to 8."""
    routing_temperature: float = 1.0
    """Above 1 softer, below 1 sharper."""
    routing_mode: str = "write-based"
    """`write-based`: reads reuse the write routing; `read-based`: a second router reads."""
    pooling_method: str = "mean"
    """How the write states become one vector: `mean`, `max` or `attention`."""
    entropy_regularization_weight: float = 0.0
    """Of the routing's entropy, which it raises."""
    load_balance_weight: float = 0.01
    """Of the Switch loss."""
    memory_reconstruction_weight: float = 0.0
    """Of the loss that makes the memory tell what it has read."""
    memory_reconstruction_target: str = "recurring"
    """What it tells: `recurring`, the words so far that come again later, or `segment`, the words just read."""
    bptt_segments: int | None = None
    """Gradients cross at most this many segments, less one; None: all."""
    span_loss: str = "segment"
    """`segment` or `document`: what one softmax spans."""
    expert_init_strategies: list[str] | None = None
    """One of `learned`, `zeros`, `uniform`, `orthogonal` for each expert; None: all learned."""
    expert_dropout: float = 0.0
    """In training, the probability with which a document does without an expert; one always remains."""

    def __post_init__(self) -> None:
        if self.use_gmm_memory and self.memory_num_tokens <= 0:
            raise ConfigError(
                f"memory_num_tokens must be > 0 when use_gmm_memory is True (16 is usual), not {self.memory_num_tokens}"
            )
        super().__post_init__()
        if self.use_gmm_memory and self.use_differentiable_memory:
            raise ConfigError("use_gmm_memory and use_differentiable_memory exclude each other: set one of them")
        GMMXLNetConfig(**self._gmm_settings() | {"memory_slots": self.memory_num_tokens or 1})  # used or not

    def memory_settings(self) -> dict[str, Any]:
        """The memory's part as `GMMXLNetConfig` takes it."""
        if self.use_gmm_memory:
            return self._gmm_settings()
        none = {"memory_type": "none", "num_memory_experts": 0, "memory_slots": 0, "expert_init_strategies": None}
        return {**self._gmm_settings(), **none}

    def _gmm_settings(self) -> dict[str, Any]:
        settings = {
            "memory_type": "gmm",
            "num_memory_experts": self.num_memory_experts,
            "memory_slots": self.memory_num_tokens,
            "expert_init_strategies": self.expert_init_strategies,
            "expert_dropout": self.expert_dropout,
            "bptt_segments": self.bptt_segments,
            "span_loss": self.span_loss,
        }
        for name in (
            "routing_temperature",
            "routing_mode",
            "pooling_method",
            "entropy_regularization_weight",
            "load_balance_weight",
            "memory_reconstruction_weight",
            "memory_reconstruction_target",
        ):
            settings[name] = getattr(self, name)
        return settings


def gmm_small_config(**overrides: Any) -> GMMTrainingConfig:
    """Two experts: prototyping, little GPU memory."""
    return GMMTrainingConfig(**{"use_gmm_memory": True, "num_memory_experts": 2, **overrides})


def gmm_balanced_config(**overrides: Any) -> GMMTrainingConfig:
    """Four experts: the default."""
    return GMMTrainingConfig(**{"use_gmm_memory": True, "num_memory_experts": 4, **overrides})


def gmm_large_config(**overrides: Any) -> GMMTrainingConfig:
    """Eight experts: the most memory."""
    return GMMTrainingConfig(**{"use_gmm_memory": True, "num_memory_experts": 8, **overrides})


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ConfigError(f"{name} must be {wanted}, not {value!r}")


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a number, true is none."""
    if isinstance(hint, UnionType):
        return any(_is_a(value, kind) for kind in hint.__args__)
    if isinstance(hint, GenericAlias):  # list[...]
        return isinstance(value, list) and all(_is_a(item, hint.__args__[0]) for item in value)
    kinds = (int, float) if hint is float else (hint,)
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))


def _in_words(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(_in_words(kind) for kind in hint.__args__)
    return f"a list ({_in_words(hint.__args__[0])} each)" if isinstance(hint, GenericAlias) else _WORDS[hint]

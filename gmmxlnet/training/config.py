"""`TrainingConfig` and `GMMTrainingConfig`: the options of a training run, and the presets of docs/guide.md."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from gmmxlnet.errors import ConfigError
from gmmxlnet.options import (
    HUB,
    LOSS,
    MEMORY,
    RUN,
    TRAINING,
    Flag,
    Integer,
    Optional,
    Text,
    check_schedule,
    check_slots,
    check_strategies,
    require,
)
from gmmxlnet.utils.files import read_json, write_json

RULES = (
    RUN
    | MEMORY
    | LOSS
    | TRAINING
    | HUB
    | {
        "expert_init_strategies": Optional(MEMORY["expert_init_strategies"], "for learned"),
        "output_dir": Text("a folder's path"),
        "resume_dir": Optional(Text("a folder's path")),
        "logging_steps": Integer(1, 10**9),
        **{name: Flag() for name in ("use_differentiable_memory", "fp16", "use_gmm_memory")},
    }
)


@dataclass(kw_only=True)
class TrainingConfig:
    """Training options for any kind of memory.

    Raises ConfigError if a value, or a combination of values, is invalid.
    """

    output_dir: str = "outputs/gmm-xlnet"
    """Output folder of the Trainer."""
    seed: int = 13
    """Seed of the initial weights, the order of documents and dropout."""
    memory_num_tokens: int = 16
    """m: memory slots per expert, and read and write tokens per segment."""
    use_differentiable_memory: bool = False
    """Train a `differentiable` memory, which needs no special tokens; `memory_num_tokens` may be 0."""
    num_epochs: int = 3
    """Passes over the documents."""
    max_steps: int | None = None
    """Number of optimizer steps after which training stops; None: `num_epochs` decides."""
    batch_size: int = 4
    """Documents per batch, in all processes together."""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    learning_rate: float = 5e-5
    """Peak learning rate; the schedule is linear warmup, constant, linear decay to zero."""
    learning_rate_memory: float | None = None
    """Peak learning rate of what the base model does not have: memory, router, memory tokens and head; None:
    `learning_rate`."""
    warmup_fraction: float = 0.1
    """Fraction of the steps used for warmup."""
    decay_fraction: float = 0.9
    """Fraction of the steps, at the end, used for decay."""
    weight_decay: float = 0.01
    """AdamW's weight decay; not applied to biases and normalization layers."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradients, to which they are clipped."""
    progressive_segments: list[int] | None = None
    """Maximum segments per document in each curriculum stage; stages share the epochs evenly. None: no limit."""
    gradient_checkpointing: bool = False
    """Save only the memory state before each segment and recompute it in the backward pass: less memory, more time."""
    precision: str = "float32"
    """`float32`, `bfloat16` or `float16`: autocast dtype of the encoder; routing and losses stay in float32. `auto`:
    bfloat16 on a GPU that has it and on a CPU with AMX, float32 elsewhere."""
    fp16: bool = False
    """Alias of `precision="float16"`, used in docs/guide.md."""
    num_workers: int = 0
    """Processes that prepare batches; 0: the training process does."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if one is available."""
    logging_steps: int = 10
    """Steps between two log entries."""
    hub_model_id: str | None = None
    """Model repository on the Hub, for `upload_checkpoint(folder, config.hub_model_id)` or `push_to_hub`."""
    hub_dataset_id: str | None = None
    """Dataset repository with prepared chunks, for `documents_from_hub(config.hub_dataset_id, "train", folder)`."""
    resume_dir: str | None = None
    """Folder of this training's checkpoints, from which it resumes after an interruption; None: none are saved."""
    save_steps: int | None = None
    """Steps between two checkpoints; None: as often as 1% of the time allows, at most every 15 s."""
    save_total_limit: int = 2
    """Number of checkpoints to keep."""

    def __post_init__(self) -> None:
        require(RULES, vars(self))
        check_schedule(self.num_epochs, self.progressive_segments, self.warmup_fraction, self.decay_fraction)
        if self.fp16 and self.precision == "bfloat16":
            raise ConfigError("fp16 and precision bfloat16 contradict each other; set one of them")

    def stage_of(self, epoch: int) -> int:
        """Return an epoch's index into `progressive_segments`; stages share the epochs evenly."""
        return epoch * len(self.progressive_segments or [0]) // self.num_epochs

    def max_segments_at(self, epoch: int) -> int | None:
        """Return the maximum segments per document in an epoch; None: no limit."""
        return self.progressive_segments[self.stage_of(epoch)] if self.progressive_segments else None

    def to_json(self, path: str | Path) -> None:
        """Write all fields to a JSON file."""
        write_json(path, asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read a file written by `to_json`. Raises ConfigError if it is anything else."""
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
    """Training options for the gated mixture. Raises ConfigError like `TrainingConfig` and `GMMXLNetConfig`."""

    use_gmm_memory: bool = False
    """True trains a mixture; False trains without memory."""
    num_memory_experts: int = 4
    """Number of experts, k, from 2 to 8."""
    routing_temperature: float = 1.0
    """Temperature of the routing softmax: above 1 softer, below 1 sharper."""
    routing_mode: str = "write-based"
    """`write-based`: reads use the write routing; `read-based`: reads use a second router."""
    pooling_method: str = "mean"
    """Pooling of the write states for the router: `mean`, `max` or `attention`."""
    entropy_regularization_weight: float = 0.0
    """Weight of the routing's entropy, which is maximized."""
    load_balance_weight: float = 0.01
    """Weight of the load-balancing loss."""
    memory_reconstruction_weight: float = 0.0
    """Weight of the loss for predicting words that were read from the memory."""
    memory_reconstruction_target: str = "recurring"
    """Its targets: `recurring`, the words so far that occur again later, or `segment`, the words of the segment."""
    memory_association_weight: float = 0.0
    """Weight of the loss for predicting recurring words from the memory, given the words around them."""
    bptt_segments: int | None = None
    """Gradients flow through at most this many consecutive segments; None: no limit."""
    span_loss: str = "segment"
    """`segment` or `document`: the tokens over which one softmax is computed."""
    expert_init_strategies: list[str] | str | None = None
    """`learned`, `zeros`, `uniform` or `orthogonal`, one for all experts or a list; None: `learned`."""
    expert_dropout: float = 0.0
    """In training, probability of dropping an expert for a document; one is always kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_gmm_memory:
            check_slots("gmm", self.memory_num_tokens)
        if self.use_gmm_memory and self.use_differentiable_memory:
            raise ConfigError("use_gmm_memory and use_differentiable_memory exclude each other: set one of them")
        if self.expert_init_strategies is not None:
            check_strategies(self.expert_init_strategies, self.num_memory_experts)

    def memory_settings(self) -> dict[str, Any]:
        """Return the memory's options as arguments of `GMMXLNetConfig`."""
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name in MEMORY | LOSS}
        settings |= {"memory_type": "gmm", "memory_slots": settings.pop("memory_num_tokens")}
        if not self.use_gmm_memory:
            settings |= {"memory_type": "none", "num_memory_experts": 0, "memory_slots": 0}
            settings["expert_init_strategies"] = None
        return settings


def gmm_small_config(**overrides: Any) -> GMMTrainingConfig:
    """Two experts, for prototyping or little GPU memory."""
    return GMMTrainingConfig(**{"use_gmm_memory": True, "num_memory_experts": 2, **overrides})


def gmm_balanced_config(**overrides: Any) -> GMMTrainingConfig:
    """Four experts, the default."""
    return GMMTrainingConfig(**{"use_gmm_memory": True, "num_memory_experts": 4, **overrides})


def gmm_large_config(**overrides: Any) -> GMMTrainingConfig:
    """Eight experts, the largest capacity."""
    return GMMTrainingConfig(**{"use_gmm_memory": True, "num_memory_experts": 8, **overrides})

"""`TrainingConfig` and `GMMTrainingConfig`: everything a training run varies, and the guide's three presets."""

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
        require(RULES, vars(self))
        check_schedule(self.num_epochs, self.progressive_segments, self.warmup_fraction, self.decay_fraction)
        if self.fp16 and self.precision == "bfloat16":
            raise ConfigError("fp16 and precision bfloat16 contradict each other; set one of them")

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
    expert_init_strategies: list[str] | str | None = None
    """`learned`, `zeros`, `uniform` or `orthogonal`, for all experts or a list with one for each; None: all learned."""
    expert_dropout: float = 0.0
    """In training, the probability with which a document does without an expert; one always remains."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_gmm_memory:
            check_slots("gmm", self.memory_num_tokens)
        if self.use_gmm_memory and self.use_differentiable_memory:
            raise ConfigError("use_gmm_memory and use_differentiable_memory exclude each other: set one of them")
        if self.expert_init_strategies is not None:
            check_strategies(self.expert_init_strategies, self.num_memory_experts)

    def memory_settings(self) -> dict[str, Any]:
        """The memory's part as `GMMXLNetConfig` takes it."""
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name in MEMORY | LOSS}
        settings |= {"memory_type": "gmm", "memory_slots": settings.pop("memory_num_tokens")}
        if not self.use_gmm_memory:
            settings |= {"memory_type": "none", "num_memory_experts": 0, "memory_slots": 0}
            settings["expert_init_strategies"] = None
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

"""`GMMTrainer`: transformers' Trainer, for documents.

It adds the batches (documents of like length, cut by the curriculum), the losses' parts in the log, and a record of
every step. Optimizer, schedule, mixed precision, devices and the progress bar are the Trainer's.
"""

import csv
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers import ProgressCallback as TrainersProgressCallback

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.dataset import ChunkedSquadDataset
from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.training.config import GMMTrainingConfig, TrainingConfig
from gmmxlnet.training.progress import ProgressCallback
from gmmxlnet.training.sampler import DocumentBatchSampler
from gmmxlnet.utils.files import atomic_file

# What the guide sets in the training configuration and the model's loss reads from its own.
LOSS_SETTINGS = (
    "load_balance_weight",
    "entropy_regularization_weight",
    "memory_reconstruction_weight",
    "span_loss",
    "bptt_segments",
    "expert_dropout",
)


@dataclass
class StepRecord:
    """Values of every step, kept on the device until somebody asks, so that recording does not hold up the device.

    `seconds` are wall-clock times, which no run repeats; they are written to a file of their own.
    """

    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, values: dict[str, Tensor], seconds: float) -> None:
        """Append one step's scalars (the same names every time) and its end on the clock."""
        self.names = list(values)
        self.rows.append(torch.stack([value.detach().float() for value in values.values()]))
        self.seconds.append(seconds)

    def means(self, num_steps: int) -> dict[str, float]:
        """Each value's mean over the last steps; and tokens per second over them."""
        rows, clock = torch.stack(self.rows[-num_steps:]), self.seconds[-num_steps - 1 :]
        means = dict(zip(self.names, rows.mean(0).tolist(), strict=True))
        if len(clock) > 1:
            means["tokens_per_second"] = means["tokens"] * (len(clock) - 1) / (clock[-1] - clock[0])
        return means

    def write_csv(self, path: str | Path) -> None:
        """A line a step: all values, the same bits in every run on the same machine."""
        table = torch.stack(self.rows).tolist() if self.rows else []
        _write_csv(path, ["step", *self.names], ([n, *(f"{x:.6g}" for x in row)] for n, row in enumerate(table, 1)))

    def write_throughput_csv(self, path: str | Path) -> None:
        """A line a step: seconds since the first step ended, and tokens per second."""
        tokens = [row[self.names.index("tokens")].item() for row in self.rows]
        spans = [later - earlier for earlier, later in pairwise(self.seconds)]
        rows = ([n, f"{s:.3f}", f"{t / s:.1f}"] for n, (s, t) in enumerate(zip(spans, tokens[1:], strict=True), 2))
        _write_csv(path, ["step", "seconds", "tokens_per_second"], rows)


def _write_csv(path: str | Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with atomic_file(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


class CurriculumCallback(TrainerCallback):
    """Cuts documents as the stage of the epoch that begins says, and tells the sampler which epoch it is."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.loader: DataLoader | None = None
        self.most_segments: int | None = None  # in any stage

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the epoch's first batch is made."""
        epoch = int(state.epoch or 0)
        self.loader.batch_sampler.set_epoch(epoch)
        collator = self.loader.collate_fn
        collator.epoch = epoch
        limits = (self.config.max_segments_at(min(epoch, self.config.num_epochs - 1)), self.most_segments)
        collator.max_segments = min((limit for limit in limits if limit is not None), default=None)


class GMMTrainer(Trainer):
    """Trains a `GMMXLNetForQA` on `Documents`.

    Args:
        model: keeps its own loss weights, `span_loss` and `bptt_segments`, unless `config` is a `GMMTrainingConfig`.
        config: how to train.
        train_dataset: `Documents`, or a `ChunkedSquadDataset`; may be given to `train` instead.
        callbacks: further `TrainerCallback`s.

    After training, `record` holds a line a step: loss, its parts, learning rate, tokens, expert utilization.
    """

    def __init__(
        self,
        model: GMMXLNetForQA,
        config: TrainingConfig,
        train_dataset: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.config = config
        self.record = StepRecord()
        self._micro_batches: list[dict[str, Tensor]] = []
        self._curriculum = CurriculumCallback(config)
        if isinstance(config, GMMTrainingConfig):
            for name in LOSS_SETTINGS:
                setattr(model.config, name, getattr(config, name))
        callbacks = [self._curriculum, ProgressCallback(), *(callbacks or [])]
        super().__init__(model=model, args=training_arguments(config), callbacks=callbacks)
        for replaced in (PrinterCallback, TrainersProgressCallback):
            self.remove_callback(replaced)
        self._train_on(train_dataset)

    def train(self, train_dataset: Any = None, **kwargs: Any) -> Any:
        """Train on `train_dataset`, or on the one given at the start. Raises ConfigError where there is neither."""
        if train_dataset is not None:
            self._train_on(train_dataset)
        if self.train_documents is None:
            raise ConfigError("GMMTrainer.train needs a train_dataset")
        self.train_dataset = self.train_documents
        return super().train(**kwargs)

    def _train_on(self, dataset: Any) -> None:
        """Take documents as they are, or those behind a `ChunkedSquadDataset`, of which `max_n_segs` holds here too."""
        self.train_documents: Documents | None = dataset
        if isinstance(dataset, ChunkedSquadDataset):
            self.train_documents = dataset.documents
            self._curriculum.most_segments = dataset.collator.max_segments
        if self.train_documents is not None:
            self.model.config.segment_layout = self.train_documents.layout.lengths()

    def get_train_dataloader(self) -> DataLoader:
        """Batches of documents, ready for the device."""
        documents = self.train_documents
        sampler = DocumentBatchSampler(
            documents.num_segments(), documents.num_tokens(), self.config.batch_size, self.config.seed
        )
        collator = DocumentCollator(
            layout=documents.layout, memory_tokens=self.model.config.has_memory_tokens, seed=self.config.seed
        )
        self._curriculum.loader = DataLoader(
            documents,
            batch_sampler=sampler,
            collate_fn=collator,
            num_workers=self.config.num_workers,
            pin_memory=self.args.device.type == "cuda",
        )
        return self.accelerator.prepare(self._curriculum.loader)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate's rise, plateau and fall, now that the number of steps is known."""
        falling = round(self.config.decay_fraction * num_training_steps)
        self.args.lr_scheduler_kwargs = {"num_decay_steps": falling, "decay_type": "linear"}
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The model's own loss; its parts are kept for the record."""
        output = model(**inputs)
        values = {"loss": output.loss, **output.loss_parts, "tokens": inputs["attention_mask"].sum()}
        if output.routing_probs is not None:
            share_k = output.routing_probs.flatten(0, 1).sum(0) / inputs["num_segments"].sum()
            values |= {f"utilization_{j}": share for j, share in enumerate(share_k)}
        self._micro_batches.append({name: value.detach() for name, value in values.items()})
        if len(self._micro_batches) == self.current_gradient_accumulation_steps:
            self._record_step()
        return (output.loss, output) if return_outputs else output.loss

    def _record_step(self) -> None:
        """One line from the step's batches: tokens are added up, everything else is averaged."""
        step, self._micro_batches = self._micro_batches, []
        values = {name: torch.stack([batch[name].float() for batch in step]).mean() for name in step[0]}
        values["tokens"] = values["tokens"] * len(step)
        values["learning_rate"] = torch.tensor(self._get_learning_rate(), device=values["loss"].device)
        self.record.add(values, time.perf_counter())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means of the loss's parts since the last log, beside what the Trainer logs."""
        if "loss" in logs and self.record.rows:
            means = self.record.means(self.config.logging_steps)
            logs = {**{name: value for name, value in means.items() if name not in logs}, **logs}
        super().log(logs, start_time)


def training_arguments(config: TrainingConfig) -> TrainingArguments:
    """The Trainer's arguments for a configuration; deterministic algorithms are the caller's choice."""
    precision = "float16" if config.fp16 else config.precision
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU here; use auto or cpu")
    if precision == "float16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("precision float16 needs a GPU; use bfloat16 or float32")
    return TrainingArguments(
        output_dir=config.output_dir,
        seed=config.seed,
        data_seed=config.seed,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_fraction,  # below 1 the Trainer takes it as a share of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",
        lr_scheduler_type="warmup_stable_decay",  # `create_scheduler` adds how many steps it falls
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=config.device == "cpu",
        logging_steps=config.logging_steps,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,  # `ProgressCallback` shows how far it has come
        dataloader_num_workers=config.num_workers,
    )

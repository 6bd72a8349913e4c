"""`GMMTrainer`: transformers' Trainer for segmented documents.

It adds batches of documents of similar length, truncated by the curriculum; loss terms in the log; a record of every
step; and checkpoints from which an interrupted training resumes bitwise. Optimizer, schedule, mixed precision and
devices are the Trainer's.
"""

import logging
import signal
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers import ProgressCallback as TrainersProgressCallback
from transformers.trainer import TRAINER_STATE_NAME

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.dataset import ChunkedSquadDataset
from gmmxlnet.data.documents import Documents
from gmmxlnet.devices import choose_device, choose_precision
from gmmxlnet.errors import CheckpointError, ConfigError, Interrupted
from gmmxlnet.interrupts import StopRequest
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.attention import length_multiple
from gmmxlnet.models.configuration import LOSS_SETTINGS
from gmmxlnet.models.outputs import GMMXLNetOutput
from gmmxlnet.training import resume
from gmmxlnet.training.bptt import backward_in_chunks
from gmmxlnet.training.checkpoints import CheckpointStore
from gmmxlnet.training.config import GMMTrainingConfig, TrainingConfig
from gmmxlnet.training.parameter_groups import parameter_groups, step_memory_tokens_at
from gmmxlnet.training.progress_bar import ProgressCallback
from gmmxlnet.training.record import StepRecord
from gmmxlnet.training.sampler import DocumentBatchSampler
from gmmxlnet.utils.processes import Processes

logger = logging.getLogger(__name__)


class CurriculumCallback(TrainerCallback):
    """Sets the sampler's epoch and the maximum segments per document of the curriculum stage."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.loader: DataLoader | None = None
        self.most_segments: int | None = None  # limit for all stages

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Update sampler and collator before the epoch's first batch."""
        epoch = int(state.epoch or 0)
        self.loader.batch_sampler.set_epoch(epoch)
        collator = self.loader.collate_fn
        collator.epoch = epoch
        limits = (self.config.max_segments_at(min(epoch, self.config.num_epochs - 1)), self.most_segments)
        collator.max_segments = min((limit for limit in limits if limit is not None), default=None)


class GMMTrainer(Trainer):
    """Trains a `GMMXLNetForQA` on `Documents`.

    Args:
        model: its loss weights, `span_loss` and `bptt_segments` are replaced if `config` is a `GMMTrainingConfig`.
        config: the training options.
        train_dataset: `Documents`, or a `ChunkedSquadDataset`; may be given to `train` instead.
        callbacks: further `TrainerCallback`s.

    With several processes (`accelerate launch`) each processes its share of every batch; weights, log and record equal
    those of a single process up to floating-point precision, except that each process draws its own dropout.

    After training, `record` has one row per step: loss, its terms, learning rate, tokens, expert utilization. With
    `config.resume_dir`, `train` resumes from the newest intact checkpoint there; call `remove_checkpoints` once the
    trained model is saved. Processes on several machines need this folder under the same path. No checkpoints are saved
    with FSDP.

    Where checkpoints are saved, the first SIGINT (Ctrl-C), SIGTERM or SIGHUP ends training after the current step with
    a last checkpoint; a second one ends it at once.
    """

    optimizer: torch.optim.Optimizer | None  # the Trainer's, set by `create_optimizer`

    def __init__(
        self,
        model: GMMXLNetForQA,
        config: TrainingConfig,
        train_dataset: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        config.__post_init__()  # validate fields that were changed after construction
        if config.use_differentiable_memory and model.config.memory_type != "differentiable":
            raise ConfigError(
                f"use_differentiable_memory is set, but the model's memory_type is {model.config.memory_type}; "
                "build it with memory_type='differentiable'"
            )
        self.config = config
        self.record = StepRecord()
        self._micro_batches: list[dict[str, Tensor]] = []
        self._curriculum = CurriculumCallback(config)
        self._checkpoints: CheckpointStore | None = None  # only in the process that writes them
        if isinstance(config, GMMTrainingConfig):
            for name in LOSS_SETTINGS:  # docs/guide.md sets them here, the model reads its own configuration
                setattr(model.config, name, getattr(config, name))
        model.gradient_checkpointing = config.gradient_checkpointing
        self._progress = ProgressCallback()
        callbacks = [self._curriculum, self._progress, *(callbacks or [])]
        super().__init__(model=model, args=training_arguments(config), callbacks=callbacks)
        for replaced in (PrinterCallback, TrainersProgressCallback):
            self.remove_callback(replaced)
        self.processes = Processes.current()
        self._stop = StopRequest(active=False)  # this process's; `_stopping` is what all processes agreed on
        self._stopping = False
        self._save_schedule = resume.SaveSchedule(config.save_steps, self.processes, self._must_stop)
        self._train_on(train_dataset)

    def train(self, train_dataset: Any = None) -> Any:
        """Train on `train_dataset`, or on the dataset given to the constructor.

        Raises ConfigError if there is no dataset, CheckpointError if a checkpoint cannot be written or belongs to
        another training, Interrupted if a signal ended training.
        """
        if train_dataset is not None:
            self._train_on(train_dataset)
        if self.train_documents is None:
            raise ConfigError("GMMTrainer.train needs a train_dataset")
        self.train_dataset = self.train_documents
        self.record = StepRecord()
        newest = self._claim_checkpoints() if self.config.resume_dir is not None else None
        if self.processes.count > 1:
            torch.manual_seed(self.config.seed + self.processes.index)  # each process draws its own dropout
        self._stopping = False
        try:
            with StopRequest(active=self._save_schedule in self.callback_handler.callbacks) as self._stop:
                result = super().train(resume_from_checkpoint=None if newest is None else str(newest))
            if self._stopping or self._stop.requested:
                raise Interrupted(self._stop.signum or signal.SIGTERM)  # of another process
        except Interrupted as error:
            raise Interrupted(error.signum, self._kept()) from None
        finally:
            self._progress.close()
        # accelerate leaves its autocast wrapper around `forward`, so outputs would differ from those after loading.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return result

    def _must_stop(self) -> bool:
        """Whether a signal came: to this process, or with several to any of them by the time of the step's record."""
        if self.processes.count == 1:
            self._stopping = self._stop.requested
        return self._stopping

    def _kept(self) -> str:
        """Say how far training got and which checkpoint there is."""
        step, last = self.state.global_step, self.state.max_steps
        newest = None if self._checkpoints is None else self._checkpoints.last()
        if newest is not None and newest.is_relative_to(Path.cwd()):
            newest = newest.relative_to(Path.cwd())
        return f"after step {step:,} of {last:,}; {f'checkpoint {newest}' if newest else 'there is no checkpoint yet'}"

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints for resuming; call it once the trained model is saved elsewhere."""
        if self._checkpoints is not None:
            self._checkpoints.remove()
            self._checkpoints = None
            self.remove_callback(self._save_schedule)

    def _claim_checkpoints(self) -> Path | None:
        """Lock the folder of checkpoints and return the newest intact one. Raises CheckpointError."""
        if self.is_fsdp_enabled:
            if self.processes.is_main:
                logger.warning("FSDP spreads the weights: no checkpoints are kept; if killed, begin anew")
            return None
        store, claimed, newest = CheckpointStore(self.config.resume_dir, self.config.save_total_limit), False, None
        if self.processes.is_main:
            claimed = store.claim()
            if claimed:
                self._checkpoints, newest = store, store.newest()
            else:
                logger.warning("%s: another process trains this; training here keeps no checkpoints", store.folder)
        claimed, newest = self.processes.from_main((claimed, newest))
        if claimed:
            self.add_callback(self._save_schedule)
        if newest is None:
            return None
        if not newest.is_dir():
            raise CheckpointError(
                f"{newest}: is not there for process {self.processes.index}; keep checkpoints where every machine "
                "finds them under the same name, or remove the folder to begin anew"
            )
        resume.check_identity(newest, self._identity())
        resume.check_state(newest, self.model, self.processes.index)
        if self.processes.is_main:
            logger.info("training goes on from %s", newest)
        return newest

    def _identity(self) -> dict[str, Any]:
        return resume.training_identity(self.config, self.model, len(self.train_documents))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save a checkpoint; the Trainer calls this between two steps if a callback requested it."""
        start = time.perf_counter()
        self.store_flos()
        generators = self.processes.gather(resume.read_generators())
        if self._checkpoints is None:
            return
        with self._checkpoints.write(self.state.global_step) as folder:
            resume.write_state(
                folder,
                identity=self._identity(),
                model=self.model,
                optimizer=self.optimizer,
                scheduler=self.lr_scheduler,
                scaler=self.accelerator.scaler,
                record=self.record,
                generators=generators,
            )
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        self._save_schedule.saved(time.perf_counter() - start)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore model and record; the Trainer calls this before it prepares the model."""
        resume.load_model(Path(resume_from_checkpoint), self.model)
        self.record = resume.load_record(Path(resume_from_checkpoint), self.args.device)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore optimizer and scheduler; the Trainer calls this once both exist."""
        resume.load_optimizer(Path(checkpoint), self.model, self.optimizer, self.lr_scheduler)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Restore the gradient scaler of float16, whose scale depends on earlier steps; called by the Trainer."""
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(resume.read_scaler(Path(checkpoint), self.accelerator.scaler))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random generators; the Trainer calls this before the next step or the epoch's first batch."""
        resume.load_generators(Path(checkpoint), self.processes.index)

    def _train_on(self, dataset: Any) -> None:
        """Set the training documents; for a `ChunkedSquadDataset`, its documents and its `max_n_segs`."""
        self.train_documents: Documents | None = dataset
        if isinstance(dataset, ChunkedSquadDataset):
            self.train_documents = dataset.documents
            self._curriculum.most_segments = dataset.collator.max_segments
        if self.train_documents is not None:
            self.model.config.segment_layout = self.train_documents.layout.lengths()

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of batches of documents."""
        documents = self.train_documents
        sampler = DocumentBatchSampler(
            documents.num_segments(), documents.num_tokens(), self.config.batch_size, self.config.seed
        )
        collator = DocumentCollator(
            layout=documents.layout,
            memory_tokens=self.model.config.has_memory_tokens,
            seed=self.config.seed,
            pad_to_multiple_of=length_multiple(self.args.device),
            processes=self.processes,
        )
        self._curriculum.loader = DataLoader(
            documents,
            batch_sampler=sampler,
            collate_fn=collator,
            num_workers=self.config.num_workers,
            pin_memory=self.args.device.type == "cuda",
        )
        # Every process iterates over all batches and the collator selects its part, so accelerate must not split them.
        return prepare_data_loader(
            self._curriculum.loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW with two learning rates (`gmmxlnet.training.parameter_groups`).

        Raises ConfigError if FSDP spreads an embedding of which only some rows have a rate of their own.
        """
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        rate, config = self.config.learning_rate, self.model.config
        rate_memory = self.config.learning_rate_memory or rate
        groups = parameter_groups(
            model,
            self.get_decay_parameter_names(model),
            learning_rate=rate,
            learning_rate_memory=rate_memory,
            weight_decay=self.config.weight_decay,
        )
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        optimizer = self.optimizer = optimizer_class(groups, **options)
        if rate_memory != rate and config.has_memory_tokens and config.adapter is None:
            if self.is_fsdp_enabled:
                raise ConfigError("learning_rate_memory with memory tokens needs whole weights; unset it with FSDP")
            step_memory_tokens_at(rate_memory / rate, self.model, optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule (linear warmup, constant, linear decay) for this number of steps."""
        most = num_training_steps - self.args.get_warmup_steps(num_training_steps)  # warmup steps are rounded up
        falling = min(round(self.config.decay_fraction * num_training_steps), most)
        self.args.lr_scheduler_kwargs = {"num_decay_steps": falling, "decay_type": "linear"}
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the model's loss, and keep its terms for the record."""
        output = model(**inputs)
        self._record(output, inputs)
        return (output.loss, output) if return_outputs else output.loss

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Like the Trainer's, but documents of more than `bptt_segments` segments are processed chunk by chunk.

        Not with several processes: the gradients are the same, but memory use grows with S. After its last batch, a
        step is recorded: its backward pass is part of its time.
        """
        limit = self.model.config.bptt_segments
        if self.processes.count == 1 and limit and inputs["input_ids"].shape[1] > limit:
            loss = self._step_in_chunks(model, inputs)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if len(self._micro_batches) == self.current_gradient_accumulation_steps:
            self._record_step()
        return loss

    def _step_in_chunks(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        steps = self.current_gradient_accumulation_steps

        def backward(loss: Tensor) -> None:
            self.accelerator.backward(loss / steps, retain_graph=True)

        output = backward_in_chunks(model, inputs, backward=backward, autocast=self.accelerator.autocast)
        self._record(output, inputs)
        return output.loss / steps

    def _record(self, output: GMMXLNetOutput, inputs: dict[str, Tensor]) -> None:
        """Keep a batch's values for the step's record.

        For a batch shared by several processes, values are scaled so that their mean is that of the whole batch.
        """
        shared = self.processes.count > 1
        num_tokens = inputs["num_tokens"] if shared else inputs["attention_mask"].sum()
        values = {"loss": output.loss, **(output.loss_parts or {}), "tokens": num_tokens}
        if output.routing_probs is not None:
            num_segments = (inputs["active_documents"] if shared else inputs["num_segments"]).sum()
            share_k = self.processes.count * output.routing_probs.flatten(0, 1).sum(0) / num_segments
            values |= {f"utilization_{j}": share for j, share in enumerate(share_k)}
        self._micro_batches.append({name: value.detach() for name, value in values.items()})

    def _record_step(self) -> None:
        """Add a row for the step to the record: tokens are summed over its batches, other values are averaged."""
        step, self._micro_batches = self._micro_batches, []
        values = {name: torch.stack([batch[name].float() for batch in step]).mean() for name in step[0]}
        if self.processes.count > 1:
            asked = torch.tensor(float(self._stop.requested), device=values["loss"].device)
            *means, asked = self.processes.sum(torch.stack([*values.values(), asked])) / self.processes.count
            self._stopping = asked.item() > 0
            values = dict(zip(values, means, strict=True))
        values["tokens"] = values["tokens"] * len(step)
        values["learning_rate"] = torch.tensor(self._get_learning_rate(), device=values["loss"].device)
        self.record.add(values, time.perf_counter())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means of the loss and its terms since the last log, in addition to the Trainer's values.

        The Trainer's own mean would cover only the steps since training was resumed.
        """
        if "loss" in logs:
            logs = {**logs, **self.record.means(self.config.logging_steps)}
        if "train_loss" in logs and self.record.rows:
            logs["train_loss"] = self.record.means(len(self.record.rows))["loss"]
        super().log(logs, start_time)


def whole_model(model: GMMXLNetForQA) -> GMMXLNetForQA:
    """Return the model with all weights in this process; gathers them under FSDP, where every process must call."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    whole = GMMXLNetForQA(model.config).to(model.dtype)
    if Processes.current().is_main:  # only the main process receives the full state
        whole.load_state_dict(state)
    return whole


def training_arguments(config: TrainingConfig) -> TrainingArguments:
    """Return the Trainer's arguments for a configuration; the caller decides on deterministic algorithms."""
    device = choose_device(config.device)
    precision = choose_precision("float16" if config.fp16 else config.precision, device)
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision float16 needs a GPU; use bfloat16 or float32")
    arguments = TrainingArguments(
        output_dir=config.output_dir,
        seed=config.seed,
        data_seed=config.seed,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_fraction,  # values below 1 are a fraction of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        ddp_find_unused_parameters=True,  # documents of one segment do not use the memory
        optim="adamw_torch_fused",
        lr_scheduler_type="warmup_stable_decay",  # `create_scheduler` sets the number of decay steps
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=device.type == "cpu",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=precision == "float16",  # waits for the device each step; float16 may overflow at first
        save_strategy="no",  # `SaveSchedule` requests checkpoints
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,  # replaced by `ProgressCallback`
        dataloader_num_workers=config.num_workers,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one GPU per process, no DataParallel
    return arguments

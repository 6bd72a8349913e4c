"""From parameters and chunks to a trained model's folder: what the train stage and `make long-documents` share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import add_memory_tokens, load_tokenizer
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.build import pretrained_model, scratch_model
from gmmxlnet.models.checkpoint import seal
from gmmxlnet.options import LOSS, MEMORY, RUN, TRAINING
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.trainer import whole_model
from gmmxlnet.utils.files import atomic_folder
from gmmxlnet.utils.processes import Processes
from gmmxlnet.utils.seeding import seed_everything
from gmmxlnet.verification.fingerprint import Fingerprint
from pipeline.experiment import Experiment
from pipeline.params import Params
from pipeline.places import TOKENIZER, find_local


def memory_settings(params: Params) -> dict[str, Any]:
    """The part of the parameters that `GMMXLNetConfig` takes."""
    settings = {name: getattr(params, name) for name in MEMORY | LOSS}
    settings["memory_slots"] = settings.pop("memory_num_tokens")
    mem_len = settings.pop("mem_len")
    if KINDS[params.memory_type].caches:
        settings["mem_len"] = mem_len or params.active.max_seq_length
    return settings


def training_config(params: Params, output_dir: Path, resume_dir: Path) -> TrainingConfig:
    """The part of the parameters that the trainer takes."""
    return TrainingConfig(
        **{name: getattr(params.active, name) for name in TRAINING},
        **{name: getattr(params, name) for name in RUN},
        memory_num_tokens=params.memory_num_tokens,
        output_dir=str(output_dir),
        resume_dir=str(resume_dir),
    )


def build_model(params: Params, tokenizer: PreTrainedTokenizerBase) -> GMMXLNetForQA:
    """The model before training."""
    active = params.active
    if active.base_model == "scratch":
        return scratch_model(active.scratch_size.model_dump(), tokenizer, memory_settings(params))
    settings = memory_settings(params)
    if active.dropout is not None:
        settings["dropout"] = active.dropout
    lora = AdapterSize(rank=params.lora_rank, alpha=params.lora_alpha, dropout=params.lora_dropout)
    return pretrained_model(
        find_local(active.base_model),
        active.base_model_revision,
        tokenizer,
        settings,
        adapter=lora if params.adapter == "lora" else None,
        recorded_name=active.base_model,
    )


def train_model(
    params: Params,
    chunks: Path,
    folder: Path,
    resume_dir: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    also: Callable[[Path, GMMTrainer, GMMXLNetForQA], None] | None = None,
) -> tuple[GMMTrainer, GMMXLNetForQA]:
    """Train on the chunks and write the model with what is needed to use it and to check it; returns it on the CPU.

    Several processes train together where a launcher started them; one of them writes.

    Args:
        folder: what is there is replaced, whole or not at all.
        resume_dir: where checkpoints go, and where a training that was killed goes on from. They stay until the
            caller has kept all it needs: `trainer.remove_checkpoints()`.
        also: writes more files into the model's folder before it is sealed.
    """
    seed_everything(params.seed)
    tokenizer = load_tokenizer(str(chunks / TOKENIZER))
    trainer = GMMTrainer(
        build_model(params, tokenizer),
        training_config(params, folder.parent, resume_dir),  # the Trainer makes a folder of this name at once
        callbacks=list(callbacks),
    )
    trainer.train(Documents.open(chunks, "train"))
    model = whole_model(trainer.model)
    if Processes.current().is_main:
        if model.config.has_memory_tokens:
            add_memory_tokens(tokenizer, model.config.memory_slots)
        with atomic_folder(folder) as scratch:
            if also is not None:
                also(scratch, trainer, model)
            model = model.cpu()
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(str(scratch))
            Fingerprint.of(model).write(scratch)
            Experiment.of(params, chunks).write(scratch)
            seal(scratch)
    return trainer, model

"""Stage train: chunks to a model (`models/gmm/`) and a line a step (`reports/training.csv`)."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import add_memory_tokens, load_tokenizer
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.adapters import size_beside_base
from gmmxlnet.models.build import pretrained_model, scratch_model
from gmmxlnet.models.checkpoint import seal
from gmmxlnet.options import LOSS, MEMORY, RUN, TRAINING
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.trainer import whole_model
from gmmxlnet.utils.files import atomic_folder
from gmmxlnet.utils.seeding import seed_everything
from gmmxlnet.verification.fingerprint import Fingerprint
from pipeline.cost import log_cost
from pipeline.experiment import Experiment
from pipeline.launch import join, run_together
from pipeline.params import Params, load_params
from pipeline.places import find_local
from pipeline.resume_key import resume_folder, training_key
from pipeline.stage import run_stage
from pipeline.tracking import MLflowCallback, no_run, start_run

CHUNKS = Path("data/chunks")
MODEL = Path("models/gmm")
STEPS = Path("reports/training.csv")
THROUGHPUT = Path("reports/throughput.csv")


def memory_settings(params: Params) -> dict[str, Any]:
    """The part of the parameters that `GMMXLNetConfig` takes."""
    settings = {name: getattr(params, name) for name in MEMORY | LOSS}
    settings["memory_slots"] = settings.pop("memory_num_tokens")
    if params.memory_type == "mems":
        settings["mem_len"] = params.active.max_seq_length  # the segment before, whole
    return settings


def training_config(params: Params, resume_dir: Path) -> TrainingConfig:
    """The part of the parameters that the trainer takes."""
    return TrainingConfig(
        **{name: getattr(params.active, name) for name in TRAINING},
        **{name: getattr(params, name) for name in RUN},
        memory_num_tokens=params.memory_num_tokens,
        output_dir=str(MODEL),
        resume_dir=str(resume_dir),
    )


def build_model(params: Params, tokenizer: PreTrainedTokenizerBase) -> GMMXLNetForQA:
    """The model before training."""
    active = params.active
    if active.base_model == "scratch":
        return scratch_model(active.scratch_size.model_dump(), tokenizer, memory_settings(params))
    lora = AdapterSize(rank=params.lora_rank, alpha=params.lora_alpha, dropout=params.lora_dropout)
    return pretrained_model(
        find_local(active.base_model),
        active.base_model_revision,
        tokenizer,
        memory_settings(params),
        adapter=lora if params.adapter == "lora" else None,
        recorded_name=active.base_model,
    )


def main() -> None:
    """Train, and write the model with what is needed to use it and to check it."""
    params = load_params()
    if run_together(params):
        return
    seed_everything(params.seed)
    processes = join(params.device)
    tokenizer = load_tokenizer(str(CHUNKS / "tokenizer"))
    model = build_model(params, tokenizer)
    experiment, documents = Experiment.of(params, CHUNKS), Documents.open(CHUNKS, "train")
    key = training_key(experiment)
    with start_run(experiment, key) if processes.is_main else no_run() as run:
        trainer = GMMTrainer(model, training_config(params, resume_folder(key)), callbacks=[MLflowCallback(run)])
        run.log_dataset(experiment, documents)
        trainer.train(documents)
        model = whole_model(trainer.model)
        if not processes.is_main:
            return
        log_cost(run, trainer, model)
        if model.config.has_memory_tokens:
            add_memory_tokens(tokenizer, model.config.memory_slots)
        model = model.cpu()
        with atomic_folder(MODEL) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            Fingerprint.of(model).write(folder)
            experiment.write(folder)
            seal(folder)
        trainer.record.write_csv(STEPS)
        trainer.record.write_throughput_csv(THROUGHPUT)
        run.log_model(MODEL, experiment.name)
        run.log_file(STEPS, "reports")
        trainer.remove_checkpoints()
    parameters = f"{model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters trained"
    if model.config.adapter is not None:
        parameters += f" (the adapter has {size_beside_base(model)})"
    print(f"train: {trainer.state.global_step:,} steps, {parameters} -> {MODEL}, {STEPS}")


if __name__ == "__main__":
    run_stage(main)

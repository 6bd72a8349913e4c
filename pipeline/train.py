"""Stage train: chunks to a model (`models/gmm/`) and a line a step (`reports/training.csv`)."""

import logging

import torch

from gmmxlnet.data.documents import Documents
from gmmxlnet.devices import processor_kind
from gmmxlnet.messages import say
from gmmxlnet.models.adapters import size_beside_base
from gmmxlnet.utils.files import digest_of
from pipeline.cost import log_cost
from pipeline.experiment import Experiment
from pipeline.launch import check_agreement, join, run_together
from pipeline.params import load_params
from pipeline.places import CHUNKS, MODEL, PARAMS, THROUGHPUT, TRAINING_CSV
from pipeline.provenance import write_trained
from pipeline.resume_key import code_hashes, resume_folder, training_key
from pipeline.stage import run_stage
from pipeline.tracking import MLflowCallback, no_run, start_run
from pipeline.training import train_model

logger = logging.getLogger("pipeline.train")  # also where it is run as a program


def main() -> None:
    """Trains, and logs cost and results to MLflow."""
    params = load_params()
    if run_together(params):
        return
    processes = join(params.device)
    experiment, documents = Experiment.of(params, CHUNKS), Documents.open(CHUNKS, "train")
    parts = {CHUNKS.as_posix(): experiment.data, PARAMS.as_posix(): digest_of(experiment.parameters)}
    check_agreement(processes, parts | {"pipeline/ or gmmxlnet/": digest_of(code_hashes())})
    key = training_key(experiment)
    with start_run(experiment, key) if processes.is_main else no_run() as run:
        run.log_dataset(experiment, documents)
        trainer, model = train_model(
            params,
            CHUNKS,
            MODEL,
            resume_folder(key),
            callbacks=[MLflowCallback(run)],
            also=lambda folder, trainer, model: log_cost(run, trainer, model),
        )
        if not processes.is_main:
            return
        trainer.record.write_csv(TRAINING_CSV)
        trainer.record.write_throughput_csv(THROUGHPUT)
        write_trained(trainer.args.device)
        run.log_model(MODEL, experiment.name)
        run.log_file(TRAINING_CSV, "reports")
        trainer.remove_checkpoints()
    parameters = f"{model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters trained"
    if model.config.adapter is not None:
        parameters += f" (the adapter has {size_beside_base(model)})"
    say(f"train: {trainer.state.global_step:,} steps, {parameters} -> {MODEL}, {TRAINING_CSV}")
    kind, threads = processor_kind(), torch.get_num_threads()
    logger.info(
        "train: processor %s, %d threads; where these are the same, so are the bits (docs/running.md)", kind, threads
    )


if __name__ == "__main__":
    run_stage(main)

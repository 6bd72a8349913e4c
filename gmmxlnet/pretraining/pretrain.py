"""`pretrain`: trains an encoder on a corpus and writes a folder that can be the `base_model` in params.yaml.

It uses `GMMTrainer`, and hence transformers' Trainer, for optimizer, schedule, mixed precision, progress, and
checkpoints from which an interrupted run resumes bitwise. Only the batches are specific to pretraining.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from gmmxlnet.devices import autocast_dtype, choose_device, choose_precision
from gmmxlnet.errors import ConfigError
from gmmxlnet.models.induction import start_with_induction_heads
from gmmxlnet.pretraining.corpus import Corpus
from gmmxlnet.pretraining.masking import MaskedSpanCollator
from gmmxlnet.pretraining.model import MaskedSpanXLNet, as_xlnet
from gmmxlnet.pretraining.settings import PretrainingSettings
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.sampler import DocumentBatchSampler
from gmmxlnet.utils.files import atomic_folder, write_json
from gmmxlnet.utils.processes import Processes
from gmmxlnet.utils.seeding import seed_everything
from gmmxlnet.utils.tensors import weights_hash

REPORT = "pretraining.json"


def training_config(
    settings: PretrainingSettings, num_windows: int, resume_dir: Path, num_workers: int, save_steps: int | None
) -> TrainingConfig:
    """Return the trainer's configuration, with as many epochs as the steps need. Raises ConfigError."""
    steps_an_epoch = math.ceil(math.ceil(num_windows / settings.batch_size) / settings.gradient_accumulation_steps)
    names = ("batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_fraction", "weight_decay")
    return TrainingConfig(
        **{name: getattr(settings, name) for name in (*names, "precision", "device", "seed")},
        num_epochs=math.ceil(settings.steps / steps_an_epoch),
        max_steps=settings.steps,
        decay_fraction=1 - settings.warmup_fraction,
        output_dir=str(resume_dir),
        resume_dir=str(resume_dir),
        num_workers=num_workers,
        save_steps=save_steps,
    )


class PretrainingTrainer(GMMTrainer):
    """`GMMTrainer` for windows of a corpus instead of documents.

    Args:
        windows: the collator; its epoch is set at the beginning of each epoch.
        described: further values that affect the result, saved in the checkpoints' identity.
    """

    def __init__(
        self,
        model: MaskedSpanXLNet,
        config: TrainingConfig,
        windows: MaskedSpanCollator,
        described: dict[str, Any],
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.windows, self.described = windows, described
        super().__init__(model, config, range(windows.num_windows), callbacks=list(callbacks))

    def _train_on(self, dataset: Any) -> None:
        self.train_documents = dataset

    def _identity(self) -> dict[str, Any]:
        return super()._identity() | self.described

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of batches of windows, in an order given by seed and epoch."""
        equal_N = np.ones(self.windows.num_windows, np.int64)
        self._curriculum.loader = DataLoader(
            self.train_documents,
            batch_sampler=DocumentBatchSampler(equal_N, equal_N, self.config.batch_size, self.config.seed),
            collate_fn=self.windows,
            num_workers=self.config.num_workers,
            pin_memory=self.args.device.type == "cuda",
        )
        return self.accelerator.prepare(self._curriculum.loader)


def pretrain(
    corpus: Corpus,
    settings: PretrainingSettings,
    output: str | Path,
    *,
    num_workers: int = 0,
    save_steps: int | None = None,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Pretrain, evaluate on the held-out paragraphs and write the folder; returns its report, `pretraining.json`.

    An interrupted run resumes from its newest checkpoint in `.<output>.resume` next to the output.

    Args:
        num_workers: processes that prepare batches. save_steps: steps between two checkpoints; None: as often as 1% of
            the time allows. Neither affects the result.
        callbacks: further `TrainerCallback`s.

    Raises ConfigError, CheckpointError.
    """
    if Processes.current().count > 1:
        raise ConfigError("pretraining runs in one process on one device; start it without a launcher")
    settings = replace(settings, precision=choose_precision(settings.precision, choose_device(settings.device)))
    output = Path(output)
    seed_everything(settings.seed)
    tokenizer = corpus.tokenizer()
    windows, heldout = (
        MaskedSpanCollator.of(
            tokens, tokenizer, length=settings.length, mask_share=settings.mask_share, seed=settings.seed
        )
        for tokens in (corpus.train, corpus.heldout)
    )
    model = MaskedSpanXLNet(settings.encoder_config(tokenizer))
    if settings.induction_heads:
        start_with_induction_heads(model)
    resume_dir = output.with_name(f".{output.name}.resume")
    config = training_config(settings, windows.num_windows, resume_dir, num_workers, save_steps)
    described = {"corpus": corpus.digest, "length": settings.length, "mask_share": settings.mask_share}
    trainer = PretrainingTrainer(model, config, windows, described, callbacks)
    trainer.train()
    scores = score(model, heldout, settings) | unigram_floor(corpus.train, heldout)
    xlnet = as_xlnet(model.cpu())
    report = {
        "heldout": scores,
        "parameters": xlnet.num_parameters(),
        "tokens_read": int(sum(row[trainer.record.names.index("tokens")].item() for row in trainer.record.rows)),
        "weights_sha256": weights_hash(xlnet.state_dict()),
        "settings": asdict(settings),
        "corpus": {name: value for name, value in corpus.manifest.items() if name != "files"},
    }
    with atomic_folder(output) as folder:
        xlnet.save_pretrained(folder)
        tokenizer.save_pretrained(str(folder))
        trainer.record.write_csv(folder / "pretraining.csv")
        write_json(folder / REPORT, report)
    trainer.remove_checkpoints()
    return report


@torch.inference_mode()
def score(model: MaskedSpanXLNet, heldout: MaskedSpanCollator, settings: PretrainingSettings) -> dict[str, float]:
    """Compute loss (nats), perplexity and accuracy on the masked tokens of a fixed set of held-out windows."""
    device = choose_device(settings.device)
    dtype = autocast_dtype(settings.precision, device)
    model = model.to(device).eval()
    loss = correct = num_masked = 0.0
    for first in range(0, heldout.num_windows, settings.batch_size):
        batch = heldout(range(first, min(first + settings.batch_size, heldout.num_windows)))
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            output = model(**{name: tensor.to(device) for name, tensor in batch.items()})
        count = int((batch["labels"] >= 0).sum())
        loss += output.loss.item() * count
        correct += output.loss_parts["accuracy"].item() * count
        num_masked += count
    loss /= num_masked
    return {"loss": loss, "perplexity": math.exp(loss), "masked_accuracy": correct / num_masked, "tokens": num_masked}


def unigram_floor(train_T: np.ndarray, heldout: MaskedSpanCollator) -> dict[str, float]:
    """Compute loss (nats) and accuracy of the training tokens' unigram frequencies on the same masked tokens."""
    labels = heldout(range(heldout.num_windows))["labels"].numpy()
    truth_N = labels[labels >= 0]
    counts_V = np.bincount(train_T, minlength=heldout.vocab_size) + 1  # add-one smoothing
    return {
        "unigram_loss": float(-np.log(counts_V[truth_N] / counts_V.sum()).mean()),
        "unigram_accuracy": float((truth_N == counts_V.argmax()).mean()),
    }

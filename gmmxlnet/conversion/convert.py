"""`convert`: from the name of a BERT and some text to the folder of an XLNet."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import XLNetModel

from gmmxlnet.conversion.algebra import start_segments, student_config, transplant
from gmmxlnet.conversion.card import conversion_card
from gmmxlnet.conversion.distillation import Distillation, Distiller
from gmmxlnet.conversion.families import Teacher, read_teacher
from gmmxlnet.conversion.positions import fit_positions
from gmmxlnet.conversion.report import heldout_batches, measure
from gmmxlnet.conversion.settings import ConversionSettings
from gmmxlnet.conversion.tokenizer import renamed_tokenizer
from gmmxlnet.conversion.windows import Windows, corpus_digest, hold_out
from gmmxlnet.devices import autocast_dtype, choose_device
from gmmxlnet.errors import CheckpointError, ConfigError
from gmmxlnet.pretraining.corpus import read_paragraphs
from gmmxlnet.pretraining.model import MaskedSpanXLNet, as_xlnet
from gmmxlnet.utils.files import atomic_folder, write_json
from gmmxlnet.utils.seeding import seed_everything
from gmmxlnet.utils.tensors import weights_hash

logger = logging.getLogger(__name__)
REPORT, CARD = "conversion.json", "README.md"
POSITIONS_APART = 8  # of those that the word embeddings are averaged over
FITTED_TEXTS = 16  # that positions are fitted on


def convert(
    source: str,
    output: str | Path,
    texts: Sequence[str | Path],
    settings: ConversionSettings,
    *,
    revision: str | None = None,
    license: str | None = None,
) -> dict[str, Any]:
    """Convert, distill, measure and write the folder; returns its report, `conversion.json`.

    An interrupted conversion resumes from its newest state in `.<output>.resume` next to the output.

    Args:
        source: a folder or a Hub id (at `revision`).
        texts: SQuAD files (.json, their paragraphs), text files (paragraphs between blank lines), or folders of .txt.
        license: license of the source; defaults to that of its model card.

    Raises CheckpointError, ConfigError, DataError.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and ((output / REPORT).exists() or not any(output.iterdir()))):
        raise CheckpointError(f"{output}: is there already and is no converted encoder; name a new folder")
    seed_everything(settings.seed)
    teacher = read_teacher(source, revision=revision)
    if settings.max_length > teacher.config.max_position_embeddings:
        raise ConfigError(
            f"max_length {settings.max_length} is more than the {teacher.config.max_position_embeddings} positions of "
            f"{teacher.name}; lower it"
        )
    tokenizer = renamed_tokenizer(teacher.tokenizer, settings.max_length)
    paragraphs = read_paragraphs(texts)
    conversion = _Conversion(teacher, paragraphs, settings)
    corpus = {"sources": [Path(text).name for text in texts], **conversion.corpus}
    made_from = {
        "name": teacher.name,
        "commit": teacher.commit,
        "license": license or teacher.license,
        "weights_sha256": weights_hash(teacher.model.state_dict()),
    }
    resume_dir = output.with_name(f".{output.name}.resume")
    after, training = conversion.run(resume_dir, {"corpus": corpus["sha256"], "source": made_from["weights_sha256"]})
    xlnet = conversion.exported()
    report = {
        "source": made_from,
        "corpus": corpus,
        "settings": asdict(settings),
        "config": {name: getattr(xlnet.config, name) for name in ("n_layer", "d_model", "n_head", "d_inner")},
        "parameters": xlnet.num_parameters(),
        "heldout": {"tokens": sum(int(batch.attention_mask.sum()) for batch in conversion.batches)},
        "after": after,
        "distillation": training,
        "weights_sha256": weights_hash(xlnet.state_dict()),
    }
    with atomic_folder(output) as folder:
        xlnet.save_pretrained(folder)
        tokenizer.save_pretrained(str(folder))
        write_json(folder / REPORT, report)
        (folder / CARD).write_text(conversion_card(output.name, report), encoding="utf-8")
    shutil.rmtree(resume_dir, ignore_errors=True)
    return report


class _Conversion:
    """The teacher, its student, and the texts for distillation and evaluation."""

    def __init__(self, teacher: Teacher, paragraphs: Sequence[str], settings: ConversionSettings) -> None:
        self.teacher, self.settings = teacher, settings
        self.device = choose_device(settings.device)
        self.learned, heldout = (
            Windows.of(part, teacher.tokenizer, text_type=teacher.text_type, seed=settings.seed)
            for part in hold_out(paragraphs, settings.seed)
        )
        self.corpus = {
            "paragraphs": len(paragraphs),
            "tokens": len(self.learned.ids_T) + len(heldout.ids_T),
            "sha256": corpus_digest(paragraphs),
        }
        self.batches = heldout_batches(heldout, settings.max_length)
        tokens = {f"{name}_token_id": getattr(teacher.tokenizer, f"{name}_token_id") for name in ("pad", "sep")}
        vocab_size = max(teacher.tokenizer.get_vocab().values()) + 1  # some embeddings have rows that no token uses
        config = student_config(teacher.config, vocab_size=vocab_size, clamp_len=settings.max_length - 1, **tokens)
        self.student = MaskedSpanXLNet(config)

    def run(self, resume_dir: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run the three steps; returns the metrics after each, and the report of the distillation."""
        teacher, settings, encoder = self.teacher, self.settings, self.student.encoder
        shift_Nd = transplant(
            teacher.model,
            encoder,
            ridge=settings.ridge,
            positions=range(1, settings.max_length, POSITIONS_APART),
            token_type=teacher.text_type,
        )
        after = {"algebra": self._measure(shift_Nd, "algebra")}
        rng = np.random.default_rng([settings.seed, 2**31 + 1])
        rows_Bn = self.learned.plain(rng, num_windows=FITTED_TEXTS, length=settings.max_length)
        explained = fit_positions(teacher.model, encoder, rows_Bn, text_type=teacher.text_type)
        after["positions"] = self._measure(shift_Nd, "positions")
        after["positions"]["explained_by_layer"] = [round(share, 4) for share in explained]
        start_segments(encoder, settings.seed)
        distiller = self._distiller(shift_Nd, identity | {"settings": self._decisive()}, resume_dir)
        distiller.run()
        self._move(torch.device("cpu"))
        after["distillation"] = self._measure(shift_Nd, "distillation")
        return after, distiller.report()

    def _distiller(self, shift_Nd: Tensor, identity: dict[str, Any], resume_dir: Path) -> Distiller:
        settings = self.settings
        self._move(self.device)
        how = Distillation(
            minutes=settings.minutes,
            steps=settings.steps,
            tokens=settings.tokens_per_step,
            longest=settings.max_length,
            learning_rate=settings.learning_rate,
            dtype=autocast_dtype(settings.precision, self.device),
        )
        return Distiller(
            self.teacher,
            self.student.encoder,
            shift_Nd.to(self.device),
            self.learned,
            how,
            identity=identity,
            resume_dir=resume_dir,
        )

    def _decisive(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self.settings).items() if name not in ("minutes", "steps")}

    def _move(self, device: torch.device) -> None:
        self.teacher.model.to(device)  # type: ignore[arg-type]  # as transformers wraps it
        self.student.encoder.to(device)

    def _measure(self, shift_Nd: Tensor, step: str) -> dict[str, Any]:
        found = measure(self.teacher, self.student.encoder, shift_Nd, self.batches)
        logger.info("after %s: cosine of the last layer %.3f", step, found["cosine_by_layer"][-1])
        return found

    def exported(self) -> XLNetModel:
        """Convert the student to transformers, with its teacher's dropout."""
        self.student.config.dropout = self.teacher.config.hidden_dropout_prob
        xlnet = as_xlnet(self.student).transformer
        xlnet.config.mem_len = None  # no cache unless somebody asks for one, as XLNet's own checkpoints have it
        xlnet.config.sep_token_id = self.student.config.sep_token_id
        return xlnet

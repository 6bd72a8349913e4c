"""Damaged checkpoints of an interrupted training, hashed again: training goes on to its end, or says why it cannot."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from gmmxlnet.data.documents import Documents
from gmmxlnet.training import GMMTrainer, TrainingConfig
from gmmxlnet.training.checkpoints import MANIFEST
from gmmxlnet.training.resume import MODEL, TENSORS, VALUES
from gmmxlnet.utils.files import sha256_of
from scripts.fuzzing.chunks import make_chunks
from scripts.fuzzing.damage import damage_bytes_of, damage_json_of
from scripts.fuzzing.models import make_model

STATE = "trainer_state.json"
STEPS = 4


class _BreakOffError(Exception):
    """The end of a process."""


class _BreakOff(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS - 1:
            raise _BreakOffError


class ResumeCases:
    """Cases by seed and number."""

    name = "resume folders"

    def __init__(self, scratch: Path) -> None:
        self.chunks, _ = make_chunks(scratch)
        self.original, self.target = scratch / "original", scratch / "resume"
        logging.getLogger("gmmxlnet").setLevel(logging.ERROR)
        trainer = self._trainer(self.original, _BreakOff())
        with contextlib.suppress(_BreakOffError):
            trainer.train()
        self.original.joinpath("lock").unlink()
        self.weights = self._finish(self.original)

    def _trainer(self, folder: Path, *callbacks: TrainerCallback) -> GMMTrainer:
        model, _ = make_model(self.chunks)
        config = TrainingConfig(
            batch_size=3,
            max_steps=STEPS,
            learning_rate=1e-2,
            device="cpu",
            save_steps=1,
            resume_dir=str(folder),
            output_dir=str(folder / "out"),
        )
        return GMMTrainer(model, config, Documents.open(self.chunks, "train"), callbacks=list(callbacks))

    def _finish(self, original: Path) -> dict[str, torch.Tensor]:
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(original, self.target)
        trainer = self._trainer(self.target)
        trainer.train()
        trainer.remove_checkpoints()
        return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.original, self.target)
        newest = sorted(self.target.glob("step-*"))[-1]
        name = rng.choice((VALUES, VALUES, STATE, MODEL, TENSORS, TENSORS, MANIFEST))
        path, how = newest / name, rng.choice(("bytes", "content", "content", "moved files"))
        if how == "bytes":
            damage_bytes_of(rng, path)
        elif how == "moved files":
            path.unlink()
            if rng.random() < 0.3:
                path.mkdir()
        elif path.suffix == ".json":
            damage_json_of(rng, path)
        else:
            self._other_tensors(rng, path)
        hashed = name != MANIFEST and rng.random() < 0.85
        if hashed:
            hashes = {
                file.name: sha256_of(file) for file in newest.iterdir() if file.is_file() and file.name != MANIFEST
            }
            (newest / MANIFEST).write_text(json.dumps({"format_version": 1, "sha256": hashes}), encoding="utf-8")
        return f"{how} of {name}{' under new hashes' if hashed else ''}", lambda: self._read(hashed)

    def _other_tensors(self, rng: Random, path: Path) -> None:
        tensors = load_file(path)
        name, other, how = rng.choice(sorted(tensors)), rng.choice(sorted(tensors)), rng.randrange(7)
        if how == 0:
            del tensors[name]
        elif how == 1:
            tensors[name + "x"] = tensors.pop(name)
        elif how == 2:
            tensors[name] = tensors[name].to(rng.choice((torch.float16, torch.float64, torch.int32, torch.uint8)))
        elif how == 3:
            tensors[name] = tensors[name].flatten()[: rng.randrange(3)]
        elif how == 4:
            tensors[name] = tensors[other].clone()
        elif how == 5:
            tensors[name] = tensors[name].unsqueeze(0)
        else:
            tensors[name] = torch.zeros_like(tensors[name]) - rng.choice((0, 1))
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)

    def _read(self, hashed: bool) -> None:
        trainer = self._trainer(self.target)
        trainer.train()
        assert trainer.state.global_step == STEPS
        assert len(trainer.record.rows) == STEPS
        trainer.record.write_csv(self.target / "training.csv")
        found = trainer.model.state_dict()
        if not hashed:  # what is damaged was left alone, so the outcome is that of a training without a break
            assert all(torch.equal(found[name], self.weights[name]) for name in self.weights), "other weights"
        trainer.remove_checkpoints()

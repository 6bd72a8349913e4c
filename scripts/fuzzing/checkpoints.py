"""Damaged checkpoints: whole folders of small models, one thing of them changed, sealed again in half of the cases.

What is loaded must be what was saved; where hashes were made to fit (`adopt`), or there are none (a plain XLNet), it
must be what lies in the files, which are read here by other means.
"""

import contextlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.data.tokenizer import add_memory_tokens, load_tokenizer, scratch_tokenizer
from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_frozen, name_in_model
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.models.checkpoint import MANIFEST, seal
from gmmxlnet.models.xlnet_weights import xlnet_tensors
from gmmxlnet.verification import verify
from gmmxlnet.verification.fingerprint import Fingerprint, probe_logits
from scripts.fuzzing.damage import damage_bytes_of, damaged_json

SIZE: dict[str, Any] = {"d_model": 8, "n_head": 2, "n_layer": 1, "d_inner": 8, "initializer_range": 0.3}
WORDS = " ".join(f"word{n}" for n in range(60))
KINDS: dict[str, dict[str, Any]] = {
    "gmm2": {"memory_type": "gmm", "num_memory_experts": 2, "memory_slots": 2},
    "gmm3": {
        **{"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 2},
        **{"routing_mode": "read-based", "pooling_method": "attention"},
    },
    "token": {"memory_type": "token", "memory_slots": 2},
    "differentiable": {"memory_type": "differentiable", "memory_slots": 2, "memory_heads": 2},
    "mems": {"memory_type": "mems", "mem_len": 16},
    "words": {"memory_type": "words", "mem_len": 16},
    "none": {"memory_type": "none"},
}
ADAPTER, PLAIN = "adapter", "xlnet"  # an adapter of a mixture, and transformers' own XLNet, which is its base
TRIPWIRE = "tripped"


class Tripwire:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class CheckpointCases:
    """Cases by seed and number."""

    name = "checkpoints"

    def __init__(self, scratch: Path) -> None:
        self.originals, self.target = scratch / "originals", scratch / "damaged"
        self.tripwire = scratch / TRIPWIRE
        tokenizer = scratch_tokenizer([WORDS])
        self.states: dict[str, dict[str, Tensor]] = {}
        torch.manual_seed(0)
        for name, kind in KINDS.items():
            slots = 2 * kind["memory_slots"] if kind["memory_type"] in ("gmm", "token") else 0
            model = GMMXLNetForQA(GMMXLNetConfig(**SIZE, **kind, vocab_size=len(tokenizer) + slots))
            self._save(name, model.eval(), tokenizer, slots)
        self.base = str(self.originals / PLAIN)
        base = XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(tokenizer), **SIZE))
        base.save_pretrained(self.base)
        adapted = pretrained_model(
            self.base, None, tokenizer, KINDS["gmm2"], adapter=AdapterSize(rank=2), recorded_name="base"
        )
        for parameter in adapted.parameters():
            if parameter.requires_grad:  # LoRA's B is zero at first
                parameter.data.normal_()
        self._save(ADAPTER, adapted.eval(), tokenizer, 2 * KINDS["gmm2"]["memory_slots"])
        self.names = sorted([*KINDS, ADAPTER, PLAIN])

    def _save(self, name: str, model: GMMXLNetForQA, tokenizer: Any, slots: int) -> None:
        folder = self.originals / name
        model.save_pretrained(folder, max_shard_size="3KB" if name == "gmm3" else "5GB")
        tokenizer.save_pretrained(folder)
        if slots:
            own = load_tokenizer(str(folder))
            add_memory_tokens(own, slots // 2)
            own.save_pretrained(folder)
        Fingerprint.of(model).write(folder)
        seal(folder)
        self.states[name] = model.state_dict()

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        name = rng.choice(self.names)
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.originals / name, self.target)
        how = rng.choice(sorted(DAMAGES))
        DAMAGES[how](rng, self.target, self)
        adopted = name != PLAIN and rng.random() < 0.5
        return f"{how}{' under new hashes' if adopted else ''}", lambda: self._read(adopted)

    def _read(self, adopted: bool) -> None:
        if adopted:
            GMMXLNetForQA.adopt(self.target, base_model=self.base)
        old = (self.target / "pytorch_model.bin").exists()
        try:
            model = self._load(old)
            if (self.target / "tokenizer.json").exists():
                load_tokenizer(str(self.target))
        finally:
            if self.tripwire.exists():
                self.tripwire.unlink()
                raise AssertionError("a pickle was run")
        found = model.state_dict()
        if self._model_type() == PLAIN:
            expected = xlnet_tensors(self._lying_there(old))
        elif adopted or old:
            expected = self._lying_there(old)
        else:
            expected = next((s for s in self.states.values() if s.keys() == found.keys() and _same(s, found)), {})
        if not _same(expected, found):
            raise AssertionError("what was loaded is not what was saved")
        if not torch.isfinite(torch.cat([x.flatten().double() for x in found.values()])).all():
            raise AssertionError("NaN was loaded")
        probe_logits(model)

    def _load(self, old: bool) -> GMMXLNetForQA:
        try:
            return GMMXLNetForQA.from_pretrained(self.target, use_safetensors=not old, base_model=self.base)
        except CheckpointError:
            assert old or not verify(self.target, "structure").passed, "verify passes what does not load"
            raise

    def _model_type(self) -> Any:
        return json.loads((self.target / "config.json").read_text(encoding="utf-8")).get("model_type")

    def _lying_there(self, old: bool) -> dict[str, Tensor]:
        if old:
            return torch.load(self.target / "pytorch_model.bin", map_location="cpu", weights_only=True)
        tensors = {}
        for file in sorted(self.target.glob("*.safetensors")):
            for key, tensor in load_file(file).items():
                tensors[name_in_model(key) if file.name == ADAPTER_WEIGHTS else key] = tensor
        if (self.target / ADAPTER_WEIGHTS).exists():
            dtype = next(iter(tensors.values())).dtype
            tensors |= {name: x.to(dtype) for name, x in self.states[ADAPTER].items() if is_frozen(name)}
        return tensors


def _same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# Damages: each changes one thing in the folder


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _bytes(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    path = rng.choice(_files(folder))
    damage_bytes_of(rng, path)


def _json(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    names = ["config.json", "config.json", "config.json", MANIFEST, "model.safetensors.index.json", "tokenizer.json"]
    path = rng.choice([folder / name for name in [*names, ADAPTER_CONFIG] if (folder / name).exists()])
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(damaged_json(rng, value), encoding="utf-8")


def _header(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    """Edit what a safetensors file says about its tensors."""
    path = rng.choice(_files(folder, "*.safetensors"))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    entry, how = header[name], rng.randrange(8)
    if how == 0:
        header[rng.choice((name + "x", name.upper(), "", "__metadata__"))] = header.pop(name)
    elif how == 1:
        entry["dtype"] = rng.choice(("F64", "I64", "BF16", "U8", "BOOL", "F8_E4M3", "X", "", 3))
    elif how == 2:
        entry["shape"] = rng.choice(([2**62, 2**62], [-1], [0], [], entry["shape"][::-1], [10**12], [1.5], "x"))
    elif how == 3:
        shift = rng.choice((-4, 4, 10**12))
        entry["data_offsets"] = [offset + shift for offset in entry["data_offsets"]]
    elif how == 4:
        header["__metadata__"] = rng.choice((None, [], {"format": "tf"}, {"a": 1}, "x"))
    elif how == 5:
        other = rng.choice(sorted(set(header) - {"__metadata__"}))
        header[name], header[other] = header[other], header[name]
    text = json.dumps(header)
    if how == 6:
        text = text[:-1] + "," + json.dumps(name) + ":" + json.dumps(entry) + "}"
    encoded = text.encode()
    size = rng.choice((0, 1, 2**40, 2**64 - 1, len(encoded) + 1)) if how == 7 else len(encoded)
    path.write_bytes(size.to_bytes(8, "little") + encoded + data)


def _tensors(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    """Write sound files of other tensors."""
    path = rng.choice(_files(folder, "*.safetensors"))
    tensors = load_file(path)
    name, other = rng.choice(sorted(tensors)), rng.choice(sorted(tensors))
    how = rng.randrange(9)
    if how == 0:
        del tensors[name]
    elif how == 1:
        tensors["stray"] = torch.zeros(2)
    elif how == 2:
        tensors[name] = tensors[name].to(rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.int32)))
    elif how == 3:
        tensors[name] = tensors[name].flatten()
    elif how == 4:
        tensors[name] = torch.full_like(tensors[name], rng.choice((float("nan"), float("inf"), 3e38, 0.0, -1e30)))
    elif how == 5:
        tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()
    elif how == 6:
        tensors[name] = tensors[name].flatten()[:0]
    elif how == 7:
        tensors = {key: tensor.to(torch.bfloat16) for key, tensor in tensors.items()}
    else:
        tensors[name] = tensors[name] + 1
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _swapped(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    """Take a file, or all weights, of another checkpoint."""
    other = cases.originals / rng.choice(cases.names)
    patterns = ["*.safetensors", "*.safetensors*", "config.json", MANIFEST, "tokenizer.json", "fingerprint.json"]
    for path in _files(other, rng.choice(patterns)):
        shutil.copyfile(path, folder / path.name)


def _files_moved(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    """Remove, rename, or put something else in a file's place."""
    path = rng.choice(_files(folder))
    how = rng.randrange(6)
    if how == 0:
        path.unlink()
    elif how == 1:
        path.rename(folder / rng.choice(("model.safetensors", "model-00001-of-00009.safetensors", "config.json", "x")))
    elif how == 2:
        path.unlink()
        path.mkdir()
    elif how == 3:
        path.unlink()
        path.symlink_to(path.name)
    elif how == 4:
        (folder / "model-00001-of-00001.safetensors").write_bytes(path.read_bytes())
    else:
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')


def _pickled(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    """Put a pickle that would run code in a file's place, bare or as torch packs it."""
    data = pickle.dumps({"qa_head.bias": Tripwire(cases.tripwire)}, protocol=rng.choice((0, 2, 4)))
    if rng.random() < 0.5:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
        data = packed.getvalue()
    names = ["pytorch_model.bin", "model.safetensors", "config.json", MANIFEST, "tokenizer.json", "training_args.bin"]
    name = rng.choice([*names, "adapter_model.bin", "spiece.model"])
    if name == "pytorch_model.bin":
        for path in _files(folder, "model*.safetensors*"):
            path.unlink()
    (folder / name).write_bytes(data)


def _old_weights(rng: Random, folder: Path, cases: CheckpointCases) -> None:
    """The weights as older versions of transformers wrote them, damaged or not."""
    tensors: dict[str, Any] = {}
    for path in _files(folder, "*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    for path in _files(folder, "*.index.json"):
        path.unlink()
    name = rng.choice(sorted(tensors))
    how = rng.randrange(5)
    if how == 0:
        tensors[name] = rng.choice((None, 3, "x", [1], torch.zeros(2).to_sparse(), torch.zeros(1, device="meta")))
    elif how == 1:
        del tensors[name]
    elif how == 2:
        tensors[name] = tensors[name].double()
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path)
    if how == 3:
        damage_bytes_of(rng, path)
    for file in _files(folder, "tokenizer.json"):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
    if how != 4:
        return
    save_file({key: x.clone() for key, x in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGES: dict[str, Callable[[Random, Path, CheckpointCases], None]] = {
    "bytes": _bytes,
    "json": _json,
    "header": _header,
    "tensors": _tensors,
    "swapped files": _swapped,
    "moved files": _files_moved,
    "pickles": _pickled,
    "old weights": _old_weights,
}

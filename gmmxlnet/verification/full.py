"""Checks with the model itself: load it elsewhere, change each of its components, damage each of its files."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gmmxlnet.errors import CheckpointError
from gmmxlnet.interrupts import describe_exit
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapters import is_lora
from gmmxlnet.models.checkpoint import MANIFEST, Opened
from gmmxlnet.models.memories.gated import MemoryGatingNetwork
from gmmxlnet.verification.fingerprint import FILE_NAME, Fingerprint, probe_logits

SOFTEST_ROUTING = 1000.0  # temperature at which even unused experts get weight


# Load in a fresh process


def check_reload(folder: Path, opened: Opened, seed: int) -> dict[str, Any]:
    """Load in a fresh process with another seed, and compare tensors and logits with the trained model's, bit for bit.

    The trained model's are in fingerprint.json if training wrote it; otherwise this process loads the model. The fresh
    process loads a second folder too, in which one bit of one tensor was changed and all hashes were made to fit: the
    comparison must notice it.
    """
    trained = Fingerprint.read(folder) if (folder / FILE_NAME).exists() else Fingerprint.of(load(folder))
    with tempfile.TemporaryDirectory() as scratch:
        altered_folder = Path(scratch) / "altered"
        copy_with_a_changed_bit(folder, altered_folder, opened)
        loaded, altered = in_fresh_process([folder, altered_folder], seed + 1)
    names = sorted(set(trained.tensors) | set(loaded.tensors))
    return {
        "bit_identical": trained == loaded,
        "tensors": len(loaded.tensors),
        "differing_tensors": [name for name in names if trained.tensors.get(name) != loaded.tensors.get(name)],
        "max_abs_logit_diff": trained.max_abs_logit_diff(loaded),
        "fresh_process": True,
        "negative_control_detected": altered.tensors != loaded.tensors,
        "tensor_sha256": loaded.tensors,
    }


def load(folder: Path) -> GMMXLNetForQA:
    """The model."""
    return GMMXLNetForQA.from_pretrained(folder)


def in_fresh_process(folders: list[Path], seed: int) -> list[Fingerprint]:
    """The fingerprints of checkpoints that another process loads. Raises CheckpointError where it cannot."""
    done = subprocess.run(
        [sys.executable, "-m", "gmmxlnet.verification.fingerprint", "--seed", str(seed), *map(str, folders)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else describe_exit(done.returncode)
        raise CheckpointError(f"{folders[0]}: cannot be loaded in a fresh process: {reason}")
    return [Fingerprint(**json.loads(line)) for line in done.stdout.splitlines()]


def copy_with_a_changed_bit(folder: Path, target: Path, opened: Opened) -> None:
    """A checkpoint with one bit of its last tensor changed, and a manifest that fits."""
    stored = opened.stored[max(opened.stored)]
    weights = stored.file.name
    with changed_copy(folder, target, weights):
        tensors = load_file(folder / weights)
        tensors[stored.key].view(-1).view(torch.uint8)[0] ^= 1
        save_file(tensors, target / weights, metadata={"format": "pt"})
    (target / FILE_NAME).unlink(missing_ok=True)
    (target / MANIFEST).unlink()
    GMMXLNetForQA.adopt(target)


# Change each component


def check_components(model: GMMXLNetForQA) -> str:
    """Perturbs each component separately: the logits must change, else its weights have no effect.

    Zeros hide what they multiply (a new adapter, a new memory bank), so noise is put on all parameters first; and
    routing is made soft, so that experts which the router has given up are seen too.
    """
    noisy = copy.deepcopy(model).float().eval()
    generator = torch.Generator().manual_seed(0)
    for module in noisy.modules():
        if isinstance(module, MemoryGatingNetwork):
            module.temperature = max(module.temperature, SOFTEST_ROUTING)
    for parameter in noisy.parameters():
        _perturb(parameter, 0.05, generator)
    before = probe_logits(noisy)
    components = components_of(noisy)
    unmoved = []
    for name, parameters in components.items():
        kept = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            _perturb(parameter, 0.5, generator)
        if torch.equal(probe_logits(noisy), before):
            unmoved.append(name)
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data.copy_(value)
    if unmoved:
        raise CheckpointError(f"{model.config.name_or_path}: the logits do not depend on {', '.join(unmoved)}")
    return f"each of {len(components)} components moves the logits: {_in_short(components)}"


@torch.no_grad()
def _perturb(parameter: nn.Parameter, amount: float, generator: torch.Generator) -> None:
    scale = max(parameter.square().mean().sqrt().item(), 0.02)
    parameter.add_(torch.randn(parameter.shape, generator=generator) * scale * amount)


def components_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by what they are a part of: each layer, expert, gate, candidate, router, reader, the head."""
    components: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        components.setdefault(_component(name), []).append(parameter)
    return components


def _component(name: str) -> str:
    if is_lora(name):
        return re.sub(r"encoder\.layers\.(\d+)\.(.+)\.lora_.*", r"adapter.\2.\1", name)
    numbered = re.match(r".+?\.\d+(?=\.)", name)
    return numbered[0] if numbered else re.sub(r"\.(weight|bias)$", "", ".".join(name.split(".")[:2]))


def _in_short(names: dict[str, Any]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        kind = re.sub(r"[._]\d+$", "", name)
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(kind if count == 1 else f"{kind} x{count}" for kind, count in counts.items())


# Damage each file


def check_damage(folder: Path, opened: Opened) -> str:
    """Deletes, truncates or flips a bit of each file of a copy; loading must raise CheckpointError."""
    files = [*sorted(opened.manifest.files), MANIFEST]
    for name in files:
        for how, damage in DAMAGES.items():
            with tempfile.TemporaryDirectory() as scratch:
                target = Path(scratch) / "damaged"
                with changed_copy(folder, target, name):
                    damage(target / name)
                try:
                    load(target)
                except CheckpointError:
                    continue
            raise CheckpointError(f"{folder}: loads although {name} was {how}")
    return f"{len(files)} files, each {', '.join(DAMAGES)}: refused every time"


@contextmanager
def changed_copy(folder: Path, target: Path, name: str) -> Iterator[None]:
    """A copy of a folder in which only the file `name` is one of its own, for the block to change."""
    shutil.copytree(folder.resolve(), target, copy_function=os.symlink)
    (target / name).unlink()
    shutil.copyfile(folder / name, target / name)
    yield


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    """Change the lowest bit of the middle byte; in JSON of the letter or digit nearest to it, which has a meaning."""
    content = path.read_bytes()
    middle = len(content) // 2
    places = range(middle, len(content))
    place = next(i for i in places if path.suffix != ".json" or content[i : i + 1].isalnum())
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes([content[place] ^ 1]))


DAMAGES: dict[str, Callable[[Path], None]] = {"deleted": Path.unlink, "cut in half": _cut, "changed in a bit": _flip}

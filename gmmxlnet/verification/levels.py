"""`verify`: the checks of a level in their order, and the comparison with another checkpoint."""

from pathlib import Path

import torch

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.checkpoint import Opened, open_checkpoint, read_config
from gmmxlnet.models.checkpoint.adapter_files import saved_part
from gmmxlnet.models.checkpoint.manifest import Manifest
from gmmxlnet.models.checkpoint.weights import Stored, read_headers, read_tensors
from gmmxlnet.models.configuration import BOOKKEEPING, GMMXLNetConfig
from gmmxlnet.verification import full, static
from gmmxlnet.verification.checks import LEVELS, Report, check_folder
from gmmxlnet.verification.fingerprint import FILE_NAME, Fingerprint, probe_logits


def verify(folder: str | Path, level: str = "structure", *, against: str | Path | None = None, seed: int = 0) -> Report:
    """Check a checkpoint's folder.

    Args:
        level: `quick`, `structure` or `full`.
        against: another checkpoint that must be the same: settings, tensors and, at level full, logits.
        seed: of the process that loads the model at level full (it takes the next number).

    Returns: a report; it raises nothing where the checkpoint is bad.
    """
    folder = Path(folder)
    report = Report(folder=str(folder), level=level)
    opened = _quick(report, folder)
    if LEVELS.index(level) >= LEVELS.index("structure"):
        _structure(report, folder, opened)
    if level == "full" and report.passed and opened is not None:
        _full(report, folder, opened, seed)
    if against is not None and report.passed:
        report.add("against", lambda: compare(folder, Path(against), level))
    return report


def _quick(report: Report, folder: Path) -> Opened | None:
    if not report.add("folder", lambda: check_folder(folder)):
        return None
    parts = {"config": lambda: f"version {read_config(folder).version}", "headers": lambda: _headers(folder)}
    parts["manifest"] = lambda: f"made with gmmxlnet {Manifest.read(folder).made_with.get('gmmxlnet')}"
    if not all([report.add(name, check) for name, check in parts.items()]):
        return None
    found: list[Opened] = []

    def opens() -> str:
        found.append(open_checkpoint(GMMXLNetForQA, folder))
        return static.describe(found[0])

    if not report.add("fit", opens):
        return None
    opened = found[0]
    if opened.config.adapter is not None:
        report.add("adapter", lambda: static.describe_adapter(opened))
    report.add("libraries", lambda: static.check_libraries(opened))
    report.add("files", lambda: static.check_sizes_of_files(folder, opened))
    report.add("pollution", lambda: static.check_pollution(folder, opened))
    return opened


def _headers(folder: Path) -> str:
    stored = read_headers(folder)
    return f"{len(stored)} tensors in {len({tensor.file for tensor in stored.values()})} file(s)"


def _structure(report: Report, folder: Path, opened: Opened | None) -> None:
    if opened is None:
        return
    records, tensors = static.tensor_records(opened)
    report.tensors = records
    report.add("tensors", lambda: static.check_tensors(folder, records, tensors))
    report.add("hashes", lambda: _hashes(folder, opened))
    if (folder / FILE_NAME).exists():
        report.add("trained", lambda: _as_trained(report, folder, opened.config))


def _hashes(folder: Path, opened: Opened) -> str:
    opened.manifest.check_files(folder)
    return "every file has the SHA-256 that was saved"


def _as_trained(report: Report, folder: Path, config: GMMXLNetConfig) -> str:
    trained = saved_part(config, Fingerprint.read(folder).tensors)
    found = {name: record["sha256"] for name, record in report.tensors.items()}
    differing = sorted(name for name in {*trained, *found} if trained.get(name) != found.get(name))
    if differing:
        raise CheckpointError(
            f"{folder}: {len(differing)} tensors differ from the trained model's, such as {differing[0]}"
        )
    return f"the tensors are the trained model's, which {FILE_NAME} remembers"


def _full(report: Report, folder: Path, opened: Opened, seed: int) -> None:
    def reload() -> str:
        report.reload = found = full.check_reload(folder, opened, seed)
        if not found["bit_identical"]:
            raise CheckpointError(
                f"{folder}: reloaded, the model differs from the trained one in {len(found['differing_tensors'])} "
                f"tensors and by {found['max_abs_logit_diff']} in its logits"
            )
        return f"a fresh process with another seed finds the same bits in {found['tensors']} tensors and all logits"

    def control() -> str:
        if not report.reload["negative_control_detected"]:
            raise CheckpointError(
                f"{folder}: a changed bit was not noticed, so the check proves nothing; this is a bug"
            )
        return "one changed bit under hashes that fit is noticed"

    if report.add("reload", reload):
        report.add("control", control)
    report.add("components", lambda: full.check_components(full.load(folder)))
    report.add("damage", lambda: full.check_damage(folder, opened))


def compare(folder: Path, other: Path, level: str) -> str:
    """Two checkpoints that must be the same: settings and headers; from `structure` tensors; at `full` logits."""
    opened = [open_checkpoint(GMMXLNetForQA, path) for path in (folder, other)]
    one, two = (x.config.to_dict() for x in opened)
    keys = sorted({*one, *two} - set(BOOKKEEPING))
    changed = [f"{key} {one.get(key)!r} / {two.get(key)!r}" for key in keys if one.get(key) != two.get(key)]
    heads = [{name: (x.dtype, x.shape) for name, x in o.stored.items()} for o in opened]
    names = sorted(name for name in {*heads[0], *heads[1]} if heads[0].get(name) != heads[1].get(name))
    changed += [f"{name} {heads[0].get(name)} / {heads[1].get(name)}" for name in names]
    if not changed and level != "quick":
        changed = _changed_tensors(opened[0].stored, opened[1].stored)
    if not changed and level == "full":
        logits = [probe_logits(full.load(path)) for path in (folder, other)]
        if not torch.equal(*logits):
            changed = [f"logits by up to {(logits[0] - logits[1]).abs().max().item()}"]
    if changed:
        raise CheckpointError(f"{folder} / {other}: {len(changed)} differences: {'; '.join(changed[:8])}")
    what = {"quick": "settings and headers", "structure": "settings and tensors"}.get(
        level, "settings, tensors, logits"
    )
    return f"the same as {other}: {what}"


def _changed_tensors(one: dict[str, Stored], two: dict[str, Stored]) -> list[str]:
    tensors = [read_tensors(stored) for stored in (one, two)]
    return [
        f"{name} by up to {(tensor.double() - tensors[1][name].double()).abs().max().item()}"
        for name, tensor in sorted(tensors[0].items())
        if not torch.equal(tensor, tensors[1][name])
    ]

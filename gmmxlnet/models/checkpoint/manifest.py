"""`checkpoint.json`: the manifest of a checkpoint, which shows whether its folder is unchanged since it was saved.

    format, version    gmmxlnet-checkpoint, the version of config.json
    made_with          versions of gmmxlnet, torch, transformers, safetensors and Python (3.11, …)
    config             contents of config.json
    tensors            dtype, shape and SHA-256 of every tensor of the model
    shared             further names of shared tensors, and the name each is saved under
    files              size and SHA-256 of every file
    sha256             SHA-256 of all other entries

`save_pretrained` writes it last. `seal` adds files that were saved later (tokenizer, experiment.json); `adopt` writes a
new one for a folder that was edited on purpose. README.md is not listed, since model cards are edited on the Hub.
"""

import platform
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import gmmxlnet
from gmmxlnet.errors import CheckpointError
from gmmxlnet.folder_files import is_inside, regular_files
from gmmxlnet.messages import said
from gmmxlnet.utils.files import digest_of, read_object, sha256_of, write_json

MANIFEST = "checkpoint.json"
FORMAT = "gmmxlnet-checkpoint"
CONFIG = "config.json"
NOT_LISTED = (MANIFEST, "README.md", ".gitattributes")
_LIBRARIES = ("torch", "transformers", "safetensors")
_KEYS = ("format", "version", "made_with", "config", "tensors", "shared", "files", "sha256")
_UNSET = object()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `checkpoint.json`, described in the module's docstring."""

    version: str
    config: dict[str, Any]
    tensors: dict[str, dict[str, Any]]  # name -> dtype (a safetensors name), shape, sha256
    shared: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> size, sha256
    made_with: dict[str, str] = field(default_factory=lambda: versions())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of a checkpoint. Raises CheckpointError if it is missing, damaged or altered."""
        path = folder / MANIFEST
        values = read_object(
            path,
            missing="without it nothing says whether the checkpoint is what was saved; save it again with "
            f"save_pretrained, or, if you trust it as it is: {adopt_command(folder)}",
        )
        if values.get("format") != FORMAT:
            raise CheckpointError(f"{path}: is not a manifest of {FORMAT}; get the checkpoint again")
        digest = values.get("sha256")
        if digest != digest_of({key: value for key, value in values.items() if key != "sha256"}):
            raise CheckpointError(f"{path}: altered (its SHA-256 differs); get the checkpoint again")
        if set(values) != set(_KEYS) or not _well_formed(values):
            raise CheckpointError(f"{path}: is incomplete or has values of wrong types; get the checkpoint again")
        return cls(**{key: values[key] for key in _KEYS if key not in ("format", "sha256")})

    def write(self, folder: Path) -> None:
        """Write `checkpoint.json` atomically."""
        values = {"format": FORMAT} | {key: getattr(self, key) for key in _KEYS if key not in ("format", "sha256")}
        write_json(folder / MANIFEST, values | {"sha256": digest_of(values)})

    def check_config(self, folder: Path, found: dict[str, Any]) -> None:
        """Check every value in `config.json` against the saved one; the caller checks missing values."""
        for key, value in found.items():
            saved = self.config.get(key, _UNSET)
            if saved is _UNSET or type(saved) is not type(value) or saved != value:
                was = "was not saved" if saved is _UNSET else f"was saved as {saved!r}"
                raise CheckpointError(
                    f"{folder / CONFIG}: {key} is {said(str(value), 80)!r}, but {was}; get the checkpoint again, or, "
                    f"if you edited it on purpose: {adopt_command(folder)}"
                )

    def check_files(self, folder: Path, *, hashes: bool = True) -> None:
        """Check that all files except `config.json` exist and are unchanged. Raises CheckpointError."""
        for name, saved in self.files.items():
            path = folder / name
            try:
                size = path.stat().st_size
                digest = sha256_of(path) if hashes and size == saved["size"] else None
            except FileNotFoundError:
                raise CheckpointError(f"{path}: is missing, but was saved; get the checkpoint again") from None
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
            if name == CONFIG:  # its values are compared instead
                continue
            if size != saved["size"]:
                raise CheckpointError(
                    f"{path}: has {size:,} bytes, {saved['size']:,} were saved; get the checkpoint again"
                )
            if digest is not None and digest != saved["sha256"]:
                raise CheckpointError(
                    f"{path}: altered (its SHA-256 is not the one that was saved); get the checkpoint again"
                )


def versions() -> dict[str, str]:
    """Return the versions of gmmxlnet, Python and the libraries that write checkpoints."""
    libraries = {name: installed(name) for name in _LIBRARIES}
    return {"gmmxlnet": gmmxlnet.__version__, **libraries, "python": ".".join(platform.python_version_tuple()[:2])}


def seal(folder: str | Path) -> None:
    """Add new files in a saved model's folder to its manifest; those already listed must be unchanged."""
    folder = Path(folder)
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    Manifest(**{**vars(manifest), "files": listed_files(folder)}).write(folder)


def listed_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file in a folder that a manifest has to list."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = ((path.relative_to(folder).as_posix(), path) for path in paths)
    return {name: file_record(path) for name, path in named if is_inside(name) and name not in NOT_LISTED}


def shared_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a checkpoint that may leave this machine, by name, and the names of what else lies there.

    The former are the manifest and what it lists, without README.md; each must be a regular file inside the folder.
    Raises CheckpointError.
    """
    files = regular_files(folder, [*Manifest.read(folder).files, MANIFEST])
    there = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not _is_folder(path)]
    return files, [name for name in there if name not in files and name not in NOT_LISTED]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def file_record(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def adopt_command(folder: Path) -> str:
    """Return the shell command that adopts a folder as it is."""
    return f"python -c \"from gmmxlnet.models import GMMXLNetForQA; GMMXLNetForQA.adopt('{folder}')\""


def _well_formed(values: dict[str, Any]) -> bool:
    files, tensors = values["files"], values["tensors"]
    return (
        all(isinstance(values[key], dict) for key in ("made_with", "config", "tensors", "shared", "files"))
        and isinstance(values["version"], str)
        and all(isinstance(name, str) for part in ("shared", "made_with") for name in values[part].values())
        and all(_is_record(file, size=int, sha256=str) and is_inside(name) for name, file in files.items())
        and all(_is_record(tensor, dtype=str, shape=list, sha256=str) for tensor in tensors.values())
        and all(type(size) is int for tensor in tensors.values() for size in tensor["shape"])
        and CONFIG in files
    )


def _is_record(value: Any, **kinds: type) -> bool:
    return isinstance(value, dict) and {key: type(item) for key, item in value.items()} == kinds

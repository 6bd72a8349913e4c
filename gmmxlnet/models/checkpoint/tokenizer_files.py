"""A model that was loaded and is saved elsewhere takes its tokenizer along: the files, byte for byte."""

import shutil
from pathlib import Path

from torch import nn

from gmmxlnet.folder_files import TOKENIZER_FILES
from gmmxlnet.utils.files import atomic_file


def note_tokenizer(model: nn.Module, folder: Path) -> None:
    """Remember the folder that a model was loaded from."""
    model.tokenizer_folder = folder


def copy_tokenizer(model: nn.Module, folder: Path) -> None:
    """Copy the tokenizer that came with a model to where the model was saved, unless a tokenizer lies there.

    The manifest does not list it, as it lists none that is saved beside a model before `seal`. A link is followed only
    to where the Hub's cache keeps its files: anywhere else it may lead to a file that is nobody's business.
    """
    source: Path | None = getattr(model, "tokenizer_folder", None)
    if source is None or any((folder / name).exists() for name in TOKENIZER_FILES):
        return
    for name in TOKENIZER_FILES:
        if _is_own_file(source / name):
            with atomic_file(folder / name) as scratch:
                shutil.copyfile(source / name, scratch)


def _is_own_file(path: Path) -> bool:
    return path.is_file() and (not path.is_symlink() or _is_in_hub_cache(path))


def _is_in_hub_cache(path: Path) -> bool:
    """Whether a link `snapshots/COMMIT/…` leads to `blobs` of the same repository."""
    homes = [folder.parent for folder in path.absolute().parents if folder.name == "snapshots"]
    return any(path.resolve().parent == (home / "blobs").resolve() for home in homes)

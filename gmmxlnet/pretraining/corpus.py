"""A corpus as token arrays: paragraphs are tokenized once and concatenated; a part is held out for evaluation.

    corpus/corpus.json               format, sizes, sources, the hash of every file
    corpus/train.npy, heldout.npy    (T,) uint16, or int32 for large vocabularies, memory-mapped
    corpus/tokenizer/                without memory tokens

At two bytes per token it is small enough to copy to a GPU machine. The choice of the held-out paragraphs depends only
on their text and the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from transformers import XLNetTokenizerFast
from typing_extensions import TypedDict

from gmmxlnet.data.arrays import read_array, write_array
from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.squad import read_squad_file
from gmmxlnet.data.tokenizer import encode_texts, load_tokenizer, scratch_tokenizer
from gmmxlnet.errors import DataError, reason_of
from gmmxlnet.folder_files import is_inside
from gmmxlnet.options import LONGEST_SHOWN
from gmmxlnet.reports import Count, Share, first_fault
from gmmxlnet.utils.files import atomic_folder, digest_of, read_json, sha256_of, write_json

FORMAT, VERSION = "gmmxlnet-corpus", 1
MANIFEST = "corpus.json"
PARTS = ("train", "heldout")
_REMEDY = "prepare the corpus again"


class Part(TypedDict):
    """What the manifest says of an array."""

    paragraphs: Count
    tokens: Annotated[int, Field(ge=1, le=2**53)]


class Manifest(TypedDict):
    """`corpus.json`."""

    sources: list[str]
    vocabulary: Annotated[int, Field(ge=1, lt=2**31)]
    heldout_fraction: Share
    seed: int
    train: Part
    heldout: Part
    files: dict[str, str]


_MANIFEST = TypeAdapter(Manifest)


def prepare_corpus(
    sources: Sequence[str | Path], tokenizer: str, folder: str | Path, *, heldout_fraction: float = 0.02, seed: int = 13
) -> dict[str, Any]:
    """Tokenize the sources into a new folder; returns its manifest.

    Args:
        sources: SQuAD files (.json, their paragraphs), text files (paragraphs between blank lines), or folders of .txt.
        tokenizer: a folder or a Hub id, or `scratch`: a vocabulary of whole words made from the text.
        heldout_fraction: fraction of the paragraphs that is not used in training.

    Raises DataError.
    """
    paragraphs = read_paragraphs(sources)
    train, heldout = _hold_out(paragraphs, heldout_fraction, seed)
    words = scratch_tokenizer(train) if tokenizer == "scratch" else load_tokenizer(tokenizer)
    dtype = token_dtype(len(words))
    sizes: dict[str, dict[str, int]] = {}
    with atomic_folder(folder) as scratch:
        words.save_pretrained(str(scratch / "tokenizer"))
        for name, texts in zip(PARTS, (train, heldout), strict=True):
            tokens = encode_texts(words, texts).ids.astype(dtype)
            write_array(scratch / f"{name}.npy", tokens)
            sizes[name] = {"paragraphs": len(texts), "tokens": len(tokens)}
        files = {path.relative_to(scratch).as_posix(): sha256_of(path) for path in _files(scratch)}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "sources": [Path(source).name for source in sources],
            "vocabulary": len(words),
            "heldout_fraction": heldout_fraction,
            "seed": seed,
            **sizes,
            "files": files,
        }
        write_json(scratch / MANIFEST, manifest)
    return manifest


def read_paragraphs(sources: Sequence[str | Path]) -> list[str]:
    """Read the sources' distinct paragraphs in order. Raises DataError for fewer than two or an unreadable source."""
    found: dict[str, None] = {}
    for source in sources:
        for path in _text_files(Path(source)):
            found |= dict.fromkeys(_squad_paragraphs(path) if path.suffix == ".json" else _text_paragraphs(path))
    if len(found) < 2:
        raise DataError(
            f"{', '.join(map(str, sources))}: {len(found)} paragraphs, at least 2 are needed (one is held out); give "
            "more text, paragraphs between blank lines"
        )
    return list(found)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Token arrays that `prepare_corpus` wrote."""

    folder: Path
    manifest: dict[str, Any]
    train: np.ndarray  # (T,)
    heldout: np.ndarray  # (T,)

    @classmethod
    def open(cls, folder: str | Path) -> "Corpus":
        """Open a folder. Raises DataError if it is not a corpus, is damaged or has another version."""
        folder = Path(folder)
        manifest = _read_manifest(folder / MANIFEST)
        for name, digest in manifest["files"].items():
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                raise DataError(f"{folder / name}: is not what was written (its SHA-256 differs); {_REMEDY}")
        dtype, arrays = token_dtype(manifest["vocabulary"]), {}
        for part in PARTS:
            path = folder / f"{part}.npy"
            arrays[part] = tokens = read_array(path, dtype, remedy=_REMEDY)
            if (
                len(tokens) != manifest[part]["tokens"]
                or not 0 <= tokens.min() <= tokens.max() < manifest["vocabulary"]
            ):
                raise DataError(f"{path}: has not the tokens that {MANIFEST} names; {_REMEDY}")
        corpus = cls(folder=folder, manifest=manifest, **arrays)
        if len(corpus.tokenizer()) != manifest["vocabulary"]:
            raise DataError(f"{folder / 'tokenizer'}: has not the vocabulary that {MANIFEST} names; {_REMEDY}")
        return corpus

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which includes the hash of every file."""
        return digest_of(self.manifest)

    def tokenizer(self) -> XLNetTokenizerFast:
        """Load the tokenizer of the corpus."""
        return load_tokenizer(str(self.folder / "tokenizer"))


def token_dtype(vocabulary: int) -> type[np.generic]:
    """Return the smallest dtype used for a vocabulary's ids."""
    return np.uint16 if vocabulary <= 2**16 else np.int32


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read `corpus.json` and check all of it. Raises DataError."""
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)}); {_REMEDY}") from None
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{path}: is not of {FORMAT} version {VERSION}; {_REMEDY}")
    try:
        _MANIFEST.validate_python(manifest, strict=True)
    except ValidationError as error:
        raise DataError(f"{path}: is not what was written: {first_fault(error)}; {_REMEDY}") from None
    if not {*(f"{part}.npy" for part in PARTS), "tokenizer/tokenizer.json"} <= set(manifest["files"]):
        raise DataError(f"{path}: is not what was written: files lack arrays or tokenizer; {_REMEDY}")
    for name in manifest["files"]:
        if not is_inside(name):
            raise DataError(f"{path}: names a file outside of its folder, {name[:LONGEST_SHOWN]!r}; {_REMEDY}")
    return manifest


def _hold_out(paragraphs: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Split into (train, held out), each in the given order; neither is empty."""
    ranked = sorted(paragraphs, key=lambda text: (keyed_hash(seed, "held out", text), text))
    chosen = set(ranked[: min(max(round(fraction * len(ranked)), 1), len(ranked) - 1)])
    return [text for text in paragraphs if text not in chosen], [text for text in paragraphs if text in chosen]


def _text_files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(source.rglob("*.txt"))
    if not files:
        raise DataError(f"{source}: holds no .txt file; name a folder of text files, a text file or a SQuAD file")
    return files


def _squad_paragraphs(path: Path) -> list[str]:
    return [paragraph.text for article in read_squad_file(path) for paragraph in article.paragraphs]


def _text_paragraphs(path: Path) -> list[str]:
    """Read the paragraphs between blank lines; runs of white space become one space."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); name a text file, a folder or a SQuAD file"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            blocks[-1] += line.split()
        elif blocks[-1]:
            blocks.append([])
    return [" ".join(block) for block in blocks if block]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())

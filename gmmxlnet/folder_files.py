"""Which files of a folder are its own: regular ones inside it, by names that lead nowhere else."""

from collections.abc import Iterable
from pathlib import Path

from gmmxlnet.errors import CheckpointError

TOKENIZER_JSON = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # small ones
TOKENIZER_FILES = (  # of all kinds; that transformers reads beside config.json to make a tokenizer
    *TOKENIZER_JSON,
    *("tokenizer.json", "spiece.model", "vocab.txt", "vocab.json", "merges.txt"),
)


def regular_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Returns the named files of a folder; raises CheckpointError unless each is a regular file inside it, no link."""
    inside, found = folder.resolve(), {name: folder / name for name in names}
    for name, path in found.items():
        if path.resolve() != inside / name:
            raise CheckpointError(
                f"{path}: is or lies behind a link, which may lead anywhere; put the file itself there"
            )
        if not path.is_file():
            raise CheckpointError(f"{path}: is no regular file, but was saved; make the folder again")
    return found


def is_inside(name: str) -> bool:
    """Whether a relative path with `/` stays inside its folder and names no hidden file."""
    parts = name.split("/")
    return "\0" not in name and "\\" not in name and not any(part == "" or part.startswith(".") for part in parts)

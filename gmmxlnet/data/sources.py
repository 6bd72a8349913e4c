"""Reads datasets from a folder, a pair of SQuAD JSON files, or the Hub (through `datasets`), or generates them."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from huggingface_hub.errors import HTTPError
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from gmmxlnet.data.dataset_names import Source, Split, described, load_settings
from gmmxlnet.data.faults import FaultList
from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.load import LoadWorld
from gmmxlnet.data.load import articles as load_articles
from gmmxlnet.data.squad import Article, articles_from_records, read_squad_file
from gmmxlnet.errors import DataError, reason_of
from gmmxlnet.messages import said
from gmmxlnet.options import LONGEST_SHOWN

__all__ = ["Source", "Split", "SplitParts", "articles_from_rows", "open_split", "read_split", "split_file"]

DOCUMENTS_OF_A_PART = 25_000  # of a generated split, in memory at once; several parts are generated on each pass
_FILE_NAMES = {
    "train": ("train.json", "train-v2.0.json", "train-v1.1.json"),
    "dev": ("dev.json", "dev-v2.0.json", "dev-v1.1.json"),
}
_HUB_SPLITS = {"train": "train", "dev": "validation"}
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


class _RowAnswers(TypedDict):
    text: list[str]
    answer_start: list[int]


class _Row(TypedDict):
    id: Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
    title: NotRequired[str | None]
    context: str
    question: str
    answers: _RowAnswers
    is_impossible: NotRequired[bool]
    question_type: NotRequired[str | None]
    condition: NotRequired[str | None]


_ROW = TypeAdapter(_Row)


class SplitParts:
    """The articles of a split, part after part: of a file, or of the files of a folder, one of which is in memory.

    The first reading, to its end, raises the faults of all parts together.
    """

    def __init__(self, parts: Mapping[str, Callable[[], list[Article]]]) -> None:
        self._parts = parts  # readers, by name
        self._is_checked = len(parts) == 1  # a file's own reader looks for repeated ids
        self._only: list[Article] | None = None  # of a split of one part, which is read once

    def __iter__(self) -> Iterator[list[Article]]:
        faults, hashes = FaultList(), []
        for read in self._parts.values():
            articles = self._only
            with faults.collecting():
                articles = articles or read()
            if articles is not None:
                if len(self._parts) == 1:
                    self._only = articles
                if not self._is_checked:
                    hashes.append(_id_hashes(articles))
                yield articles
        faults.raise_any()
        if not self._is_checked:
            if len(np.unique(np.concatenate(hashes))) < sum(map(len, hashes)):
                self._find_repeated()
            self._is_checked = True

    def _find_repeated(self) -> None:
        """Raises DataError for a question id that two parts have; equal hashes alone are no fault."""
        hashes = np.concatenate([_id_hashes(read()) for read in self._parts.values()])
        values, counts = np.unique(hashes, return_counts=True)
        several, part_of = set(values[counts > 1].tolist()), dict[str, str]()
        for name, read in self._parts.items():
            for id_ in _ids(read()):
                if _id_hash(id_) in several and part_of.setdefault(id_, name) != name:
                    raise DataError(
                        f"{name}: question {said(id_, LONGEST_SHOWN)!r}: its id was used before, in {part_of[id_]}; "
                        "give every question an id of its own"
                    )


def _ids(articles: Iterable[Article]) -> Iterator[str]:
    return (question.id for article in articles for passage in article.paragraphs for question in passage.questions)


def _id_hash(id_: str) -> int:
    return keyed_hash(0, "id", id_)


def _id_hashes(articles: Iterable[Article]) -> np.ndarray:
    return np.fromiter(map(_id_hash, _ids(articles)), np.uint64)


def open_split(source: Source, split: Split, revision: str | None = None) -> SplitParts:
    """The parts of one split of {"train": file, "dev": file}, a folder, a Hub id (at `revision`) or {"load": settings}.

    In place of a file there may be a folder, in a dataset's folder `train` or `dev`: its `.json` files are the parts,
    in the order of their names. A load world is made here, the same from the same settings (`options.LOAD`).

    Raises DataError for what cannot be read, ConfigError for settings that cannot be.
    """
    settings = load_settings(source)
    if settings is not None:
        return _load_parts(settings, split)
    if isinstance(source, Mapping):
        if source.get(split) is None:
            raise DataError(f"dataset {dict(source)}: no {split!r} file is named; give both 'train' and 'dev'")
        return _parts_at(Path(source[split]))
    folder = Path(source)
    if folder.is_dir():
        return _parts_at(split_file(folder, split))
    if folder.is_file():
        raise DataError(f"{source}: is one file; a dataset is a folder, or {{train: file, dev: file}}, or a Hub id")
    if not _HUB_ID.fullmatch(str(source)):
        raise DataError(f"dataset {str(source)!r}: no such folder, and not a Hub id (owner/name); correct the path")
    where = f"{source} ({_HUB_SPLITS[split]})"
    return SplitParts({where: lambda: articles_from_rows(_hub_rows(str(source), split, revision), where)})


def _parts_at(path: Path) -> SplitParts:
    if not path.is_dir():
        return SplitParts({str(path): partial(read_squad_file, path)})
    files = sorted(file for file in path.glob("*.json") if file.is_file())
    if not files:
        raise DataError(f"{path}: has no .json file; put the parts of the split there")
    return SplitParts({str(file): partial(read_squad_file, file) for file in files})


def _load_parts(settings: Mapping[str, Any], split: Split) -> SplitParts:
    """A load world's documents, generated when their part is read."""
    world, total = LoadWorld.of(settings), settings[f"num_{split}"]
    where = f"{described({'load': settings})} ({split})"

    def make(start: int) -> list[Article]:
        count = min(DOCUMENTS_OF_A_PART, total - start)
        return articles_from_records(list(load_articles(world, split, count, start=start)), where)

    starts = range(0, total, DOCUMENTS_OF_A_PART)
    return SplitParts({f"{where}, from document {start}": partial(make, start) for start in starts})


def read_split(source: Source, split: Split, revision: str | None = None) -> list[Article]:
    """Reads all articles of one split into memory; see `open_split`."""
    return [article for articles in open_split(source, split, revision) for article in articles]


def split_file(folder: Path, split: Split) -> Path:
    """Returns the SQuAD file of a split in a folder, or the folder of its parts. Raises DataError if there is none."""
    names = _FILE_NAMES[split]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if (folder / split).is_dir():
        return folder / split
    others = sorted(path for path in folder.glob(f"{split}*.json") if path.is_file())
    if len(others) > 1:
        raise DataError(f"{folder}: {others[0].name} or {others[1].name}? name one {names[0]}, or give {{train, dev}}")
    if others:
        return others[0]
    raise DataError(f"{folder}: has no {split} file; put {' or '.join(names)} there, or one {split}*.json")


def _hub_rows(name: str, split: Split, revision: str | None) -> Iterable[Mapping[str, Any]]:
    """Reads the rows of a split from the Hub or its cache."""
    try:
        import datasets  # imported here because it is optional
    except ImportError as error:
        raise DataError(f"dataset {name!r}: reading from the Hub needs `pip install datasets`") from error
    try:
        return datasets.load_dataset(name, split=_HUB_SPLITS[split], revision=revision)
    except (OSError, ValueError, HTTPError) as error:  # offline, no such dataset, split or revision; connection lost
        raise DataError(
            f"dataset {name!r}: neither a folder here nor readable from the Hub ({reason_of(error)}); "
            "check the name and the connection, or download the SQuAD files and name their folder"
        ) from error


def articles_from_rows(rows: Iterable[Mapping[str, Any]], source: str) -> list[Article]:
    """Groups flat rows (one per question, as on the Hub) into articles and paragraphs, in order of appearance.

    Each context without a title becomes its own article.
    """
    articles: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}  # (title, or context without one)
    faults = FaultList()
    for number, row in enumerate(rows):
        with faults.collecting():
            record = _checked_row(row, f"{source}, row {number}")
            title, context = record.get("title") or "", record["context"]
            article = articles.setdefault((title, "" if title else context), {})
            article.setdefault(context, []).append(_question_of(record))
    data = [
        {"title": title, "paragraphs": [{"context": text, "qas": qas} for text, qas in paragraphs.items()]}
        for (title, _), paragraphs in articles.items()
    ]
    found: list[Article] = []
    if data or not faults.count:
        with faults.collecting():
            found = articles_from_records(data, source)
    faults.raise_any()
    return found


def _question_of(record: _Row) -> dict[str, Any]:
    """Converts a row's question to the SQuAD file format."""
    texts, starts = record["answers"]["text"], record["answers"]["answer_start"]
    question: dict[str, Any] = {
        "id": record["id"],
        "question": record["question"],
        "answers": [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)],
        "is_impossible": record.get("is_impossible", not texts),
    }
    return question | {key: record[key] for key in ("question_type", "condition") if key in record}


def _checked_row(row: Mapping[str, Any], where: str) -> _Row:
    try:
        record = _ROW.validate_python(row, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        column = ".".join(str(part) for part in fault["loc"]) or "row"
        said = fault["msg"]
        if fault["loc"] == ("answers",) and isinstance(fault["input"], list):
            said = "is a list of objects, as in a SQuAD file"
        raise DataError(
            f"{where}: {column}: {said}; SQuAD rows have id, context, question and "
            "answers {text: [...], answer_start: [...]}, and may have a title"
        ) from error
    if len(record["answers"]["text"]) != len(record["answers"]["answer_start"]):
        raise DataError(f"{where}: answers has more texts than starts, or fewer; give one answer_start for each text")
    return record

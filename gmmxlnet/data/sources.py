"""Where a dataset comes from: a folder or a pair of SQuAD JSON files, or rows of the Hub through `datasets`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from huggingface_hub.errors import HTTPError
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from gmmxlnet.data.squad import Article, articles_from_records, read_squad_file
from gmmxlnet.errors import DataError, reason_of

Split = Literal["train", "dev"]
Source = str | Path | Mapping[str, str | Path]

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
    id: str
    title: str
    context: str
    question: str
    answers: _RowAnswers
    is_impossible: NotRequired[bool]
    question_type: NotRequired[str | None]
    condition: NotRequired[str | None]


_ROW = TypeAdapter(_Row)


def read_split(source: Source, split: Split, revision: str | None = None) -> list[Article]:
    """The articles of one split of a dataset: {"train": file, "dev": file}, a folder, or a Hub id (at `revision`)."""
    if isinstance(source, Mapping):
        if source.get(split) is None:
            raise DataError(f"dataset {dict(source)}: no {split!r} file is named; give both 'train' and 'dev'")
        return read_squad_file(source[split])
    folder = Path(source)
    if folder.is_dir():
        return read_squad_file(_file_in(folder, split))
    if folder.is_file():
        raise DataError(f"{source}: is one file; a dataset is a folder, or {{train: file, dev: file}}, or a Hub id")
    if not _HUB_ID.fullmatch(str(source)):
        raise DataError(f"dataset {str(source)!r}: no such folder, and not a Hub id (owner/name); correct the path")
    return articles_from_rows(_hub_rows(str(source), split, revision), f"{source} ({_HUB_SPLITS[split]})")


def _file_in(folder: Path, split: Split) -> Path:
    names = _FILE_NAMES[split]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: has no {split} file; put {' or '.join(names)} there")


def _hub_rows(name: str, split: Split, revision: str | None) -> Iterable[Mapping[str, Any]]:
    """Rows of a split from the Hub or its cache."""
    try:
        import datasets  # only here: the library works without it
    except ImportError as error:
        raise DataError(f"dataset {name!r}: reading from the Hub needs `pip install datasets`") from error
    try:
        return datasets.load_dataset(name, split=_HUB_SPLITS[split], revision=revision)
    except (OSError, ValueError, HTTPError) as error:  # offline, no such dataset; no such split or revision; line cut
        raise DataError(
            f"dataset {name!r}: neither a folder here nor readable from the Hub ({reason_of(error)}); "
            "check the name and the connection, or download the SQuAD files and name their folder"
        ) from error


def articles_from_rows(rows: Iterable[Mapping[str, Any]], source: str) -> list[Article]:
    """Flat rows (one a question, as on the Hub) grouped again into articles and paragraphs, in order of appearance."""
    articles: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        record = _checked_row(row, f"{source}, row {number}")
        questions = articles.setdefault(record["title"], {}).setdefault(record["context"], [])
        texts, starts = record["answers"]["text"], record["answers"]["answer_start"]
        question: dict[str, Any] = {
            "id": record["id"],
            "question": record["question"],
            "answers": [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)],
            "is_impossible": record.get("is_impossible", not texts),
        }
        question.update({key: record[key] for key in ("question_type", "condition") if key in record})
        questions.append(question)
    data = [
        {"title": title, "paragraphs": [{"context": text, "qas": qas} for text, qas in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]
    return articles_from_records(data, source)


def _checked_row(row: Mapping[str, Any], where: str) -> _Row:
    try:
        record = _ROW.validate_python(row, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        column = ".".join(str(part) for part in fault["loc"]) or "row"
        raise DataError(
            f"{where}: {column}: {fault['msg']}; SQuAD rows have id, title, context, question and "
            "answers {text: [...], answer_start: [...]}"
        ) from error
    if len(record["answers"]["text"]) != len(record["answers"]["answer_start"]):
        raise DataError(f"{where}: answers has more texts than starts, or fewer; give one answer_start for each text")
    return record

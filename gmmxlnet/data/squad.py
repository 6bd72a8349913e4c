"""Reads SQuAD JSON, v1.1 and v2.0, and writes v2.0: a file is read completely or rejected with one line per fault.

`read_squad_file` returns articles; `as_passages` turns them into the texts that questions refer to, one per paragraph
or one per article. Besides its SQuAD keys, a question can have `question_type` and `condition`, two strings that
evaluation groups by. Pydantic checks types; other constraints are checked in this module.
"""

import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast

from pydantic import BeforeValidator, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from gmmxlnet.data.faults import FaultList
from gmmxlnet.data.squad_faults import (
    describe_fault,
    describe_invalid_json,
    describe_invalid_utf8,
    describe_shape,
    name_of,
    quote,
)
from gmmxlnet.errors import DataError, DatasetError
from gmmxlnet.utils.files import atomic_file
from gmmxlnet.windows import ContextKind

PARAGRAPH_SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answers as (text, first character in the passage); empty if it is impossible."""

    id: str
    text: str
    answers: tuple[tuple[str, int], ...]
    is_impossible: bool
    question_type: str | None = None
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and the questions about it."""

    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Article:
    """The passages under one title."""

    title: str
    paragraphs: tuple[Passage, ...]


_Text = Annotated[str, StringConstraints(pattern=r"\S")]


class _Answer(TypedDict):
    text: _Text
    answer_start: int


_Id = Annotated[_Text, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class _Question(TypedDict):
    id: _Id
    question: _Text
    answers: list[_Answer]
    is_impossible: NotRequired[bool]  # v1.1 has no such key: every question has an answer
    question_type: NotRequired[_Text | None]
    condition: NotRequired[_Text | None]


class _Paragraph(TypedDict):
    context: _Text
    qas: list[_Question]


class _Article(TypedDict):
    title: NotRequired[str | None]
    paragraphs: list[_Paragraph]


class _File(TypedDict):
    data: list[_Article]


_FILE = TypeAdapter(_File)


def read_squad_file(path: str | Path) -> list[Article]:
    """Reads and checks a SQuAD file; raises DataError with one line per fault (place, problem and remedy)."""
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path}: cannot be read ({error}); give the path of a SQuAD JSON file") from error
    return parse_squad(raw, str(path))


def parse_squad(raw: bytes, source: str) -> list[Article]:
    """Parses the bytes of a SQuAD file; `source` names it in errors."""
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        raw.decode("utf-8")
        with _no_collection():
            return _articles(_FILE.validate_json(raw, strict=True)["data"], source)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: {describe_invalid_utf8(raw, error.start)}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0] if error.error_count() == 1 else None
        if first is not None and first["type"] == "json_invalid":
            raise DataError(f"{source}: {describe_invalid_json(first['ctx']['error'], raw)}") from error
        raise _faults(error, from_json(raw), source) from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pauses garbage collection: thousands of acyclic records are created, and collection takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def articles_from_records(data: Sequence[Mapping[str, Any]], source: str) -> list[Article]:
    """Creates articles from Python records in the format of a SQuAD file's `data`, with the same checks."""
    try:
        return _articles(_FILE.validate_python({"data": data}, strict=True)["data"], source)
    except ValidationError as error:
        raise _faults(error, {"data": data}, source) from error


def as_passages(articles: Sequence[Article], context: ContextKind) -> list[Passage]:
    """Returns the passages: each paragraph, or each article's paragraphs joined into one text."""
    if context == "article":
        return [_join(article.paragraphs) for article in articles if article.paragraphs]
    return [paragraph for article in articles for paragraph in article.paragraphs]


def _join(paragraphs: Sequence[Passage]) -> Passage:
    """Joins all paragraphs into one passage and shifts the answers' offsets."""
    questions, offset = [], 0
    for paragraph in paragraphs:
        for question in paragraph.questions:
            answers = tuple((text, start + offset) for text, start in question.answers)
            questions.append(replace(question, answers=answers))
        offset += len(paragraph.text) + len(PARAGRAPH_SEPARATOR)
    return Passage(PARAGRAPH_SEPARATOR.join(paragraph.text for paragraph in paragraphs), tuple(questions))


def _faults(error: ValidationError, record: Any, source: str) -> DataError:
    """Collects all faults of a record with type errors: these first, then those in questions of the right type."""
    shape = describe_shape(record)
    if shape is not None:
        return DataError(f"{source}: {shape}")
    faults, unsound = FaultList(), set()
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        faults.add(partial(lambda fault: f"{source}: {describe_fault(fault, record)}", fault))
        unsound.add(fault["loc"])
    _check_sound_questions(record, unsound, source, faults)
    return DatasetError(faults.faults, faults.count)


def _check_sound_questions(record: Any, unsound: set[tuple[Any, ...]], source: str, faults: FaultList) -> None:
    """Checks the questions that have no type error in themselves, their paragraph or their article."""
    blamed = {location[:depth] for location in unsound for depth in range(1, len(location) + 1)}
    if not isinstance(record, Mapping) or not isinstance(record.get("data"), list):
        return
    seen: dict[str, str] = {}
    for i, article in enumerate(record["data"]):
        if ("data", i) in unsound or ("data", i, "paragraphs") in unsound:
            continue
        for j, paragraph in enumerate(article.get("paragraphs", ())):
            place = ("data", i, "paragraphs", j)
            if any((*place, *key) in unsound for key in ((), ("context",), ("qas",))):
                continue
            sound = [q for k, q in enumerate(paragraph["qas"]) if (*place, "qas", k) not in blamed]
            where = f"article {name_of(article.get('title'), i)}, paragraph {j}"
            for question in sound:
                as_validated = cast(_Question, question | {"id": str(question["id"])})
                _check_question(as_validated, paragraph["context"], where, seen, source, faults)


def _check_question(
    question: _Question, context: str, where: str, seen: dict[str, str], source: str, faults: FaultList
) -> None:
    """Adds a question's fault, if any; `seen` maps each id to where it first occurred."""
    complaint = _complaint(question, context, seen)
    if complaint is not None:
        faults.add(lambda: f"{source}: {where}, question {quote(question['id'])}: {complaint}")
    seen.setdefault(question["id"], where)


def _articles(data: list[_Article], source: str) -> list[Article]:
    """Converts type-checked records to articles; raises DatasetError if a question cannot be used."""
    articles: list[Article] = []
    seen: dict[str, str] = {}  # question id -> where it first occurred
    faults = FaultList()
    for index, article in enumerate(data):
        passages = []
        for number, paragraph in enumerate(article["paragraphs"]):
            where = f"article {name_of(article.get('title'), index)}, paragraph {number}"
            for question in paragraph["qas"]:
                _check_question(question, paragraph["context"], where, seen, source, faults)
            questions = tuple(_question(question) for question in paragraph["qas"])
            passages.append(Passage(paragraph["context"], questions))
        articles.append(Article(article.get("title") or "", tuple(passages)))
    faults.raise_any()
    if not seen:
        raise DataError(f"{source}: holds no question; give a file with at least one")
    return articles


def write_squad_file(path: Path, articles: Iterable[Mapping[str, Any]]) -> None:
    """Writes articles as a SQuAD v2.0 file, one a line, complete or absent."""
    lines = ",\n".join(map(json.dumps, articles))
    with atomic_file(path) as scratch:
        scratch.write_text(f'{{"version": "v2.0", "data": [\n{lines}\n]}}\n', encoding="utf-8")


def _question(record: _Question) -> Question:
    return Question(
        id=record["id"],
        text=record["question"],
        answers=tuple((answer["text"], answer["answer_start"]) for answer in record["answers"]),
        is_impossible=record.get("is_impossible", False),
        question_type=record.get("question_type"),
        condition=record.get("condition"),
    )


def _complaint(question: _Question, context: str, seen: Mapping[str, str]) -> str | None:
    """Describes the fault of a type-checked question and its remedy; None if there is none."""
    answers = question["answers"]
    if question["id"] in seen:
        return f"its id was used before, in {seen[question['id']]}; give every question an id of its own"
    if question.get("is_impossible", False) and answers:
        return f"is_impossible is true, yet answers has {len(answers)}; empty answers or set is_impossible to false"
    if not question.get("is_impossible", False) and not answers:
        return "it has no answers; give at least one, or set is_impossible to true"
    for number, answer in enumerate(answers):
        text, start = answer["text"], answer["answer_start"]
        if start < 0 or not context.startswith(text, start):
            there = f"{quote(context[start : start + len(text)])} stands there" if start >= 0 else "that is negative"
            return f"answers[{number}]: answer_start {start} does not point at {quote(text)} ({there}); " + _nearest(
                text, start, context
            )
    return None


def _nearest(text: str, start: int, context: str) -> str:
    """Suggests where in the context the answer actually occurs."""
    if text not in context:
        return "the context does not contain that text: correct it"
    places = []
    place = context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    return f"set it to {min(places, key=lambda place: abs(place - start))}"

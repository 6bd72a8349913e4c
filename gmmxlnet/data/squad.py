"""Reader of SQuAD JSON, v1.1 and v2.0: every file is either read whole or refused with one line that names the fault.

`read_squad_file` gives articles; `as_passages` turns them into the texts that questions are asked of, one a paragraph
or one an article. Beside its SQuAD keys a question may carry `question_type` and `condition`, two strings that
evaluation groups by. Pydantic checks types; what types cannot say is checked below it.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from gmmxlnet.errors import DataError

PARAGRAPH_SEPARATOR = "\n\n"
ContextKind = Literal["paragraph", "article"]  # what a document is: a paragraph, or all paragraphs of an article
_SHOWN = 60  # characters of a wrong value that a message quotes


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answers as (text, first character in the passage); none when it is impossible."""

    id: str
    text: str
    answers: tuple[tuple[str, int], ...]
    is_impossible: bool
    question_type: str | None = None
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and the questions asked of it."""

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


class _Question(TypedDict):
    id: _Text
    question: _Text
    answers: list[_Answer]
    is_impossible: NotRequired[bool]  # v1.1 has no such key: every question has an answer
    question_type: NotRequired[_Text | None]
    condition: NotRequired[_Text | None]


class _Paragraph(TypedDict):
    context: _Text
    qas: list[_Question]


class _Article(TypedDict):
    title: NotRequired[str]
    paragraphs: list[_Paragraph]


class _File(TypedDict):
    data: list[_Article]


_FILE = TypeAdapter(_File)

# What would be right, by key; an item of a list is looked up as "key[]".
_EXPECTED = {
    "": "an object whose key 'data' is a list of articles",
    "data": "a list of articles",
    "data[]": "an object with the key 'paragraphs'",
    "title": "a string",
    "paragraphs": "a list of paragraphs",
    "paragraphs[]": "an object with the keys 'context' and 'qas'",
    "context": "a text that is not blank",
    "qas": "a list of questions",
    "qas[]": "an object with the keys 'id', 'question' and 'answers'",
    "id": "a string that no other question has",
    "question": "a text that is not blank",
    "answers": "a list of answers, empty when is_impossible is true",
    "answers[]": "an object with the keys 'text' and 'answer_start'",
    "text": "the answer's words as they stand in the context, not blank",
    "answer_start": "an integer: where the answer begins in the context, in characters counted from 0",
    "is_impossible": "true or false",
    "question_type": "a string that is not blank, or left out",
    "condition": "a string that is not blank, or left out",
}


def read_squad_file(path: str | Path) -> list[Article]:
    """Read and check one SQuAD file; raises DataError naming file, article, question, fault and remedy."""
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path}: cannot be read ({error}); give the path of a SQuAD JSON file") from error
    return parse_squad(raw, str(path))


def parse_squad(raw: bytes, source: str) -> list[Article]:
    """The articles in the bytes of a SQuAD file; `source` names it in errors."""
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        raw.decode("utf-8")
        with _no_collection():
            return _articles(_FILE.validate_json(raw, strict=True)["data"], source)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["type"] == "json_invalid":
            reason = fault["ctx"]["error"]
            raise DataError(f"{source}: not valid JSON: {reason}; is the file complete? Get it again") from error
        raise DataError(f"{source}: {_describe_fault(fault, from_json(raw))}") from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let Python not look for cycles: many thousand records are made, none in a cycle, and looking costs a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def articles_from_records(data: Sequence[Mapping[str, Any]], source: str) -> list[Article]:
    """Articles from Python records in the shape of a SQuAD file's `data`, checked as a file would be."""
    try:
        return _articles(_FILE.validate_python({"data": data}, strict=True)["data"], source)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise DataError(f"{source}: {_describe_fault(fault, {'data': data})}") from error


def as_passages(articles: Sequence[Article], context: ContextKind) -> list[Passage]:
    """The passages questions are asked of: each paragraph, or each article's paragraphs joined into one text."""
    if context == "article":
        return [_join(article.paragraphs) for article in articles if article.paragraphs]
    return [paragraph for article in articles for paragraph in article.paragraphs]


def _join(paragraphs: Sequence[Passage]) -> Passage:
    """One passage of all paragraphs, the answers' offsets shifted to it."""
    questions, offset = [], 0
    for paragraph in paragraphs:
        for question in paragraph.questions:
            answers = tuple((text, start + offset) for text, start in question.answers)
            questions.append(replace(question, answers=answers))
        offset += len(paragraph.text) + len(PARAGRAPH_SEPARATOR)
    return Passage(PARAGRAPH_SEPARATOR.join(paragraph.text for paragraph in paragraphs), tuple(questions))


def _articles(data: list[_Article], source: str) -> list[Article]:
    """Records of the right types to articles; raises DataError at the first question that cannot be used."""
    articles: list[Article] = []
    seen: dict[str, str] = {}  # question id -> where it was met
    for index, article in enumerate(data):
        passages = []
        for number, paragraph in enumerate(article["paragraphs"]):
            for question in paragraph["qas"]:
                complaint = _complaint(question, paragraph["context"], seen)
                where = f"article {_name(article.get('title'), index)}, paragraph {number}"
                if complaint is not None:
                    raise DataError(f"{source}: {where}, question {_quote(question['id'])}: {complaint}")
                seen[question["id"]] = where
            questions = tuple(_question(question) for question in paragraph["qas"])
            passages.append(Passage(paragraph["context"], questions))
        articles.append(Article(article.get("title", ""), tuple(passages)))
    if not seen:
        raise DataError(f"{source}: holds no question; give a file with at least one")
    return articles


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
    """What is wrong with a question whose types are right, and what would be right; None if it is sound."""
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
            there = f"{_quote(context[start : start + len(text)])} stands there" if start >= 0 else "that is negative"
            return f"answers[{number}]: answer_start {start} does not point at {_quote(text)} ({there}); " + _nearest(
                text, start, context
            )
    return None


def _nearest(text: str, start: int, context: str) -> str:
    """Where the answer does stand, as advice."""
    if text not in context:
        return "the context does not contain that text: correct it"
    places = []
    place = context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    return f"set it to {min(places, key=lambda place: abs(place - start))}"


def _describe_fault(fault: Mapping[str, Any], record: Any) -> str:
    """One of pydantic's errors in the words of the file: article, paragraph, question, key, value, what would do."""
    location = fault["loc"]
    where, node = [], record
    for depth, key in enumerate(location):
        if fault["type"] == "missing" and depth == len(location) - 1:
            break
        node = node[key]
        if isinstance(key, int) and location[depth - 1] != "answers":
            where.append(_place(location[depth - 1], key, node))
    key = location[-1] if location else ""
    expected = _EXPECTED[f"{location[-2]}[]" if isinstance(key, int) else key]
    name = f"{location[-2]}[{key}]" if isinstance(key, int) else f"{key!r}" if key else "the file"
    if "answers" in location[:-2]:  # which of the answers
        name = f"answers[{location[location.index('answers') + 1]}], {name}"
    wrong = "is missing" if fault["type"] == "missing" else f"is {_kind(node)}"
    return ", ".join(where) + (": " if where else "") + f"{name} {wrong}; it must be {expected}"


def _place(parent: str, index: int, node: Any) -> str:
    """The name of an article, paragraph or question that an error lies in."""
    fields = node if isinstance(node, Mapping) else {}
    if parent == "data":
        return f"article {_name(fields.get('title'), index)}"
    if parent == "paragraphs":
        return f"paragraph {index}"
    return f"question {_quote(fields['id'])}" if isinstance(fields.get("id"), str) else f"question number {index}"


def _name(title: Any, index: int) -> str:
    return f"{_quote(title)} (number {index})" if isinstance(title, str) and title else f"number {index}"


def _kind(value: Any) -> str:
    """A JSON value in a few words."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"the string {_quote(value)}" if isinstance(value, str) else f"the number {str(value)[:_SHOWN]}"


def _quote(text: str) -> str:
    """A text as one printable line, cut where it is long."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")

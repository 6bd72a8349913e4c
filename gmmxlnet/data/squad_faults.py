"""Describes faults of a SQuAD record in terms of its file: article, paragraph, question, key, value, remedy."""

import json
import re
from collections.abc import Mapping
from typing import Any

from gmmxlnet.messages import cut, without_credentials

SHOWN = 60  # characters of a wrong value that a message quotes
MOST_QUOTED = 4096  # characters that are searched for credentials before a text is cut to that

# Expected values by key; items of a list are looked up as "key[]".
_EXPECTED = {
    "": "an object whose key 'data' is a list of articles",
    "data": "a list of articles",
    "data[]": "an object with the key 'paragraphs'",
    "title": "a string, or left out",
    "paragraphs": "a list of paragraphs",
    "paragraphs[]": "an object with the keys 'context' and 'qas'",
    "context": "a text that is not blank",
    "qas": "a list of questions",
    "qas[]": "an object with the keys 'id', 'question' and 'answers'",
    "id": "a string or an integer that no other question has",
    "question": "a text that is not blank",
    "answers": "a list of answers, empty when is_impossible is true",
    "answers[]": "an object with the keys 'text' and 'answer_start'",
    "text": "the answer's words as they stand in the context, not blank",
    "answer_start": "an integer: where the answer begins in the context, in characters counted from 0",
    "is_impossible": "true or false",
    "question_type": "a string that is not blank, or left out",
    "condition": "a string that is not blank, or left out",
}
_NESTED = (
    '{"data": [{"paragraphs": [{"context": "…", "qas": [{"id": "…", "question": "…", "answers": [{"text": "…", '
    '"answer_start": 0}]}]}]}]}'
)
_ROW_KEYS = {"context", "question"}


def describe_fault(fault: Mapping[str, Any], record: Any) -> str:
    """Describes one of pydantic's errors about `record`."""
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
    if "answers" in location[:-2]:  # index of the answer
        name = f"answers[{location[location.index('answers') + 1]}], {name}"
    if key == "answers" and isinstance(node, Mapping):
        said = f"{name} is {kind_of(node)}; {_as_list(node)}"
    elif fault["type"] == "string_unicode":
        said = f"{name} holds a lone surrogate, half of a character; write the whole character or delete the half"
    else:
        said = f"{name} {'is missing' if fault['type'] == 'missing' else f'is {kind_of(node)}'}; it must be {expected}"
    return ", ".join(where) + (": " if where else "") + said


def _as_list(answers: Mapping[str, Any]) -> str:
    """Shows an object of lists (the form of answers in the Hub's rows) in the SQuAD file format."""
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list):
        return f"it must be {_EXPECTED['answers']}"
    pairs = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=False)]
    shown = json.dumps(pairs[:2], ensure_ascii=False) if len(pairs) <= 2 else '[{"text": …, "answer_start": …}, …]'
    shown = shown if len(shown) <= 2 * SHOWN and shown.isprintable() else '[{"text": …, "answer_start": …}]'
    return f"lists of text and answer_start belong to rows of the Hub, a file has a list of objects: {shown}"


def describe_shape(record: Any) -> str | None:
    """Recognizes other common file formats and says how to convert them; None for anything else."""
    data = record.get("data") if isinstance(record, Mapping) else record
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, Mapping) and set(first) >= _ROW_KEYS and "paragraphs" not in first:
        return f"holds flat rows, one a question, as the Hub's data sets do; group them by their context: {_NESTED}"
    if isinstance(record, list) and isinstance(first, Mapping) and "paragraphs" in first:
        return 'is a list of articles; put it into an object: {"data": [ … ]}'
    if isinstance(record, Mapping) and "data" not in record:
        if set(record) >= _ROW_KEYS:
            return f"holds rows or columns with a context and a question each; group them by their context: {_NESTED}"
        if "paragraphs" in record:
            return 'is one article; put it into a list: {"data": [ … ]}'
    return None


def describe_invalid_json(reason: str, raw: bytes) -> str:
    """Describes why bytes are not valid JSON, and the remedy."""
    if "hex escape" in reason:
        surrogate = _lone_surrogates(raw)
        if surrogate is not None:
            return surrogate
    if reason.startswith("trailing characters") and raw.lstrip()[:1] == b"{":
        if _first_line_is_whole(raw):
            return f"holds a JSON object a line (JSON Lines), and must hold one: {_NESTED}"
        return f"not valid JSON: {reason}; a file holds one object; delete what follows it"
    return f"not valid JSON: {reason}; is the file complete? Get it again"


def _first_line_is_whole(raw: bytes) -> bool:
    """Whether the first line of a file is a complete JSON value."""
    try:
        json.loads(raw.lstrip().splitlines()[0])
    except (ValueError, RecursionError):
        return False
    return True


_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def _lone_surrogates(raw: bytes) -> str | None:
    """Locates escaped lone surrogates and gives the remedy; None if there are none."""
    lone, lead = [], None
    for found in _ESCAPE.finditer(raw):
        code = int(found[1], 16) if found[1] else 0
        follows = lead is not None and lead.end() == found.start()
        if lead is not None and not (follows and 0xDC00 <= code < 0xE000):
            lone.append(lead)
        if 0xDC00 <= code < 0xE000 and not follows:
            lone.append(found)
        lead = found if 0xD800 <= code < 0xDC00 else None
    lone += [lead] if lead is not None else []
    return _name_surrogate(raw, lone[0].start(), lone[0][0].decode(), len(lone)) if lone else None


def describe_invalid_utf8(raw: bytes, place: int) -> str:
    """Describes the first byte that is not valid UTF-8, and the remedy."""
    if raw[place] == 0xED and raw[place + 1 : place + 2] >= b"\xa0":  # a surrogate, encoded as if it were a character
        code = (
            ((raw[place] & 15) << 12) | ((raw[place + 1] & 63) << 6) | (raw[place + 2] & 63 if raw[place + 2 :] else 0)
        )
        return _name_surrogate(raw, place, f"\\u{code:04x}", 1)
    return f"byte {place} (0x{raw[place]:02x}) is not UTF-8; save the file as UTF-8"


def _name_surrogate(raw: bytes, place: int, name: str, count: int) -> str:
    line, column = raw.count(b"\n", 0, place) + 1, place - (raw.rfind(b"\n", 0, place) + 1) + 1
    before = raw[max(0, place - 24) : place].decode("utf-8", "ignore")
    others = f" ({count} such in the file)" if count > 1 else ""
    return (
        f"line {line} column {column}, after {quote(before)}: {name} is a lone surrogate, half of a character such as "
        f"an emoji that was cut in two{others}; write the whole character or delete the half"
    )


def _place(parent: str, index: int, node: Any) -> str:
    """Names the article, paragraph or question that contains an error."""
    fields = node if isinstance(node, Mapping) else {}
    if parent == "data":
        return f"article {name_of(fields.get('title'), index)}"
    if parent == "paragraphs":
        return f"paragraph {index}"
    question_id = fields.get("id")
    known = isinstance(question_id, str) or type(question_id) is int
    return f"question {quote(str(question_id))}" if known else f"question number {index}"


def name_of(title: Any, index: int) -> str:
    """Returns an article's name for messages."""
    return f"{quote(title)} (number {index})" if isinstance(title, str) and title else f"number {index}"


def kind_of(value: Any) -> str:
    """Describes the type of a JSON value."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"the string {quote(value)}" if isinstance(value, str) else f"the number {str(value)[:SHOWN]}"


def quote(text: str) -> str:
    """Quotes a text as one printable line, truncated if long."""
    return repr(cut(without_credentials(text[:MOST_QUOTED]), SHOWN))

"""What pydantic found wrong in `params.yaml`, said in one line a user can act on."""

import difflib
import json
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from gmmxlnet.options import shortened, shown

MOST_PROBLEMS = 3  # named in one line; the rest are counted
A_MAPPING = "a mapping from keys to values"


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """All problems of `error` in one line, each key once."""
    problems: dict[str, str] = {}
    found = error.errors(include_url=False, include_context=False)
    for details in sorted(found, key=lambda details: details["type"] == "missing"):
        key, sentence = _explain_one(details, root)
        meant = f"did you mean {key}?"  # what is misspelled is missing, too, under its right name
        if details["type"] != "missing" or not any(said.endswith(meant) for said in problems.values()):
            problems.setdefault(key, sentence)
    sentences = list(problems.values())
    more = len(sentences) - MOST_PROBLEMS
    return "; ".join(sentences[:MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _explain_one(details: Any, root: type[BaseModel]) -> tuple[str, str]:
    """The dotted key a problem is about, and the sentence."""
    model, needs, keys = root, "", []
    rest = [str(part) for part in details["loc"]]
    while rest:
        keys.append(rest.pop(0))
        if keys[-1] not in model.model_fields:
            return ".".join(keys), _unknown(keys, model, root)
        field = model.model_fields[keys[-1]]
        needs = field.description or A_MAPPING
        forms = _forms(field)
        inner, by_name = (forms.get(rest.pop(0)), False) if forms and rest else _inner_model(field)
        if inner is None:
            break
        model = inner
        if by_name and rest:
            keys.append(rest.pop(0))
            needs = A_MAPPING
    key = ".".join(keys)
    if details["type"] == "missing":
        return key, f"{key} is missing; it must be {needs}"
    return key, f"{key} must be {needs}, not {_shown(details['input'])}"


def _inner_model(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The section below a key, and whether names of the user's choice stand between (as in `profiles`)."""
    annotation = field.annotation
    if get_origin(annotation) is dict:
        return get_args(annotation)[1], True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    return None, False


def _forms(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The sections among the forms that a value may have (`dataset`), by the tag that pydantic puts after its key."""
    forms: dict[str, type[BaseModel]] = {}
    for form in get_args(field.annotation):
        kind, *notes = get_args(form) if get_origin(form) is Annotated else (form,)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            forms |= {note.tag: kind for note in notes if isinstance(note, Tag)}
    return forms


def _unknown(keys: list[str], model: type[BaseModel], root: type[BaseModel]) -> str:
    *above, name = keys
    close = difflib.get_close_matches(name, model.model_fields, n=1)
    if name in root.model_fields:
        hint = "it belongs at the top level"
    elif name in _profile_keys(root):
        hint = f"it belongs in a profile: profiles.NAME.{name}"
    elif close:
        hint = f"did you mean {'.'.join([*above, close[0]])}?"
    else:
        hint = f"known there: {', '.join(model.model_fields)}"
    return f"unknown key {'.'.join(keys)}; {hint}"


def _profile_keys(root: type[BaseModel]) -> list[str]:
    inner = [_inner_model(field) for field in root.model_fields.values()]
    return [key for model, by_name in inner if model is not None and by_name for key in model.model_fields]


def _shown(value: Any) -> str:
    """A wrong value as YAML writes it."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # a number too long to print
        text = shown(value)
    return shortened(text)

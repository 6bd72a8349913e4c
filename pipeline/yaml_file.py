"""YAML that people write, read with bounds: nothing in it can cost more than a moment, or end in a traceback."""

from collections import Counter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent

from gmmxlnet.errors import ConfigError, reason_of

MAX_BYTES = 2**20
MAX_DEPTH = 20  # mappings and lists in each other
MAX_NODES = 5_000  # keys and values, those of aliases counted wherever they stand
MAX_SCALAR = 4096  # characters of a key or a value; an integer of more than 4,300 digits cannot even be read
NOT_A_VALUE = (ValueError, OverflowError, TypeError, AttributeError)  # of ruamel.yaml: a date such as 2001-99-99


def read_yaml(path: Path) -> dict[str, Any]:
    """Read YAML the way DVC does (YAML 1.2: `1e-3` is a number, duplicate keys are errors). Raises ConfigError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path}: has {size:,} bytes, and at most {MAX_BYTES:,} make sense")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; run from the root of the repository") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    try:
        problem = _beyond_bounds(text)
        values = None if problem else YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{path}: {where}{error.problem}; mend the YAML there") from None
    except (YAMLError, *NOT_A_VALUE) as error:
        raise ConfigError(f"{path}: not YAML: {reason_of(error)}") from None
    if problem:
        raise ConfigError(f"{path}: {problem}")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping from keys to values, not {type(values).__name__}")
    return values


def _beyond_bounds(text: str) -> str | None:
    """What is too much in this YAML, from its events alone: nothing is built yet."""
    open_nodes: list[str | None] = []  # anchors of the collections around
    sizes: Counter[str] = Counter()  # anchor -> nodes below it, aliases expanded
    total = 0
    for event in YAML(typ="safe").parse(text):
        where = f"line {event.start_mark.line + 1}: "
        if isinstance(event, CollectionEndEvent):
            open_nodes.pop()
            continue
        if not isinstance(event, NodeEvent):
            continue
        added = 1
        if isinstance(event, AliasEvent):
            if event.anchor in open_nodes:
                return f"{where}*{event.anchor} stands inside of what it names; write the values out"
            added = sizes[event.anchor]
        elif isinstance(event, ScalarEvent) and len(event.value) > MAX_SCALAR:
            return f"{where}a key or value of {len(event.value):,} characters; at most {MAX_SCALAR:,} make sense"
        total += added
        if total > MAX_NODES:
            return f"{where}more than {MAX_NODES:,} keys and values, aliases expanded; no parameters need so many"
        around = {anchor for anchor in open_nodes if anchor is not None}
        own = {event.anchor} - {None} if not isinstance(event, AliasEvent) else set()
        for anchor in around | own:
            sizes[anchor] += added
        if isinstance(event, CollectionStartEvent):
            open_nodes.append(event.anchor)
            if len(open_nodes) > MAX_DEPTH:
                return f"{where}mappings and lists are nested more than {MAX_DEPTH} deep; no parameters are"
    return None

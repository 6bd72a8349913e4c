"""What is said to people: without credentials, and safe for a terminal.

    without_credentials(text)   passwords and tokens become ***
    printable(text)             one line; control, bidirectional and other invisible characters are escaped
    said(text)                  both
    say(text)                   prints `said(text)` on a terminal of any encoding
    markdown(text), code_span(text), code_block(text)    the same within Markdown, where no character has a meaning
    json_for_terminals(value)   JSON whose text shows what is invisible
    guard_output()              lets logs, warnings, tracebacks and progress bars of all libraries pass through here

Errors of this project (`gmmxlnet.errors`) clean their messages when they are made.
"""

import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import quote, unquote

from tqdm import tqdm

HIDDEN = "***"
SHORTEST_SECRET = 6  # characters; a shorter value of a variable would hide ordinary words

_USER_INFO = re.compile(
    r"""([a-z][a-z0-9+.-]*:/{1,3})(?:[^\s/?#"'<>@]*|[^\s"'<>]*?:[^\s"'<>]*)@(?![^\s"'<>]*@)""", re.I
)
_SECRET_WORD = r"token|passw(?:or)?d|passwd|pwd|secret|api[-_]?key|access[-_]?key|signature|credential|\bsig\b"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (_USER_INFO, rf"\1{HIDDEN}@"),
    (re.compile(rf"([?&;][^\s=&;?]*(?:{_SECRET_WORD})[^\s=&;]*=)[^\s&;'\"<>]+", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b(authorization['\"]?\s*[:=]\s*['\"]?\w+\s+)[^\s'\"]+", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer\s+)[\w.~+/-]{16,}=*", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b(passw(?:or)?d|passwd|pwd|secret|api_?key|access_?key|(?:access|auth)_?token)"
                r"(['\"]?\s*[=:]\s*['\"]?)(?!\*)[^\s,;'\"]+", re.I), rf"\1\2{HIDDEN}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}|\bapi(?:_org)?_[A-Za-z0-9]{16,}|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}"
                r"|\bglpat-[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|\bdapi[0-9a-f]{16,}\b|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"),
     HIDDEN),
)  # fmt: skip
_SECRET_VARIABLE = re.compile(r"TOKEN(?!IZER)|PASSW|SECRET|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY")
_NOT_SECRET_VARIABLE = re.compile(r"_(PATH|FILE|DIR|HOME)$")
_BREAKS = re.compile(r"\s*[^\S ]\s*")  # white space that is more than a space, and what is around it
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # part of words in Persian and Hindi, and of emoji
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
_MARKUP = re.compile(r"[\\`*\[\]<>|~]|(?<!\w)_|_(?!\w)|^(?:[#+-]|\d+[.)])(?=\s)")
_kept: set[str] = set()


def keep_secret(value: str | None) -> None:
    """Hides a value, such as a token from a file, from all that is said from now on."""
    if value and len(value) >= SHORTEST_SECRET:
        _kept.add(value)


def without_credentials(text: str) -> str:
    """Returns the text with passwords and tokens replaced by `***`.

    These are user names and passwords in URLs, parameters such as `token=`, tokens of known forms, the values of
    environment variables that are named like secrets, and what `keep_secret` was given.
    """
    text = _without_patterns(text)
    for secret in sorted({*_kept, *_of_environment()}, key=len, reverse=True):
        for form in {secret, quote(secret, safe="")}:
            text = text.replace(form, HIDDEN)
    return text


def holds_credentials(text: str) -> bool:
    """Whether a text has the form of a password in a URL or of a token, whatever the environment holds."""
    return _without_patterns(text) != text


def printable(text: str) -> str:
    """Returns a text on one line, safe for a terminal: control and bidi characters escaped, line breaks as spaces."""
    line = _BREAKS.sub(" ", text).strip()
    return line if line.isprintable() else "".join(map(_escaped, line))


def cut(text: str, most: int) -> str:
    """Returns a text of at most `most` characters, with `…` at its end if something was left out."""
    return text if len(text) <= most else text[: most - 1] + "…"


def said(text: str, most: int | None = None) -> str:
    """Returns a text as a message says it: without credentials, on one line, cut to `most` characters."""
    line = printable(without_credentials(text))
    return line if most is None else cut(line, most)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints `said(text)` to standard output or `file`; what its encoding lacks is escaped."""
    stream = file or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(said(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def markdown(text: str) -> str:
    """Returns `said(text)` with every character escaped that Markdown would take for markup."""
    return _MARKUP.sub(r"\\\g<0>", said(text))


def code_span(text: str) -> str:
    """Returns `said(text)` as inline code in Markdown, between as many backticks as it takes."""
    line = said(text) or " "
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Returns a text without credentials as a block of code in Markdown, between as many backticks as it takes."""
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{without_credentials(text)}\n{fence}"


def json_for_terminals(value: Any) -> str:
    """Returns indented JSON of the same value in which characters that are not printable are written as `\\uXXXX`."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return text if text.replace("\n", "").isprintable() else "".join(c if c == "\n" else _in_json(c) for c in text)


def guard_output() -> None:
    """Cleans log records, warnings, tracebacks and progress bars of all libraries; called by every program's start.

    A record of our own loggers becomes one line, one of another library keeps its line breaks and colors. Progress bars
    of huggingface_hub and datasets are named after files on a server.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "guards", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            text = made.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit; logging says so
            return made
        own = made.name.partition(".")[0] in ("gmmxlnet", "pipeline")
        made.msg, made.args = (said(text) if own else _lines(text)), ()
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = _lines("".join(traceback.format_exception(*made.exc_info)).rstrip("\n"))
        return made

    record.guards = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda *args, **kwargs: _lines(format_warning(*args, **kwargs))
    sys.excepthook = lambda *error: print(_lines("".join(traceback.format_exception(*error))), end="", file=sys.stderr)
    format_meter = tqdm.format_meter

    def meter(n: float, total: float, elapsed: float, **how: Any) -> str:
        texts = {name: how[name] for name in ("prefix", "postfix", "unit") if isinstance(how.get(name), str)}
        shown = {name: "".join(map(_escaped, without_credentials(text))) for name, text in texts.items()}
        return format_meter(n, total, elapsed, **(how | shown))

    tqdm.format_meter = staticmethod(meter)


def _without_patterns(text: str) -> str:
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _of_environment() -> Iterator[str]:
    """Secrets in environment variables: values of variables named so, and passwords in URLs of any variable."""
    for name, value in os.environ.items():
        found = ""
        if _SECRET_VARIABLE.search(name.upper()) and not _NOT_SECRET_VARIABLE.search(name.upper()):
            found = value
        elif "@" in value and ("://" in value or "PROXY" in name.upper()):
            found = value.rpartition("://")[2].rpartition("@")[0].partition(":")[2]
        for secret in {found, unquote(found)}:
            if len(secret) >= SHORTEST_SECRET:
                yield secret


def _lines(text: str) -> str:
    """Returns a text of another library: its lines and colors as they are, other control characters escaped."""
    parts = _COLOR.split(without_credentials(text))
    return "".join(
        part if place % 2 else "".join(c if c in "\n\t" else _escaped(c) for c in part)
        for place, part in enumerate(parts)
    )


def _in_json(character: str) -> str:
    return character if character.isprintable() or character in _JOINERS else json.dumps(character)[1:-1]


def _escaped(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")

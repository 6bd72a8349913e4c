"""Damage to bytes and to JSON values, drawn from a `random.Random`."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

DEEP = "[" * 20_000
HUGE = "1" * 5_000
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e-300, 1e308),
    *("", "x", "none", "gmm", "standard", "float16", "2.0", "../../etc/passwd", "a\nb", "\x00", "é", "9" * 100),
    *([], [[]], {}, {"": None}, ["learned"], [1, 2], {"a": {"b": {"c": 1}}}),
]


def damaged_bytes(rng: Random, content: bytes) -> bytes:
    """Bytes flipped, cut, repeated, put in, replaced."""
    data = bytearray(content)
    how = rng.randrange(7)
    place = rng.randrange(len(data) + 1)
    if how <= 2:
        for _ in range(rng.choice((1, 1, 2, 8))):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == 3:
        del data[place:]
    elif how == 4:
        data[place:place] = rng.randbytes(rng.choice((1, 4, 64)))
    elif how == 5:
        data[place:place] = data[: rng.choice((1, 8, 1000))]
    else:
        data = bytearray(rng.choice((b"", b"\0" * 64, b"\xff" * 64, b"{}", b"null", rng.randbytes(40))))
    return bytes(data)


def damage_bytes_of(rng: Random, path: Path) -> None:
    """Write damaged bytes in place of a file's."""
    path.write_bytes(damaged_bytes(rng, path.read_bytes()))


def damage_json_of(rng: Random, path: Path) -> None:
    """Write damaged JSON in place of a file's."""
    text = damaged_json(rng, json.loads(path.read_text(encoding="utf-8")))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def damaged_json(rng: Random, value: Any) -> str:
    """JSON text in which one value is removed, retyped, renamed, repeated or beyond all bounds."""
    value = copy.deepcopy(value)
    parent, key = rng.choice(_places(value))
    how = rng.randrange(8)
    mark = "@@here@@"
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[rng.choice((f"{key}x", "", "model_type", "id"))] = parent.pop(key)
    elif how == 2:
        parent[key] = copy.deepcopy(rng.choice(_places(value))[0])
    elif how == 3 and isinstance(parent, dict):
        text = json.dumps({**parent, mark: 0})[1:-1].replace(json.dumps(mark), json.dumps(key))
        parent[key] = mark
        return json.dumps(value).replace(json.dumps(mark), "{" + text + "}", 1)
    elif how == 4:
        parent[key] = mark
        odd = rng.choice(("NaN", "Infinity", "-Infinity", DEEP, HUGE, "1e999", "-0", '"\\ud800"', "01", "{'a': 1}"))
        return json.dumps(value).replace(json.dumps(mark), odd, 1)
    elif how == 5 and isinstance(parent[key], int | float):
        parent[key] = parent[key] + rng.choice((1, -1, 0.5, 1000)) if not isinstance(parent[key], bool) else 1
    else:
        parent[key] = rng.choice(ODD)
    return json.dumps(value, allow_nan=False)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Where every value inside a JSON value stands: (container, key)."""
    found: list[tuple[Any, Any]] = []
    stack: list[Any] = [[value]]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, inner in items:
            found.append((node, key))
            if isinstance(inner, dict | list):
                stack.append(inner)
    return found

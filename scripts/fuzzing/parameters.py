"""Damaged `params.yaml`: what is taken can be used by every stage, the rest is refused in one line."""

import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from ruamel.yaml import YAML

from pipeline.chunk import chunk_settings
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.training import memory_settings, training_config
from pipeline.variants import in_use
from scripts.fuzzing.damage import ODD, damaged_bytes

ROOT = Path(__file__).resolve().parents[2]
SCALARS = (
    *("4", "4.0", "'4'", "1e-3", ".nan", ".inf", "-1", "0", "true", "yes", "null", "~", "''", "none", "gmm", "lora"),
    *("9" * 30, "9" * 5_000, "1e400", "0x10", "2001-99-99", "!!binary x", "!!python/object:os.system x", "x" * 5_000),
    *("[2, 4]", "[]", "{}", "{a: 1}", "[[[[1]]]]", "[" * 5_000, "{a: " * 5_000, "&a [*a]", "*unknown", "? [a]\n: b"),
    *('"\\u202e\\x1b[2J"', '"a\\nb"', "|\n  a\n  b", "https://me:secret@host", "../../etc/passwd", "\u0000", "\u009b"),
)
BOMB = "bomb: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"k{n}: &k{n} [*b, *b, *b]\n" for n in range(20))


class ParameterCases:
    """Cases by seed and number."""

    name = "parameters"

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / "params.yaml"
        self.text = (ROOT / "params.yaml").read_text(encoding="utf-8")
        self.places = [n for n, line in enumerate(self.text.splitlines()) if ": " in line.partition("#")[0]]

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        how = rng.choice(("bytes", "values", "values", "scalars", "scalars", "lines"))
        raw = getattr(self, f"_{how}")(rng)
        self.path.write_bytes(raw)
        return how, self._read

    def _bytes(self, rng: Random) -> bytes:
        return damaged_bytes(rng, self.text.encode())

    def _values(self, rng: Random) -> bytes:
        """A value of another type, or one key too many or too few, written as YAML writes it."""
        yaml = YAML(typ="safe", pure=True)
        values = yaml.load(self.text)
        section = values if rng.random() < 0.6 else values["profiles"][rng.choice(sorted(values["profiles"]))]
        key, how = rng.choice(sorted(section)), rng.randrange(6)
        if how == 0:
            del section[key]
        elif how == 1:
            section[rng.choice((f"{key}x", "", "seed", "x" * 5_000))] = section.pop(key)
        elif how == 2:
            section[key] = section[rng.choice(sorted(section))]
        else:
            section[key] = rng.choice(ODD)
        stream = io.StringIO()
        yaml.dump(values, stream)
        return stream.getvalue().encode("utf-8", "surrogatepass")

    def _scalars(self, rng: Random) -> bytes:
        """A value that YAML reads in a way of its own."""
        lines = self.text.splitlines()
        place = rng.choice(self.places)
        key = lines[place].partition(": ")[0]
        lines[place] = f"{key}: {rng.choice(SCALARS)}"
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def _lines(self, rng: Random) -> bytes:
        """Lines removed, repeated, moved, or a bomb among them."""
        lines = self.text.splitlines()
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        how = rng.randrange(4)
        if how == 0:
            del lines[place]
        elif how == 1:
            lines.insert(other, lines[place])
        elif how == 2:
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines.insert(place, BOMB)
        return "\n".join(lines).encode()

    def _read(self) -> None:
        params = load_params(self.path)
        again: Any = in_use(load_params(self.path))
        assert again == in_use(params), "read twice, it says two things"
        chunk_settings(params)
        memory_settings(params)
        training_config(params, self.path.parent / "model", self.path.parent / "resume")
        experiment = Experiment(parameters=canonical_parameters(params), data="x")
        experiment.write(self.path.parent)
        assert Experiment.read(self.path.parent) == experiment

"""The README's commands change parameters that exist, to values that are accepted."""

import io
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = re.split(r"^## ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
CHANGE = re.compile(r"-S (?:'([^=']+)=([^']*)'|([^= ]+)=(\S+))")


def commands(section):
    """The overrides of each `dvc exp run` in a section: lists of (key, value)."""
    text = section.replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip().startswith("dvc exp run")]
    return [[(a or c, b or d) for a, b, c, d in CHANGE.findall(line)] for line in lines]


@pytest.mark.parametrize("section", [section for section in SECTIONS if "dvc exp run" in section])
def test_commands_are_accepted(section, tmp_path):
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for command in commands(section):
        assert command
        for key, value in command:
            *above, name = key.split(".")
            place = values
            for part in above:
                place = place[part]
            assert name in place, key
            place[name] = yaml.load(value if value[0] in "[{" else value.split(",")[-1])
        stream = io.StringIO()
        yaml.dump(values, stream)
        (tmp_path / "params.yaml").write_text(stream.getvalue(), encoding="utf-8")
        load_params(tmp_path / "params.yaml")

"""Mutation testing: its files and tests are there, and the share that is seen is counted right."""

import tomllib

import pytest

from scripts.mutants import ROOT
from scripts.mutation import share_seen

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]


def test_every_file_and_test_that_is_named_is_there():
    names = [*SETTINGS["only_mutate"], *SETTINGS["pytest_add_cli_args_test_selection"], *SETTINGS["also_copy"]]
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_mutants_without_a_test_or_a_verdict_are_not_seen():
    counts = {"killed": 6, "timeout": 2, "segfault": 1, "survived": 1, "no_tests": 1, "skipped": 1, "total": 12}
    assert share_seen(counts) == pytest.approx(9 / 12)
    assert share_seen({}) == 0

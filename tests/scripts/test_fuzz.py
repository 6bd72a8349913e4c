"""Some hundred damaged files of every target (`make fuzz` runs thousands), and the fuzzing itself."""

import os
import shutil
import time
from importlib import import_module
from pathlib import Path

import pytest

from gmmxlnet.errors import DataError
from scripts.fuzz import TARGETS, _in_a_process, fuzz, main
from scripts.fuzzing.checkpoints import DAMAGES, CheckpointCases
from scripts.fuzzing.squad import SquadCases

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return CheckpointCases(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    return SquadCases(tmp_path_factory.mktemp("squad"))


def test_damaged_checkpoints_are_loaded_right_or_refused(checkpoints):
    outcomes = fuzz(checkpoints, 11, range(250))
    assert outcomes.failures == []
    assert outcomes.total == 250
    refused = sum(count for name, count in outcomes.counts.items() if name.endswith("refused"))
    assert 100 < refused < 250
    assert {name.split(":")[0].removesuffix(" under new hashes") for name in outcomes.counts} == set(DAMAGES)


def test_damaged_squad_files_are_read_right_or_refused(squad):
    outcomes = fuzz(squad, 11, range(400))
    assert outcomes.failures == []
    refused = sum(count for name, count in outcomes.counts.items() if name.endswith("refused"))
    assert 200 < refused < 400


@pytest.mark.parametrize(
    ("target", "count"),
    [("reports", 80), ("parameters", 30), ("chunks", 100), ("tokenizers", 80), ("resume folders", 5), ("databases", 3)],
)
def test_damaged_files_of_other_targets_are_read_right_or_refused(target, count, tmp_path):
    module, _, cases_class = TARGETS[target][0].partition(":")
    cases = getattr(import_module(f"scripts.fuzzing.{module}"), cases_class)(tmp_path)
    outcomes = fuzz(cases, 11, range(count))
    assert outcomes.failures == []
    assert outcomes.total == count
    assert cases.name == target
    if count > 5:
        assert {name.rpartition(": ")[2] for name in outcomes.counts} == {"read", "refused"}


def test_the_end_of_the_process_is_a_failure_of_its_case(tmp_path, monkeypatch, capfd):
    """A target whose third case ends the process."""
    package = tmp_path / "scripts" / "fuzzing"
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "squad.py").write_text(
        "import os\nclass SquadCases:\n    name = 'x'\n    def __init__(self, scratch): pass\n"
        "    def __call__(self, seed, number): return 'k', lambda: os.kill(os.getpid(), 11) if number == 2 else None\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.chdir(tmp_path)
    assert _in_a_process("SQuAD files", 5, 7) not in (0, 1)
    assert "SQuAD files 2: ended the process with status -11" in capfd.readouterr().out


def test_the_seed_of_the_day_is_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fuzz", "--cases", "0"])
    monkeypatch.setattr("scripts.fuzz._in_a_process", lambda target, count, seed: seeds.append(seed) or 0)
    seeds = []
    assert main() == 0
    assert seeds == [int(time.strftime("%Y%m%d"))] * len(TARGETS)
    assert capsys.readouterr().out == f"seed {seeds[0]}\n"


def test_a_case_is_the_same_every_time(squad, checkpoints):
    assert [squad(3, n)[0] for n in range(20)] == [squad(3, n)[0] for n in range(20)]
    checkpoints(3, 5)
    first = {path.name: path.read_bytes() for path in checkpoints.target.iterdir() if path.is_file()}
    checkpoints(3, 5)
    assert {path.name: path.read_bytes() for path in checkpoints.target.iterdir() if path.is_file()} == first


def test_what_is_no_error_of_the_project_is_a_failure(tmp_path):
    def raises(error):
        def read():
            raise error

        return read

    class Cases:
        name = "cases"

        def __call__(self, seed, number):
            return "kind", (raises(DataError("a line")), raises(KeyError("x")), raises(DataError("a" * 3000)))[number]

    outcomes = fuzz(Cases(), 0, range(3))
    assert outcomes.counts == {"kind: refused": 2, "kind: FAILED": 1}
    assert [failure.split(":")[0] for failure in outcomes.failures] == ["cases 1 (kind)", "cases 2 (kind)"]
    assert "KeyError at " in outcomes.failures[0]


def test_what_is_printed_past_python_is_heard(capfd):
    class Cases:
        name = "cases"

        def __call__(self, seed, number):
            return "kind", lambda: os.write(1, (b"a line\n", b"\x1b[31m")[number])

    (failure,) = fuzz(Cases(), 0, range(2)).failures
    assert failure == "cases 1 (kind): printed what could steer a terminal: ['\\x1b[31m']"
    assert capfd.readouterr().out == ""

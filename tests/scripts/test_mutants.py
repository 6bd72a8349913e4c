"""Planted faults: the list fits the code, and a small project's faults are told apart: killed, surviving, unfit."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import mutants
from scripts.mutants import FAULTS, ROOT, Fault, MutantError, read_faults

SUM = "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return 2 * a\n"
TESTS = "from sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
ENTRY = "[[fault]]\nname = \"{}\"\nfile = \"sums.py\"\nold = '''{}'''\nnew = '''{}'''\ntest = \"{}\"\n"
MINUS = ("minus", "a + b", "a - b", "tests/test_sums.py::test_add")
TRIPLE = ("triple", "2 * a", "3 * a", "tests/test_sums.py")


@pytest.mark.parametrize("fault", read_faults(ROOT / FAULTS), ids=lambda fault: fault.name)
def test_every_fault_fits_the_code_and_has_its_test(fault):
    _, faulty = fault.text(ROOT)
    if fault.file.endswith(".py"):
        compile(faulty, fault.file, "exec")
    file, _, function = fault.test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not function or function in names


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    """A function from entries of the list, and arguments, to exit status, what was printed, and the errors."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "sums.py").write_text(SUM, encoding="utf-8")
    (tmp_path / "tests" / "test_sums.py").write_text(TESTS, encoding="utf-8")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a third of the time
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)

    def run(*entries, arguments=()):
        (tmp_path / FAULTS).write_text("".join(ENTRY.format(*entry) for entry in entries), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["mutants", "--jobs", "1", *arguments])
        status = mutants.main(tmp_path)
        assert (tmp_path / "sums.py").read_text(encoding="utf-8") == SUM
        return status, *capsys.readouterr()

    return run


def test_faults_that_a_test_sees_are_killed_and_others_survive(project):
    status, shown, _ = project(MINUS, TRIPLE)
    assert status == 1
    assert shown.splitlines() == [
        "killed    minus: tests/test_sums.py::test_add",
        "SURVIVED  triple: tests/test_sums.py",
        "2 faults; survivors: triple",
    ]
    assert project(MINUS, TRIPLE, arguments=["--only", "minus"])[0] == 0


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            ("gone", "a * b", "a", MINUS[3]),
            "gone: sums.py has its `old` text 0 times instead of once; change the fault",
        ),
        (("twice", "def", "", MINUS[3]), "twice: sums.py has its `old` text 2 times instead of once"),
        (("same", "a + b", "a + b", MINUS[3]), "same: `old` and `new` are equal"),
        (("broken", "a + b", "a +", MINUS[3]), "broken: tests/test_sums.py::test_add did not run with it"),
        (("test", "a + b", "a", "tests/test_sums.py::test_subtract"), "a test does not pass without a fault"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_fault_that_cannot_be_tried_is_an_error_in_a_line(project, entry, words):
    status, _, errors = project(entry)
    assert status == 2
    assert words in errors.splitlines()[0]


def test_unknown_names_and_keys_are_refused(project, tmp_path):
    assert project(MINUS, arguments=["--only", "plus"])[0::2] == (2, "tests/mutants.toml: there is no fault plus\n")
    assert "two faults have the name minus" in project(MINUS, MINUS)[2]
    (tmp_path / FAULTS).write_text('[[fault]]\nname = "x"\n', encoding="utf-8")
    with pytest.raises(MutantError, match=r"x: needs file, name, new, old, test and nothing else$"):
        read_faults(tmp_path / FAULTS)
    with pytest.raises(MutantError, match=r"there is no file none\.py"):
        Fault(name="x", file="none.py", old="", new="", test="").text(Path(tmp_path))

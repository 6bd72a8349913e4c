"""Imports run downwards: each room of `gmmxlnet` uses only rooms below it, and no two modules need each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (  # from the ground up; rooms of one layer know nothing of each other
    ("messages",),
    ("errors",),
    ("devices", "folder_files", "garbage", "hub_files", "interrupts", "memory_kinds", "native_settings", "windows"),
    ("options",),
    ("utils",),
    ("reports",),
    ("data", "models"),
    ("training", "evaluation"),
    ("verification", "pretraining"),
    ("conversion",),
    ("analysis",),
    ("sharing",),
    ("comparison",),
    ("commands",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
UPWARD_ON_PURPOSE = {  # (module, imported): why it is imported inside a function
    ("gmmxlnet.models.gmm_xlnet_qa", "gmmxlnet.evaluation.answering"): "`model.answer` belongs to the model's users",
    ("gmmxlnet.memory_kinds", "gmmxlnet.models.memories"): "for type checkers only",
    ("gmmxlnet.models.memories.interface", "gmmxlnet.models.configuration"): "for type checkers only",
}


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted((ROOT / "gmmxlnet").rglob("*.py"))}


def imported(node):
    """The modules of ours that an import statement names; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if name in MODULES else node.module for name in inner]
    else:
        names = []
    return {name for name in names if name in MODULES}


def imports(module):
    """The modules that one imports, as two sets: when it is loaded, and later (in a function, for type checkers)."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    at_once = set().union(*(imported(node) for node in tree.body))
    anywhere = set().union(*(imported(node) for node in ast.walk(tree)))
    return at_once, anywhere - at_once


def room(module):
    return module.split(".")[1] if "." in module else None


@pytest.mark.parametrize("module", [name for name in MODULES if room(name)])
def test_a_module_imports_only_what_lies_below_it(module):
    at_once, later = imports(module)
    wrong = []
    for other in sorted(at_once | later):
        if room(other) in (None, room(module)) and other in at_once:
            continue
        below = room(other) is None or room(other) == room(module) or FLOOR[room(other)] < FLOOR[room(module)]
        if not below and (other in at_once or (module, other) not in UPWARD_ON_PURPOSE):
            wrong.append(other)
    assert wrong == []


def test_what_is_said_to_run_upwards_does():
    assert [pair for pair in UPWARD_ON_PURPOSE if pair[1] not in imports(pair[0])[1]] == []


def test_no_two_modules_need_each_other():
    needs = {module: imports(module)[0] for module in MODULES}
    visited, on_path = set(), []

    def visit(module):
        assert module not in on_path, " -> ".join([*on_path[on_path.index(module) :], module])
        if module in visited:
            return
        on_path.append(module)
        for other in sorted(needs[module] - {module}):
            visit(other)
        on_path.pop()
        visited.add(module)

    for module in MODULES:
        visit(module)


def test_every_room_has_its_floor():
    assert {room(name) for name in MODULES if room(name)} - set(FLOOR) == set()


def test_utils_stay_small():
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / "gmmxlnet/utils").glob("*.py"))
    assert lines < 500

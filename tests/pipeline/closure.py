"""What a stage's code is, computed: the files that its module imports, at once or in a function."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_FOLLOWED = {  # (file, module): imported in a function that no stage calls
    ("gmmxlnet/models/gmm_xlnet_qa.py", "gmmxlnet.evaluation.answering"): "`model.answer` is for the model's users",
    ("gmmxlnet/data/__init__.py", "gmmxlnet.data.dataset"): "`ChunkedSquadDataset` is for the library's users",
}


def file_of(module):
    """The file of one of our modules or packages, relative to the repository; None for others'."""
    path = Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] in ("gmmxlnet", "pipeline") and (ROOT / file).is_file():
            return file.as_posix()
    return None


def imported(file):
    """Files that a file's import statements name, those for type checkers aside, with the packages around them."""
    return _imported(ROOT, file)


@cache
def _imported(root, file):
    names = set()
    waiting = [ast.parse((root / file).read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and (file, node.module) not in NOT_FOLLOWED:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        waiting += node.orelse if for_checkers else ast.iter_child_nodes(node)
    whole = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
    return {found for found in map(file_of, whole) if found is not None}


def closure(start):
    """All files that running a file can import."""
    found, waiting = set(), [start]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += imported(file)
    return found

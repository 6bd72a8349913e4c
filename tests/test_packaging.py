"""pyproject.toml names what the code imports, extra by extra, and ships every file that the code reads."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
DISTRIBUTIONS = packages_distributions()
FOLDERS = {  # the packages that an extra is for
    "data": ["gmmxlnet/data"],
    "training": ["gmmxlnet/training"],
    "analysis": ["gmmxlnet/analysis", "gmmxlnet/comparison"],
    "adapters": ["gmmxlnet/models"],
    "hub": ["gmmxlnet/sharing", "gmmxlnet/commands"],
    "pipeline": ["pipeline"],
}
IMPORTED_BY_OTHERS = {  # and needed nevertheless
    "sentencepiece": "transformers reads spiece.model with it",
    "tabulate": "pandas writes Markdown with it",
}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements):
    """The distributions that a list of requirements names, markers and extras left out."""
    return {
        canonical(re.match(r"[\w.-]+", line)[0])
        for line in requirements
        if "extra ==" not in line and not line.startswith("gmmxlnet[")
    }


@cache
def brought_along(distribution):
    """A distribution and what it requires itself."""
    return {distribution} | names(requires(distribution) or [])


def imported(file):
    """Modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def third_party(folders):
    """The distributions that these folders import, directly or through a module of gmmxlnet.utils."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    modules = {module for file in files for module in imported(file)}
    tools = {ROOT / f"{module.replace('.', '/')}.py" for module in modules if module.startswith("gmmxlnet.utils.")}
    modules |= {module for file in tools if file.exists() for module in imported(file)}
    tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    tops -= {"gmmxlnet", "pipeline", "triton"}  # Triton comes with torch's builds for GPUs, and is optional
    return {canonical(distribution) for top in tops for distribution in DISTRIBUTIONS[top]}


BASE = set().union(*(brought_along(name) for name in names(PROJECT["project"]["dependencies"])))


@pytest.mark.parametrize("extra", FOLDERS)
def test_an_extra_names_what_its_packages_import(extra):
    nested = (
        {name for other in EXTRAS if other not in (extra, "mutation", "servers") for name in names(EXTRAS[other])}
        if extra == "pipeline"
        else set()
    )
    declared = names(EXTRAS[extra])
    along = set().union(*(brought_along(name) for name in declared | nested)) - declared
    missing = third_party(FOLDERS[extra]) - BASE - declared - along
    assert missing == set()
    assert declared - third_party(FOLDERS[extra]) == declared & set(IMPORTED_BY_OTHERS)


def test_all_other_packages_need_the_dependencies_alone():
    covered = {Path(folder).name for folders in FOLDERS.values() for folder in folders} | {"utils", "__pycache__"}
    others = [path for path in (ROOT / "gmmxlnet").iterdir() if path.is_dir() and path.name not in covered]
    assert len(others) >= 4
    assert third_party([path.relative_to(ROOT).as_posix() for path in others]) - BASE == set()


def test_the_pipeline_has_all_extras():
    (line,) = [line for line in EXTRAS["pipeline"] if line.startswith("gmmxlnet[")]
    assert set(re.findall(r"\w+", line)) == {"gmmxlnet", *EXTRAS} - {"pipeline", "dev", "mutation", "servers"}


def test_the_lock_has_a_version_of_everything():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = names(line for line in lines if not line.startswith("#"))
    wanted = names([*PROJECT["project"]["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
    assert wanted - locked == set()


def test_files_that_are_not_python_are_shipped():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["gmmxlnet"]
    package = ROOT / "gmmxlnet"
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others == shipped
    assert (package / "analysis" / "page.html.j2") in shipped

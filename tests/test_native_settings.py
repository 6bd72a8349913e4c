"""What is set for OpenMP and oneDNN reaches them: before torch is imported, in stages and commands, for nobody else."""

import os
import subprocess
import sys

import pytest

from gmmxlnet.native_settings import SETTINGS

PROGRAMS = {
    "a stage": "import pipeline",
    "a command": "from gmmxlnet import cli; cli.main(['verify', '/no/where'])",
    "a library's user": "import gmmxlnet.models",
}


def seen_by_torch(code, **environment):
    """The settings in the environment at the moment when torch is imported, or at the end."""
    look = f"""
import json, os, sys
class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "torch": tell()
def tell():
    sys.meta_path.remove(look)
    print("SEEN", json.dumps([os.environ.get(name) for name in {list(SETTINGS)}]))
look = Look()
sys.meta_path.insert(0, look)
{code}
if look in sys.meta_path: tell()
"""
    told = {key: value for key, value in os.environ.items() if key not in SETTINGS} | environment
    done = subprocess.run([sys.executable, "-c", look], env=told, capture_output=True, text=True, check=True)
    return next(line for line in done.stdout.splitlines() if line.startswith("SEEN "))


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_this_project_set_them_before_torch(program):
    expected = '["PASSIVE", "128"]' if program != "a library's user" else "[null, null]"
    assert seen_by_torch(PROGRAMS[program]) == f"SEEN {expected}"


def test_what_is_set_already_stays():
    seen = seen_by_torch(PROGRAMS["a stage"], ONEDNN_PRIMITIVE_CACHE_CAPACITY="7", OMP_WAIT_POLICY="ACTIVE")
    assert seen == 'SEEN ["ACTIVE", "7"]'

"""Running a benchmark's command in miniature."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run():
    """A function that runs a module in miniature and returns the ended process."""

    def run(module, folder, *more, **environment):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, "-m", module, "--quick", "--out", str(folder), *more]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return run

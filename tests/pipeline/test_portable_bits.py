"""`GMMXLNET_PORTABLE_BITS=1`: a training's bits do not depend on which instructions beyond AVX2 a processor has."""

import os
import subprocess
import sys

import pytest
import torch
from test_several_processes import run_stage_in, workspace
from test_train import ROOT, write_params

from pipeline.experiment import folder_hash

PORTABLE = {"GMMXLNET_PORTABLE_BITS": "1"}
pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="a processor without AVX2"
)


def capability(**environment):
    """What torch uses in a process that imports the pipeline first."""
    code = "import pipeline, torch; print(torch.backends.cpu.get_cpu_capability())"
    told = {key: value for key, value in os.environ.items() if key not in ("ATEN_CPU_CAPABILITY", *PORTABLE)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=told | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_it_is_set_before_torch_chooses(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert capability(**PORTABLE) == "AVX2"
    assert capability(GMMXLNET_PORTABLE_BITS="0") == capability()


@pytest.mark.slow
def test_a_processor_without_avx512_trains_the_same_bits(tmp_path, sample_chunks):
    """Emulated: MKL and oneDNN are told that there is AVX2 alone, and torch by its own variable."""
    avx2_alone = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    hashes = []
    for name, environment in (("here", {}), ("there", avx2_alone)):
        folder = workspace(tmp_path / name, sample_chunks, 1)
        write_params(folder, profile={"max_steps": 3})
        done = run_stage_in(folder, "train", MLFLOW_TRACKING_URI="http://127.0.0.1:9", **PORTABLE, **environment)
        assert done.returncode == 0, done.stderr
        assert "train: processor AVX2, 1 threads" in done.stderr
        hashes.append((folder_hash(folder / "models/gmm"), (folder / "reports/training.csv").read_bytes()))
    assert hashes[0] == hashes[1]

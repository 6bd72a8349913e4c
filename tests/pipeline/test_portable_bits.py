"""`GMMXLNET_PORTABLE_BITS=1`: a training's bits do not depend on which instructions beyond AVX2 a processor has."""

import os
import subprocess
import sys

import pytest
import torch
from test_several_processes import run_stage_in, workspace
from test_train import ROOT, write_params

from gmmxlnet.utils.files import sha256_of

OF_A_RUN = {f"reports/{name}" for name in ("throughput.csv", "trained.json", "provenance.js")}  # no outputs
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


# As near to other processors as one comes: MKL, oneDNN and torch are told which instructions to use.
PROCESSORS = {
    "this one": {},
    "AVX-512 without AMX": {
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "DNNL_MAX_CPU_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
    "AVX2 alone": {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, sample_chunks):
    """SHA-256 of everything that training, evaluation and analysis leave, by processor and name."""
    found = {}
    for name, environment in PROCESSORS.items():
        folder = workspace(tmp_path_factory.mktemp("processor") / "work", sample_chunks, 1)
        write_params(folder, profile={"max_steps": 3})
        for stage in ("train", "evaluate", "analyze"):
            done = run_stage_in(folder, stage, MLFLOW_TRACKING_URI="http://127.0.0.1:9", **PORTABLE, **environment)
            assert done.returncode == 0, done.stderr
            assert stage != "train" or "train: processor AVX2, 1 threads" in done.stderr
        files = [path for part in ("models", "reports") for path in (folder / part).rglob("*") if path.is_file()]
        names = {path.relative_to(folder).as_posix(): path for path in files}
        found[name] = {name: sha256_of(path) for name, path in names.items() if name not in OF_A_RUN}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processor", [name for name in PROCESSORS if name != "this one"])
def test_another_processor_gives_the_same_outputs(outputs, processor):
    named = {"models/gmm/model.safetensors", "reports/training.csv", "reports/metrics.json", "reports/predictions.json"}
    assert named | {"reports/nbest_predictions.json", "reports/routing.json", "reports/index.html"} <= set(
        outputs["this one"]
    )
    assert outputs[processor] == outputs["this one"]

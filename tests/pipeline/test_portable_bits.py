"""`portable_bits`: outputs depend neither on which instructions beyond AVX2 a processor has nor on its cores."""

import os
import subprocess
import sys

import pytest
import torch
from test_several_processes import run_stage_in, workspace
from test_train import ROOT, write_params

from gmmxlnet.utils.files import sha256_of
from pipeline import portable_bits
from pipeline.params import load_params
from pipeline.stage import run_stage

OF_A_RUN = {f"reports/{name}" for name in ("throughput.csv", "trained.json", "provenance.js")}  # no outputs
STAGES = ("train", "verify", "evaluate", "analyze")
needs_avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="a processor without AVX2"
)


@needs_avx2
@pytest.mark.parametrize("imported_before", ["", "import torch; "], ids=["before torch", "after torch"])
def test_it_decides_instructions_and_threads_whatever_the_shell_says(imported_before):
    code = f"{imported_before}from pipeline import params, portable_bits; portable_bits.prepare(params.load_params())"
    code += "; import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["AVX2", "2"]


@pytest.mark.parametrize(("asked", "flags"), [(False, "fma avx2 bmi1"), (True, "fma avx bmi1"), (True, None)])
def test_nothing_is_set_where_nobody_asks_or_the_processor_cannot(asked, flags, tmp_path, monkeypatch):
    write_params(tmp_path, profile={"portable_bits": asked})
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n", encoding="utf-8")
    monkeypatch.setattr(portable_bits, "PROCESSOR", tmp_path / "cpuinfo")
    before = dict(os.environ)
    portable_bits.prepare(load_params(tmp_path / "params.yaml"))
    assert dict(os.environ) == before


def test_a_process_that_is_not_the_stage_s_keeps_its_settings(tmp_path, monkeypatch):
    write_params(tmp_path, profile={"portable_bits": True})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    before = dict(os.environ), torch.get_num_threads()
    run_stage(lambda: None)
    assert (dict(os.environ), torch.get_num_threads()) == before


# As near to other processors as one comes: MKL, oneDNN and torch are told which instructions to use.
PROCESSORS = {
    "this one": {},
    "more cores, AVX-512 without AMX": {
        "OMP_NUM_THREADS": "3",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "DNNL_MAX_CPU_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
    "AVX2 alone": {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}


def outputs_of(folder, chunks, stages, environment, **profile):
    """SHA-256 of everything that the stages leave, by name."""
    workspace(folder, chunks, 1)
    write_params(folder, profile={"portable_bits": True, **profile})
    for stage in stages:
        done = run_stage_in(folder, stage, MLFLOW_TRACKING_URI="http://127.0.0.1:9", **environment)
        assert done.returncode == 0, done.stderr
    files = [path for part in ("models", "reports") for path in (folder / part).rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256_of(path) for name, path in names.items() if name not in OF_A_RUN}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, sample_chunks):
    """Those on each kind of processor."""
    return {
        name: outputs_of(tmp_path_factory.mktemp("processor") / "work", sample_chunks, STAGES, environment)
        for name, environment in PROCESSORS.items()
    }


@needs_avx2
@pytest.mark.slow
@pytest.mark.parametrize("processor", [name for name in PROCESSORS if name != "this one"])
def test_another_processor_gives_the_same_outputs(outputs, processor):
    reports = ("training.csv", "determinism.json", "metrics.json", "predictions.json", "nbest_predictions.json")
    reports += ("routing.json", "index.html")
    named = {"models/gmm/model.safetensors", *(f"reports/{name}" for name in reports)}
    assert named <= set(outputs["this one"])
    assert outputs[processor] == outputs["this one"]


@needs_avx2
@pytest.mark.slow
def test_without_it_they_differ(outputs, tmp_path, sample_chunks):
    otherwise = outputs_of(tmp_path / "work", sample_chunks, ("train",), {}, portable_bits=False)
    assert otherwise["models/gmm/model.safetensors"] != outputs["this one"]["models/gmm/model.safetensors"]

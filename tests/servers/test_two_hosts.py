"""Training on two hosts (network namespaces, gloo): as on one machine, written once; and what a lost host does."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import hosts as two_hosts
import pytest
import torch
from hosts import ADDRESSES, Hosts
from safetensors.torch import load_file
from test_processes import SETTINGS
from test_train import SMALL, write_params
from waiting import wait_until

from tests.small_repository import environment

ROOT = Path(__file__).resolve().parents[2]
MISSING = two_hosts.missing() if sys.platform == "linux" else "Linux"
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(MISSING is not None, reason=f"needs {MISSING} (make scale-test as root)"),
]
STEPS = {"max_steps": 60, "num_epochs": 30, "save_steps": 2, "num_processes": 2, "batch_size": 5, "scratch_size": SMALL}
OUTPUTS = ("models/gmm/model.safetensors", "models/gmm/fingerprint.json", "reports/training.csv")
GRADIENTS = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import test_processes
test_processes.compare({index}, {chunks!r}, {models!r}, "tcp://{address}:29400")
"""


@pytest.fixture
def hosts(tmp_path, sample_chunks):
    """Two hosts, each with the parameters and a copy of the chunks."""
    (tmp_path / "hosts").mkdir()
    with Hosts(tmp_path / "hosts") as hosts:
        for index in range(2):
            fill(hosts.disk(index), sample_chunks)
        yield hosts


def fill(folder, chunks):
    shutil.copytree(chunks, folder / "data" / "chunks")
    (folder / "reports").mkdir()
    write_params(folder, profile=STEPS)


def launch(hosts, index, shared=None):
    """The command of docs/scaling.md on one host; what it prints goes to a file `log` on its disk."""
    words = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_machines", "2"]
    words += ["--num_processes", "2", "--machine_rank", str(index), "--main_process_ip", ADDRESSES[0]]
    words += ["--main_process_port", "29500", "-m", "pipeline.train"]
    told = {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(hosts.place), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    with (hosts.disk(index) / "log").open("a") as out:
        return hosts.start(index, *words, out=out, shared=shared, OMP_NUM_THREADS="1", **told)


def log(hosts, index):
    return (hosts.disk(index) / "log").read_text(encoding="utf-8")


def own_lines(text):
    """What the stage said, without the launcher's table."""
    return [line for line in text.splitlines() if line.startswith("train: ")]


def outputs(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def train_on_both(hosts, shared=None):
    started = [launch(hosts, index, shared) for index in range(2)]
    return [process.wait(900) for process in started]


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory, sample_chunks):
    """The same training in two processes of one machine."""
    folder = tmp_path_factory.mktemp("one") / "machine"
    folder.mkdir()
    fill(folder, sample_chunks)
    told = {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(folder), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    words = [sys.executable, "-m", "pipeline.train"]
    done = subprocess.run(words, cwd=folder, env=environment(**told), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_gradients_are_those_of_one_machine(hosts, make_model, sample_chunks, tmp_path):
    """In float64 within 1e-10, for every kind of memory, with DDP and FSDP."""
    models = [str(tmp_path / str(i)) for i in range(len(SETTINGS))]
    for folder, settings in zip(models, SETTINGS, strict=True):
        losses = {"memory_reconstruction_weight": 0.5, "memory_association_weight": 0.3}
        make_model(**settings, **losses).double().save_pretrained(folder)
    started = []
    for index in range(2):
        values = {"root": str(ROOT), "tests": str(ROOT / "tests" / "training"), "index": index, "models": models}
        code = GRADIENTS.format(**values, chunks=str(sample_chunks), address=ADDRESSES[0])
        with (hosts.disk(index) / "log").open("a") as out:
            started.append(hosts.start(index, sys.executable, "-c", code, out=out, OMP_NUM_THREADS="1"))
    assert [process.wait(900) for process in started] == [0, 0], log(hosts, 0) + log(hosts, 1)


def test_two_hosts_train_the_model_of_one_machine_and_write_it_once(hosts, on_one_machine):
    assert train_on_both(hosts) == [0, 0], log(hosts, 0) + log(hosts, 1)
    found, expected = (load_file(folder / OUTPUTS[0]) for folder in (hosts.disk(0), on_one_machine))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    assert outputs(hosts.disk(0)) == outputs(on_one_machine)
    assert not (hosts.disk(1) / "models").exists()
    assert not list((hosts.disk(1) / "reports").iterdir())
    assert not list((hosts.disk(0) / ".resume").iterdir())
    assert own_lines(log(hosts, 1)) == []


@pytest.mark.parametrize("lost", [0, 1])
def test_a_host_that_is_lost_ends_the_training_and_it_goes_on_with_the_same_bits(hosts, on_one_machine, tmp_path, lost):
    """With `.resume` on a shared disk. Where the first is lost, the other has nothing to go on from but that disk."""
    shared = tmp_path / "shared"
    shared.mkdir()
    started = [launch(hosts, index, shared) for index in range(2)]
    wait_until(lambda: list(shared.glob("*/step-00000004")))
    hosts.kill(started[lost])
    assert started[1 - lost].wait(600) != 0
    assert "another of its processes has ended; see what that one says" in log(hosts, 1 - lost)
    assert not (hosts.disk(0) / "models" / "gmm").exists()
    assert train_on_both(hosts, shared) == [0, 0], log(hosts, 0) + log(hosts, 1)
    assert "training goes on from" in log(hosts, 0)
    assert outputs(hosts.disk(0)) == outputs(on_one_machine)


def test_checkpoints_on_a_disk_of_one_host_are_refused_in_one_line_on_the_other(hosts):
    started = [launch(hosts, index) for index in range(2)]
    wait_until(lambda: list(hosts.disk(0).glob(".resume/*/step-00000004")))
    for process in started:
        hosts.kill(process)
    statuses = train_on_both(hosts)
    assert 0 not in statuses
    assert "is not there for process 1; keep checkpoints where every machine finds them" in log(hosts, 1)


def test_a_cable_that_is_pulled_for_seconds_changes_nothing(hosts, on_one_machine):
    started = [launch(hosts, index) for index in range(2)]
    wait_until(lambda: list(hosts.disk(0).glob(".resume/*/step-00000004")))
    hosts.pull_the_plug(1)
    time.sleep(5)
    assert [process.poll() for process in started] == [None, None]
    hosts.plug_in(1)
    assert [process.wait(900) for process in started] == [0, 0], log(hosts, 0)
    assert outputs(hosts.disk(0)) == outputs(on_one_machine)


@pytest.mark.parametrize("other", ["data/chunks", "params.yaml"])
def test_hosts_that_do_not_have_the_same_are_told_so(hosts, one_context_chunks, other):
    """One host has pulled another state of the data, or has changed a parameter."""
    if other == "data/chunks":
        shutil.rmtree(hosts.disk(1) / "data")
        shutil.copytree(one_context_chunks, hosts.disk(1) / "data" / "chunks")
    else:
        write_params(hosts.disk(1), profile=STEPS | {"learning_rate": 0.002})
    assert 0 not in train_on_both(hosts)
    for index in range(2):
        assert f"process 1 has another {other} than process 0" in log(hosts, index)
    assert not (hosts.disk(0) / "models" / "gmm").exists()

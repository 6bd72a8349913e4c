"""The reload is that of another process with another seed, and its negative control can fail."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.checkpoint import open_checkpoint
from gmmxlnet.verification import fingerprint, full, verify
from gmmxlnet.verification.fingerprint import Fingerprint

SEED = 41


@pytest.fixture
def started(monkeypatch):
    """The commands and environments of the processes that verification starts from now on."""
    calls, run = [], subprocess.run

    def recorded(command, **how):
        calls.append((command, how.get("env") or os.environ))
        return run(command, **how)

    monkeypatch.setattr(full.subprocess, "run", recorded)
    return calls


def test_a_control_without_a_change_is_not_detected_and_the_process_is_another(sample_checkpoint, started, monkeypatch):
    monkeypatch.setattr(full, "copy_with_a_changed_bit", lambda folder, target, _: shutil.copytree(folder, target))
    found = full.check_reload(sample_checkpoint, open_checkpoint(GMMXLNetForQA, sample_checkpoint), SEED)
    assert found["negative_control_detected"] is False
    assert found["bit_identical"] is True
    ((command, environment),) = started
    assert command[0] == sys.executable
    assert command[command.index("--seed") + 1] == environment["PYTHONHASHSEED"] == str(SEED + 1)
    assert found["tensor_sha256"] == Fingerprint.of(full.load(sample_checkpoint)).tensors


def test_that_process_takes_the_seed_it_is_given(sample_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fingerprint", "--seed", str(SEED + 1), str(sample_checkpoint)])
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        fingerprint.main()
        assert torch.initial_seed() == SEED + 1
    assert json.loads(capsys.readouterr().out)["tensors"]


def test_verification_fails_where_its_control_is_not_detected(sample_checkpoint, monkeypatch):
    found = {"bit_identical": True, "tensors": 1, "negative_control_detected": False}
    monkeypatch.setattr(full, "check_reload", lambda *_: found)
    report = verify(sample_checkpoint, "full")
    assert [check.name for check in report.failures] == ["control"]

"""Ctrl-C, SIGTERM, SIGHUP: one line, the status that a shell expects, outputs whole or absent; training goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_several_processes import PROFILE, process_of, workspace
from test_train import SMALL, write_params

from gmmxlnet.errors import Interrupted
from pipeline.stage import errors_on_one_line

NOBODY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # stages warn once and go on
ENDLESS = {"max_steps": 10_000, "save_steps": 1, "scratch_size": SMALL, "batch_size": 8}
SECONDS = 120


def start(folder, stage, **environment):
    log = (folder / "log").open("w")
    started = process_of(folder, stage, **NOBODY, **environment)
    return subprocess.Popen(**started, stdout=log, stderr=log, start_new_session=True)


def wait_for(condition, process):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def said(folder):
    lines = (folder / "log").read_text().splitlines()
    return [line for line in lines if not line.startswith("warning: MLflow")]


def checkpoints(folder):
    return sorted(folder.glob(".resume/*/step-*"))


@pytest.fixture
def endless(tmp_path, sample_chunks):
    folder = workspace(tmp_path / "work", sample_chunks, 1)
    write_params(folder, profile=PROFILE | ENDLESS)
    return folder


def to_the_group(process, signum):
    """As a terminal does on Ctrl-C."""
    os.killpg(process.pid, signum)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_training_says_step_and_checkpoint_and_goes_on_from_there(endless, signum):
    process = start(endless, "train", DVC_STAGE="train")
    wait_for(lambda: checkpoints(endless), process)
    to_the_group(process, signum)
    assert process.wait(SECONDS) == 128 + signum
    last = checkpoints(endless)[-1]
    step = int(last.name.removeprefix("step-"))
    name = "Ctrl-C" if signum == signal.SIGINT else signum.name
    (line,) = said(endless)
    shown = last.relative_to(endless)
    assert line == f"train: stopped by {name} after step {step:,} of 10,000; checkpoint {shown}; to go on: dvc repro"
    assert not (endless / "models/gmm").exists()
    process = start(endless, "train")
    wait_for(lambda: len(said(endless)) and int(checkpoints(endless)[-1].name.removeprefix("step-")) > step, process)
    assert said(endless)[0] == f"training goes on from {last}"
    to_the_group(process, signal.SIGTERM)
    process.wait(SECONDS)


@pytest.mark.slow
def test_a_last_checkpoint_is_written_where_none_was_due(endless):
    write_params(endless, profile=PROFILE | ENDLESS | {"save_steps": 9_999, "num_workers": 1})
    process = start(endless, "train")
    wait_for(lambda: list(endless.glob(".resume/*/lock")), process)
    time.sleep(2)
    to_the_group(process, signal.SIGINT)
    assert process.wait(SECONDS) == 130
    (last,) = checkpoints(endless)
    (line,) = said(endless)
    assert f"checkpoint {last.relative_to(endless)}; to go on: python -m pipeline.train" in line


@pytest.mark.slow
def test_several_processes_stop_together_with_one_line(endless):
    write_params(endless, profile=PROFILE | ENDLESS | {"num_processes": 2})
    process = start(endless, "train", DVC_STAGE="train")
    wait_for(lambda: checkpoints(endless), process)
    to_the_group(process, signal.SIGINT)
    assert process.wait(SECONDS) == 130
    (line,) = said(endless)
    assert line.startswith("train: stopped by Ctrl-C after step ")
    assert line.endswith(f"checkpoint {checkpoints(endless)[-1].relative_to(endless)}; to go on: dvc repro")


@pytest.mark.slow
def test_a_launcher_of_others_stops_them_together(endless):
    """torchrun, which `accelerate launch` calls for several processes, passes signals on; its own words are its own."""
    started = process_of(endless, "train", **NOBODY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "pipeline.train"]
    with (endless / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=endless, env=started["env"], stdout=log, stderr=log)
    wait_for(lambda: checkpoints(endless), process)
    process.send_signal(signal.SIGTERM)
    process.wait(SECONDS)
    lines = [line for line in said(endless) if line.startswith("train: ")]
    assert len(lines) == 1
    assert f"checkpoint {checkpoints(endless)[-1].relative_to(endless)}; to go on: " in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "seconds"), [("chunk", 0.5), ("evaluate", 0.5), ("evaluate", 3.0)])
def test_a_stage_that_is_starting_says_one_line(endless, stage, seconds):
    process = start(endless, stage)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    (line,) = said(endless)
    assert line.startswith(f"{stage}: stopped by Ctrl-C")
    assert not (endless / "models/gmm").exists()
    assert not [path for path in endless.rglob("*") if path.name.endswith(".partial")]


def test_a_command_with_arguments_is_told_with_them(monkeypatch, capsys):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["/of/python", "-m", "pipeline.reader", "--bert", "a folder", "--hours", "3"])
    with pytest.raises(SystemExit) as ended, errors_on_one_line("reader"):
        raise Interrupted(signal.SIGTERM)
    assert ended.value.code == 143
    told = "reader: stopped by SIGTERM; to go on: python -m pipeline.reader --bert 'a folder' --hours 3\n"
    assert capsys.readouterr().err == told

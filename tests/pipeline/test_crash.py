"""A stage that a signal kills is reported on one line, which names the signal and what to try."""

import signal
import subprocess

import psutil
import pytest
from test_interrupted import ENDLESS, SECONDS, checkpoints, endless, said, start, wait_for  # noqa: F401
from test_several_processes import PROFILE, process_of
from test_train import write_params

from pipeline import crash


def wait_for_line(folder):
    """The process beside writes it when the stage has gone."""
    wait_for(lambda: said(folder), psutil.Popen(["sleep", "20"]))
    (line,) = said(folder)
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "told"),
    [
        (signal.SIGKILL, "train: killed by SIGKILL; if nobody did, memory ran out: lower batch_size"),
        (signal.SIGSEGV, "train: crashed (Segmentation fault) in "),
    ],
)
def test_the_line_names_the_signal(endless, signum, told):  # noqa: F811
    process = start(endless, "train")
    wait_for(lambda: checkpoints(endless), process)
    process.send_signal(signum)
    assert process.wait(SECONDS) == -signum
    assert wait_for_line(endless).startswith(told)


@pytest.mark.slow
def test_the_launcher_says_which_of_its_processes_was_killed(endless):  # noqa: F811
    write_params(endless, profile=PROFILE | ENDLESS | {"num_processes": 2})
    process = start(endless, "train")
    wait_for(lambda: checkpoints(endless), process)
    workers = [one for one in psutil.Process(process.pid).children() if "LOCAL_RANK" in one.environ()]
    second = next(one for one in workers if one.environ()["LOCAL_RANK"] == "1")
    second.send_signal(signal.SIGKILL)
    assert process.wait(SECONDS) == 1
    assert wait_for_line(endless).startswith(
        "train: process 1 of 2 was killed by SIGKILL; if nobody did, memory ran out"
    )


@pytest.mark.slow
def test_a_stage_that_ends_in_order_says_nothing_more(endless):  # noqa: F811
    """An error is in order, too."""
    (endless / "data" / "chunks").unlink()
    process = start(endless, "train")
    assert process.wait(SECONDS) == 1
    assert wait_for_line(endless).startswith("train: data/chunks/manifest.json: cannot be read")


@pytest.mark.slow
def test_too_little_memory_to_load_torch_is_one_line(endless):  # noqa: F811
    """The loader of shared objects refuses, or a library aborts: which, differs from run to run."""
    command = process_of(endless, "train")
    shell = ["bash", "-c", 'ulimit -v 400000; exec "$@"', "bash", *command["args"]]
    done = subprocess.run(shell, cwd=command["cwd"], env=command["env"], capture_output=True, text=True)
    assert done.returncode in (1, -signal.SIGABRT)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert line.startswith(("train: out of memory (", "train: crashed (Aborted)"))
    assert "lower batch_size" in line
    assert "Traceback" not in done.stderr


def test_a_crash_is_described_by_what_faulthandler_wrote():
    told = "Fatal Python error: Bus error\n\nCurrent thread 0x1 (most recent call first):\n"
    frame = '  File "/x/lib/python3.11/site-packages/torch/nn/linear.py", line 12 in forward\n'
    described = crash.describe_crash(told + frame + frame.replace("12", "13"))
    assert described.startswith(
        "crashed (Bus error) in torch/nn/linear.py, line 12; run the same command again; if memory"
    )
    assert "\n" not in described

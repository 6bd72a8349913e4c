"""Waiting for another program by its progress: as long as it works, however slow the machine, and not by the clock."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")
IDLE_SECONDS = 60.0
POLL_SECONDS = 0.2
WORKING = {psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP}  # running includes waiting for a processor


def wait_while_it_works(ready: Callable[[], T], process: subprocess.Popen, idle: float = IDLE_SECONDS) -> T:
    """Return the first true result of `ready()`; fails once the program has done nothing for `idle` seconds.

    The program works while it, or a process that it started, gets processor time, wants some, or waits for a disk.
    """
    used, since = -1.0, time.monotonic()
    while True:
        ended = process.poll() is not None  # before asking, so that its last act is seen
        if result := ready():
            return result
        assert not ended, f"{process.args[0]} has ended with status {process.returncode}"
        now_used, works = _activity(process.pid)
        if works or now_used > used:
            used, since = max(used, now_used), time.monotonic()
        assert time.monotonic() - since < idle, f"{process.args[0]} has done nothing for {idle:g} seconds"
        time.sleep(POLL_SECONDS)


def _activity(pid: int) -> tuple[float, bool]:
    """Processor time that a process and those below it have used, in seconds, and whether one of them is at work."""
    used, works = 0.0, False
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            times = process.cpu_times()
            used += times.user + times.system
            works |= process.status() in WORKING
    except psutil.NoSuchProcess:
        pass  # one has ended since it was listed
    return used, works

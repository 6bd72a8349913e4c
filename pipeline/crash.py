"""What is set before a stage imports torch, so that what ends it during the imports or by a signal is one line.

A process that is killed (SIGKILL where memory ran out, SIGSEGV in a library) cannot report that itself: a small one,
forked before anything large is imported, waits for its end.
"""

import atexit
import faulthandler
import os
import re
import signal
import sys
from types import FrameType, TracebackType

from gmmxlnet.interrupts import SIGNALS, describe_exit, exit_status, install, name_of
from pipeline.stage import LESS_MEMORY, line_for

IN_ORDER = b"in order"  # what a process says at its end


def what_to_try(signum: int) -> str:
    """What helps against a signal that nobody sent on purpose."""
    if signum == signal.SIGKILL:
        return f"if nobody did, memory ran out: {LESS_MEMORY}"
    return f"run the same command again; if memory ran out, {LESS_MEMORY}; else report it with its data"


def prepare(program: str) -> None:
    """From now on, a signal that ends this process, or want of memory, leads to one line on standard error."""
    write = None
    if "LOCAL_RANK" not in os.environ:  # else its launcher reports
        write = _report_if_killed(program)

    def exit_now(signum: int, frame: FrameType | None) -> None:
        if write is not None:
            os.write(2, f"{program}: stopped by {name_of(signum)}\n".encode())
            os.write(write, IN_ORDER)
        os._exit(exit_status(signum))

    install(exit_now)

    otherwise = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        line = line_for(error)
        if line is None:
            otherwise(kind, error, trace)
        else:
            print(f"{program}: {line}", file=sys.stderr)

    sys.excepthook = tell


def _report_if_killed(program: str) -> int:
    """Start the process beside; returns the file descriptor on which it is told that this one ends in order."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(write)
        _report(program, read)
        os._exit(0)
    os.close(read)
    owner = os.getpid()
    faulthandler.enable(os.fdopen(os.dup(write), "wb", 0), all_threads=False)
    atexit.register(lambda: os.write(write, IN_ORDER) if os.getpid() == owner else None)
    return write


def _report(program: str, read: int) -> None:
    """In the process beside: wait until the other has gone."""
    os.setsid()  # signals to the group are not meant for this process
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)  # whoever reads what the stage prints need not wait for this process
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    if not told.endswith(IN_ORDER.decode()):
        os.write(2, f"{program}: {describe_crash(told)}\n".encode())


def describe_crash(told: str) -> str:
    """Describes what killed a process from what faulthandler wrote, which is nothing after SIGKILL."""
    if not told:
        return f"{describe_exit(-signal.SIGKILL)}; {what_to_try(signal.SIGKILL)}"
    reason = re.search(r"Fatal Python error: (.+)", told)
    place = re.search(r'File "(?:.*site-packages/)?(.+)", line (\d+) in', told)
    where = f" in {place[1]}, line {place[2]}" if place else ""
    return f"crashed ({reason[1] if reason else told.splitlines()[0]}){where}; {what_to_try(signal.SIGSEGV)}"

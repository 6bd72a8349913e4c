"""SIGINT (Ctrl-C), SIGTERM and SIGHUP: a program says so on one line and ends with the status that shells expect.

with raise_on_signals(): work()         # raises Interrupted wherever the program is
exit_on_signals("chunk")                # while modules are imported: says so and ends
with StopRequest() as stop:             # a loop that ends in order
    while not stop.requested: step()
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from gmmxlnet.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], Any]


def name_of(signum: int) -> str:
    """Returns what people call a signal: Ctrl-C for SIGINT, else its name."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def exit_status(signum: int) -> int:
    """Returns the exit status by which shells know that a signal ended a program: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signum


def describe_exit(status: int) -> str:
    """Describes how a child process ended; `status` is as `subprocess` gives it: negative if a signal killed it."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Lets the signals raise `Interrupted` within the block, but not those that are ignored (nohup)."""

    def raise_it(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    before = install(raise_it)
    try:
        yield
    finally:
        _restore(before)


class StopRequest:
    """Records the first signal within its block, so that a loop can end in order; the second one raises `Interrupted`.

    `signum` is the signal, or None. Outside of the main thread, where signals cannot be handled, and with
    `active=False` it stays None.
    """

    def __init__(self, active: bool = True) -> None:
        self.active = active
        self.signum: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None

    def __enter__(self) -> Self:
        if self.active:
            self._before = install(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that loads data: on Ctrl-C its parent still needs it
            if signum != signal.SIGINT:
                os._exit(exit_status(signum))
        elif self.requested:
            raise Interrupted(signum)
        else:
            self.signum = signum


def install(handler: Handler) -> dict[int, Any]:
    """Installs a handler for the signals that are not ignored; returns the previous handlers."""
    before: dict[int, Any] = {}
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            try:
                before[signum] = signal.signal(signum, handler)
            except ValueError:  # not in the main thread
                break
    return before


def _restore(before: dict[int, Any]) -> None:
    for signum, handler in before.items():
        signal.signal(signum, handler)

"""Waiting for servers, and ports for them."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], Answer], seconds: float = 900.0, pause: float = 0.2) -> Answer:
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < end, f"waited {seconds:.0f} seconds in vain"
        time.sleep(pause)
    return answer

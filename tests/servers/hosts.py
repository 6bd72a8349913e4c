"""Two hosts on this machine: network namespaces with a cable between them, and disks of their own at the same path.

with Hosts(folder) as hosts:
    hosts.disk(0)                           # what host 0 sees as hosts.place
    process = hosts.start(0, "python", "-m", "pipeline.train", LOCAL="…")
    hosts.pull_the_plug(1)                  # of the cable: nothing is answered any more, nobody is told
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import IO, Self

import psutil

ADDRESSES = ("10.18.0.1", "10.18.0.2")
CABLE = "cable"


def missing() -> str | None:
    """What is missing for it; None if two hosts can be had."""
    for program in ("ip", "unshare", "mount"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"{program} (iproute2, util-linux)"
    name = f"probe-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        return f"the right to make network namespaces ({done.stderr.strip()})"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


class Hosts:
    """Namespaces `gmmxlnet-<process>-0` and `-1`, each with loopback and one end of the cable."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "place"
        self.names = [f"gmmxlnet-{os.getpid()}-{index}" for index in range(2)]
        self._disks = [folder / f"disk-{index}" for index in range(2)]
        for one in (self.place, *self._disks):
            one.mkdir()
        self._started: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        first, second = self.names
        _ip("link", "add", CABLE, "netns", first, "type", "veth", "peer", "name", CABLE, "netns", second)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            _ip("-n", name, "link", "set", CABLE, "up")
        return self

    def __exit__(self, *error: object) -> None:
        for index in range(len(self._started)):
            self.kill(self._started[index])
        for name in self.names:
            _ip("netns", "delete", name)

    def disk(self, index: int) -> Path:
        """The folder that a host sees at `place`."""
        return self._disks[index]

    def start(
        self, index: int, *words: str, out: IO | int, shared: Path | None = None, **told: str
    ) -> subprocess.Popen:
        """Start a program in `place` on a host, with one folder of it on a `shared` disk if there is one."""
        steps = [f"mount --bind {self._disks[index]} {self.place}"]
        if shared is not None:
            (self._disks[index] / ".resume").mkdir(exist_ok=True)
            steps.append(f"mount --bind {shared} {self.place}/.resume")
        steps += [f"hostname host-{index}", f"cd {self.place}", 'exec "$@"']
        command = ["ip", "netns", "exec", self.names[index], "unshare", "--uts", "--mount"]
        command += ["sh", "-e", "-c", "\n".join(steps), "sh", *words]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": CABLE} | told
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)
        self._started.append(process)
        return process

    def kill(self, process: subprocess.Popen) -> None:
        """End a program and all that it started, at once."""
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
        process.wait()

    def pull_the_plug(self, index: int) -> None:
        """Cut the cable: what was sent is not answered."""
        _ip("-n", self.names[index], "link", "set", CABLE, "down")

    def plug_in(self, index: int) -> None:
        """Mend the cable."""
        _ip("-n", self.names[index], "link", "set", CABLE, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)

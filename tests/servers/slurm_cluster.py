"""A Slurm cluster on this machine: munged, one controller, two nodes of one processor each, for the user who starts it.

with Cluster(folder) as cluster:
    cluster.command("sinfo")
    cluster.kill_node("n1")         # with all that runs there, as a power cut would
    cluster.start_node("n1")
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import psutil
from waiting import free_ports, wait_until

from tests.small_repository import environment

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
SBIN = "/usr/sbin:/sbin"
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=30
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
KillWait=20
BatchStartTimeout=10
CompleteWait=0
SchedulerParameters=sched_interval=2,batch_sched_delay=0,requeue_delay=1
NodeName=n1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=n2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def program_missing() -> str | None:
    """The first of Slurm's programs that is not installed."""
    path = f"{os.environ['PATH']}:{SBIN}"
    return next((name for name in PROGRAMS if shutil.which(name, path=path) is None), None)


class Cluster:
    """munged, slurmctld and slurmd on n1 and n2, with all their files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, {}
        told = environment(SLURM_CONF=str(folder / "slurm.conf"))
        self.environment = told | {"PATH": f"{told['PATH']}:{SBIN}"}

    def __enter__(self) -> Self:
        user = psutil.Process().username()
        for name in ("munge", "state", *NODES):
            (self.folder / name).mkdir(mode=0o700)
        (self.folder / "munge" / "key").write_bytes(os.urandom(128))
        (self.folder / "munge" / "key").chmod(0o600)
        values = {"host": socket.gethostname(), "ports": free_ports(3), "user": user, "folder": self.folder}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values), encoding="utf-8")
        kinds = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge/{name}" for option, name in kinds.items()]
        self.start("munged", "munged", "--foreground", "--force", *options)
        wait_until(lambda: (self.folder / "munge" / "socket").exists())
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.command("sinfo", "--noheader", "--format=%T %D").split() == ["idle", "2"])
        return self

    def __exit__(self, *error: object) -> None:
        for name in reversed(list(self.running)):
            self.kill(name)

    def start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("a") as out:
            self.running[name] = subprocess.Popen(words, stdout=out, stderr=out, env=self.environment)

    def start_controller(self) -> None:
        self.start("slurmctld", "slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))

    def start_node(self, node: str) -> None:
        self.start(node, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def kill_node(self, node: str) -> None:
        """End the node and every process that its jobs started, at once."""
        marked = [p for p in psutil.process_iter() if _environment_of(p).get("SLURMD_NODENAME") == node]
        marked = [p for p in marked if _environment_of(p).get("SLURM_CONF") == self.environment["SLURM_CONF"]]
        steps = [p for p in psutil.process_iter(["name", "cmdline"]) if p.info["name"] == "slurmstepd"]
        self.kill(node)
        for process in [*steps, *marked]:
            if process in marked or _is_below(process, marked):
                process.kill()

    def kill(self, name: str) -> None:
        """End a server and the children it has."""
        process = self.running.pop(name)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in [process, *children]:
            one.kill()
        process.wait()

    def command(self, *words: str, **more: str) -> str:
        """What one of Slurm's commands prints; an empty text where it fails."""
        done = subprocess.run(words, env=self.environment | more, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""


def _environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _is_below(step: psutil.Process, jobs: list[psutil.Process]) -> bool:
    """Whether a job's supervisor has one of these processes below it."""
    try:
        return bool({one.pid for one in step.children(recursive=True)} & {one.pid for one in jobs})
    except psutil.Error:
        return False

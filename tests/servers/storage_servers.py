"""Servers that a DVC remote can lie on, on this machine: S3 (rclone's server) and SSH (OpenSSH's sshd).

with S3Server(folder) as server:
    server.add_remote(clone)        # as docs/scaling.md says
    server.objects                  # the folder where the server keeps what was pushed
    server.stop(); server.start()
"""

import getpass
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from waiting import answers, free_ports, wait_until

from tests.small_repository import environment, must

KEY, SECRET = "tests-key", "tests-secret-of-32-characters-00"
SBIN = "/usr/sbin:/sbin"
SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile none
Subsystem sftp internal-sftp
"""


class Server:
    """A server process on a port of its own, and how DVC is told of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.objects = folder, folder / "store" / "bucket"
        self.objects.mkdir(parents=True)
        (self.port,) = free_ports(1)
        self.environment: dict[str, str] = {}
        self.prepare()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=environment())
        wait_until(lambda: answers(self.port), 60)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def add_remote(self, clone: Path) -> None:
        """Make it the clone's default remote, with verification."""
        must(clone, "dvc", "remote", "add", "--quiet", "--local", "--default", "--force", "storage", self.url)
        for name, value in {"verify": "true", **self.options}.items():
            must(clone, "dvc", "remote", "modify", "--local", "storage", name, value)

    def prepare(self) -> None: ...


class S3Server(Server):
    """`rclone serve s3` on a folder, with one pair of keys."""

    url = "s3://bucket/gmm-xlnet"

    @staticmethod
    def missing() -> str | None:
        rclone = shutil.which("rclone", path=environment()["PATH"])
        known = rclone and subprocess.run([rclone, "serve", "s3", "--help"], capture_output=True).returncode == 0
        return None if known else "an rclone that serves S3 (1.65 or newer)"

    def prepare(self) -> None:
        self.options = {"endpointurl": f"http://127.0.0.1:{self.port}"}
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def command(self) -> list[str]:
        options = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}", "--config", os.devnull]
        return ["rclone", "serve", "s3", *options, str(self.objects.parent)]

    def spoil_credentials(self, clone: Path) -> dict[str, str]:
        """What makes the clone's credentials wrong: changes of the environment."""
        return {"AWS_SECRET_ACCESS_KEY": "another-secret-of-32-characters-0"}


class SSHServer(Server):
    """`sshd` for the user who runs the tests, with one key."""

    @staticmethod
    def missing() -> str | None:
        there = shutil.which("sshd", path=f"{os.environ['PATH']}:{SBIN}") and shutil.which("ssh-keygen")
        return None if there else "sshd (openssh-server)"

    def prepare(self) -> None:
        for name in ("host", "user", "stranger"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(words, check=True)
        (self.folder / "config").write_text(SSHD.format(port=self.port, folder=self.folder), encoding="utf-8")
        self.url = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.objects}"
        self.options = {"keyfile": str(self.folder / "user"), "allow_agent": "false"}
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd confines itself; a service would make it

    def command(self) -> list[str]:
        return [shutil.which("sshd", path=SBIN) or "sshd", "-D", "-e", "-f", str(self.folder / "config")]

    def spoil_credentials(self, clone: Path) -> dict[str, str]:
        """What makes the clone's credentials wrong: the key of somebody else."""
        must(clone, "dvc", "remote", "modify", "--local", "storage", "keyfile", str(self.folder / "stranger"))
        return {}

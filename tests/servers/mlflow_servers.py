"""PostgreSQL, and an MLflow server between it and a bucket (`storage_servers.S3Server`), on ports of their own.

All listen on loopback only. `start` waits until a server accepts connections; `stop` kills it, as a crash would.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from storage_servers import S3Server
from waiting import answers, free_ports, wait_until

PASSWORD = "postgres-secret-word"


def what_is_missing():
    """The reason to skip, or None."""
    if postgres_folder() is None:
        return "postgresql is not installed (make scale-test)"
    modules = [name for name in ("psycopg", "boto3") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(modules)} are not installed (make scale-test)" if modules else S3Server.missing()


def postgres_folder():
    """Debian keeps the server's programs off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Postgres:
    """A cluster whose only way in is a password; refuses to run as root, so it runs as Debian's user there."""

    def __init__(self, folder):
        self.folder, self.user = folder, "postgres" if os.getuid() == 0 else None
        (self.port,) = free_ports(1)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if self.user:
            shutil.chown(folder, self.user)
            shutil.chown(secret, self.user)
        words = [postgres_folder() / "initdb", "-D", folder / "data", "-U", "mlflow", "--auth", "scram-sha-256", "-N"]
        words += [f"--pwfile={secret}"]
        subprocess.run([*map(str, words)], check=True, stdout=subprocess.DEVNULL, cwd=folder, user=self.user)

    def start(self):
        words = [postgres_folder() / "postgres", "-D", self.folder / "data", "-p", self.port, "-k", self.folder]
        words += ["-h", "127.0.0.1", "-F"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*map(str, words)], stdout=log, stderr=log, cwd=self.folder, user=self.user)
        wait_until(self._is_ready)

    def _is_ready(self):
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.uri("postgres")).close()
            return True

    def stop(self):
        """At once, as a crash; what was committed is in the write-ahead log."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def uri(self, database, user="mlflow", password=PASSWORD):
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements):
        import psycopg

        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


class MLflowServer:
    """The server as docs/scaling.md starts it, on loopback and with one worker."""

    def __init__(self, folder, database, storage):
        (self.port,) = free_ports(1)
        self.folder = folder
        self.words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "1"]
        self.words += ["--host", "127.0.0.1", "--port", self.port, "--artifacts-destination"]
        self.environment = storage.environment | {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{storage.port}",
            "AWS_MAX_ATTEMPTS": "1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SQLALCHEMYSTORE_POOL_PRE_PING": "true",
        }

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self, bucket="bucket", **told):
        words, environment = [*map(str, self.words), f"s3://{bucket}/runs"], os.environ | self.environment | told
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        wait_until(lambda: answers(self.port))

    def stop(self):
        """With its workers, of which one may still accept a connection when the first process is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not answers(self.port))

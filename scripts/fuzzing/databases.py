"""Damaged MLflow databases: a stage logs what it can, says in one line what it cannot, and goes on."""

import contextlib
import io
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random

from gmmxlnet.errors import GMMXLNetError
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params
from pipeline.tracking import start_run
from scripts.fuzzing.damage import damage_bytes_of

ROOT = Path(__file__).resolve().parents[2]


class DatabaseCases:
    """Cases by seed and number."""

    name = "databases"

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.original = scratch, scratch / "original.db"
        parameters = canonical_parameters(load_params(ROOT / "params.yaml"))
        self.experiment = Experiment(parameters=parameters, data="ab" * 32)
        self._log(self.original)

    def _log(self, database: Path) -> None:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}?timeout=1"
        with start_run(self.experiment, "key") as run:
            run.log_metrics({"train/loss": 1.0}, step=1)
            run.set_tags({"note": "x"})

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        folder = self.scratch / "store"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        database = folder / f"{number}.db"  # MLflow keeps a connection for each address
        shutil.copyfile(self.original, database)
        how = rng.choice(("bytes", "bytes", "rows", "tables", "moved files"))
        if how == "bytes":
            damage_bytes_of(rng, database)
        elif how == "moved files":
            database.unlink()
            choice = rng.randrange(3)
            if choice == 0:
                database.mkdir()
            elif choice == 1:
                database.symlink_to(database.name)
            else:
                database.write_bytes(rng.choice((b"", b"SQLite format 3\0", rng.randbytes(5000))))
        else:
            self._change(rng, database, how)
        return how, lambda: self._read(database)

    def _change(self, rng: Random, database: Path, how: str) -> None:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            table = rng.choice(sorted(tables))
            if how == "tables":
                connection.execute(f'DROP TABLE "{table}"')
            else:
                columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
                odd = rng.choice((None, "", "x", -1, 10**15, 1e308, b"\xff\xfe", "\x1b[2J", "x" * 9000))
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(f'UPDATE "{table}" SET "{rng.choice(columns)}" = ?', (odd,))
            connection.commit()

    def _read(self, database: Path) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            self._log(database)
        lines = [line for line in said.getvalue().splitlines() if "MLflow failed" in line]
        assert len(lines) <= 1, "it is said twice"
        assert all(line.isprintable() for line in lines)
        if lines:
            raise GMMXLNetError(lines[0])  # counted as refused

"""Whether MLflow's store can be used, in seconds: MLflow itself tries an unusable database for 100 seconds.

One attempt for each kind of store; what is wrong comes as the exception that it met.
"""

import socket
import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow.store.db.db_types import DATABASE_ENGINES, SQLITE
from mlflow.store.db.utils import create_sqlalchemy_engine

from pipeline.folder_lock import folder_lock

CONNECT_SECONDS = 3.0
LOCKED_SECONDS = 5.0  # another program's transaction on a sqlite file
OPENING_SECONDS = 120.0  # for another stage, which opens the same file or makes its tables
PORTS = {"http": 80, "https": 443}


def check_store(uri: str) -> None:
    """Raises what keeps a store from being used; opens nothing that stays open."""
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]  # of postgresql+psycopg2
    if parts.hostname and (port := parts.port or PORTS.get(kind)):
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    if kind == SQLITE:
        check_sqlite(sqlite_file(uri))
    elif kind in DATABASE_ENGINES:
        engine = create_sqlalchemy_engine(uri)
        try:
            sqlalchemy.inspect(engine)
        finally:
            engine.dispose()


def sqlite_file(uri: str) -> Path:
    """The file that a sqlite URI names."""
    return Path(uri.partition(":///")[2].partition("?")[0]).absolute()


def check_sqlite(database: Path) -> None:
    """Raises sqlite3.Error if a file is no database, cannot be written or is locked; makes an absent one, empty."""
    try:
        with closing(sqlite3.connect(database, timeout=LOCKED_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.rollback()
    except sqlite3.Error as error:
        raise type(error)(f"{database}: {error}") from None


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock on a store's folder; TimeoutError if others keep it."""
    refusal = TimeoutError(f"{folder}: another process opens the store there and does not end")
    return folder_lock(folder, OPENING_SECONDS, refusal)

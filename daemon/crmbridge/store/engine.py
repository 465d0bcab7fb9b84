"""Opens a database: SQLite in a file that only its owner may read, or MySQL/MariaDB.

SQLite runs in WAL mode, so that `crmbridge outbox list` and the daemon don't wait for each other, and with
synchronous=FULL: what is committed has reached the disk, and a host that loses power loses no callback. It must not
know any tables; those come as `Schema`s.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from crmbridge.store.schema import Schema, StoreError, migrate

BUSY_TIMEOUT_MS = 5000
"""How long one writer waits for another: the daemon for `crmbridge outbox retry`, or the other way round."""

READING = "crmbridge_reading"
"""Execution option: this transaction only reads, and needn't wait for a writer."""

_WORDS = {
    sqlite3.SQLITE_NOTADB: "is no SQLite database (or an encrypted or damaged one): move it away, a new one is made",
    sqlite3.SQLITE_CORRUPT: "is damaged: move it away, with the -wal and -shm files beside it, and a new one is made",
    sqlite3.SQLITE_FULL: "cannot be written, the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "cannot be written: check its owner and that the disk is not mounted read-only",
    sqlite3.SQLITE_PERM: "cannot be opened: check its owner and mode",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check the owner and mode of it and of its folder",
    sqlite3.SQLITE_IOERR: "cannot be read or written, the disk fails: see the kernel's log (dmesg)",
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_NOMEM: "cannot be used, memory is short",
    sqlite3.SQLITE_PROTOCOL: "cannot be locked: it must lie on a local disk, not on a network share",
}


def sqlite_url(path: Path) -> URL:
    """The address of a SQLite file."""
    return URL.create("sqlite+aiosqlite", database=str(path))


async def open_database(url: str | URL, schemas: Sequence[Schema], connections: int = 5) -> AsyncEngine:
    """Open a database and bring its tables up to date. The caller disposes of the engine.

    A missing SQLite file is made, and its folder. Raises StoreError, with what to do about it.
    """
    address = _parsed(url)
    sqlite = address.get_backend_name() == "sqlite"
    if sqlite:
        if address.database in {None, "", ":memory:"}:
            raise StoreError("store.url names no file: write sqlite+aiosqlite:////var/lib/crmbridge/calls.db")
        _make_file(Path(str(address.database)))
    options = {"pool_size": connections, "max_overflow": 0}
    if not sqlite:
        # An idle connection may have been cut by the server (wait_timeout) or by a firewall.
        options |= {"pool_pre_ping": True, "pool_recycle": 1800}
    engine = create_async_engine(address, **options)
    if sqlite:
        _prepare_sqlite(engine)
    try:
        await apply(engine, schemas)
    except BaseException:
        await engine.dispose()
        raise
    return engine


async def apply(engine: AsyncEngine, schemas: Sequence[Schema]) -> None:
    """Bring an open database's tables up to date. Raises StoreError."""
    where = _shown(engine.url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate, schemas, datetime.now(UTC))
    except StoreError as error:
        raise StoreError(f"{where} {error}") from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StoreError(f"{where} {explain(error)}") from error


def reading(engine: AsyncEngine) -> AsyncEngine:
    """The same database, for transactions that only read."""
    return engine.execution_options(**{READING: True})


def reading_apart(engine: AsyncEngine) -> AsyncEngine:
    """The same SQLite file, for transactions that only read, each with a connection of its own.

    Nothing is kept open between them, so there is nothing to dispose of, and `engine` may be disposed of meanwhile: a
    connection that is in use when its pool is disposed of would never be closed.
    """
    apart = create_async_engine(engine.url, poolclass=NullPool)
    _prepare_sqlite(apart)
    return reading(apart)


def disk_trouble(error: BaseException) -> bool:
    """Whether the disk, or another program, stands in the way, so that the same write may succeed later."""
    return _code(error) in _WORDS


def explain(error: BaseException) -> str:
    """What a database error means and what to do, to be read after the database's name."""
    if words := _WORDS.get(_code(error)):
        return words
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return f"cannot be used: {original}"


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 when it is none of SQLite's."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF


def _parsed(url: str | URL) -> URL:
    try:
        address = make_url(url)
    except ArgumentError:
        raise StoreError(
            "store.url is no database address: write sqlite+aiosqlite:////FILE or mysql+asyncmy://USER:PASSWORD@HOST/NAME"
        ) from None
    if address.drivername not in {"sqlite+aiosqlite", "mysql+asyncmy"}:
        raise StoreError(f"store.url begins with {address.drivername}: use sqlite+aiosqlite or mysql+asyncmy")
    return address


def _shown(address: URL) -> str:
    return address.database or "" if address.get_backend_name() == "sqlite" else address.render_as_string()


def _make_file(path: Path) -> None:
    """Callers' numbers are nobody else's business: 0700 and 0600 for what is made here. -wal and -shm take after it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}): "
            "check that its folder exists and belongs to the user that crmbridge runs as (store.state_dir, store.url)"
        ) from error


def _prepare_sqlite(engine: AsyncEngine) -> None:
    event.listen(engine.sync_engine, "connect", _on_connect)
    event.listen(engine.sync_engine, "begin", _on_begin)


def _on_connect(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    del entry
    cursor = connection.cursor()
    try:
        for pragma in (
            f"busy_timeout = {BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
    except BaseException:
        cursor.close()
        connection.close()
        raise
    cursor.close()


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes then fails at once when another wrote between: take the lock first.
    reads = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

"""Opens a database: SQLite in a file that only its owner may read, or MySQL/MariaDB.

SQLite runs in WAL mode, so that `crmbridge outbox list` and the daemon don't wait for each other, and with
synchronous=FULL: what is committed has reached the disk, and a host that loses power loses no callback. It must not
know any tables; those come as `Schema`s.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from crmbridge.store import mysql
from crmbridge.store.async_engine import AsyncEngine
from crmbridge.store.file_engine import FileEngine
from crmbridge.store.migration import VERSIONS, migrate
from crmbridge.store.schema import Schema, StoreError, lacking
from crmbridge.store.servers import Servers
from crmbridge.store.servers import address as servers_address

log = structlog.get_logger("crmbridge.store")

BUSY_TIMEOUT_MS = 5000
"""How long one writer waits for another: the daemon for `crmbridge outbox retry`, or the other way round."""

WAL_MB = 8
"""What the write-ahead log is cut back to once it has grown beyond that and is written back; SQLite aims at 4."""

READING = "crmbridge_reading"
"""Execution option: this transaction only reads, and needn't wait for a writer."""

_WORDS = {
    sqlite3.SQLITE_NOTADB: "is no SQLite database, or a damaged one: the daemon sets it aside and begins anew",
    sqlite3.SQLITE_CORRUPT: "is damaged: the daemon sets it aside and begins anew",
    sqlite3.SQLITE_FULL: "cannot be written, the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "cannot be written: check its owner and that the disk is not mounted read-only",
    sqlite3.SQLITE_PERM: "cannot be opened: check its owner and mode",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check the owner and mode of it and of its folder",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is full (see df) or fails (see dmesg)",
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_NOMEM: "cannot be used, memory is short",
    sqlite3.SQLITE_PROTOCOL: "cannot be locked: it must lie on a local disk, not on a network share",
}

NEW = ".new"
"""What the name of a file ends with that will take the place of a damaged one."""

E = TypeVar("E", Engine, AsyncEngine)

_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_DISK_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_DAMAGE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


class DamagedError(StoreError):
    """The file's content can't be read, or is not ours; the disk itself may be well."""


class DiskError(StoreError):
    """The disk is full, read-only or fails: the same will work when it is well again."""


Recover = Callable[[Engine, Sequence[Schema], DamagedError], None]
"""Puts a usable file in the place of a damaged one, or raises StoreError."""


def sqlite_url(path: Path) -> URL:
    """The address of a SQLite file, as settings have it; the driver's name in it is kept from when it was used."""
    return URL.create("sqlite+aiosqlite", database=str(path))


def make_engine(
    url: str | URL, connections: int = 5, *, only_reads: bool = False, servers: Servers | None = None
) -> AsyncEngine | FileEngine:
    """An engine for this address; nothing is opened yet. Raises StoreError where the address is none.

    `only_reads`: nothing is written by it; in a SQLite file it may be all the same (see `reading`). `servers`: of a
    server's database, where several engines are to go to the same.
    """
    address = parsed(url)
    if address.get_backend_name() != "sqlite":
        return mysql.make_engine(address, connections, only_reads=only_reads, servers=servers)
    if address.database in {None, "", ":memory:"}:
        raise StoreError("store.url names no file: write sqlite+aiosqlite:////var/lib/crmbridge/calls.db")
    file = _sqlite_engine(Path(shown(address)), connections)
    return FileEngine(file, reading(file), connections)


async def bring_up_async(
    engine: AsyncEngine | FileEngine, schemas: Sequence[Schema], recover: Recover | None, *, look_through: bool = False
) -> None:
    """Bring a database's tables up to date. Raises StoreError, with what to do about it.

    A missing SQLite file is made, and its folder. `recover` is asked when a SQLite file is found to be damaged; it is
    read through for that only where it says so, as it may be large.
    """
    if isinstance(engine, FileEngine):
        await asyncio.to_thread(bring_up, engine.sync_engine, schemas, recover, look_through=look_through)
        return
    with _named(shown(engine.url)):
        async with engine.begin() as connection:
            await connection.run_sync(migrate, schemas, datetime.now(UTC))


def open_sqlite(
    path: Path, schemas: Sequence[Schema], recover: Recover | None = None, *, look_through: bool = False
) -> Engine:
    """The same for a SQLite file, to be used from threads: a statement takes a fifth of the time. Blocks.

    `look_through`: read all of it, for damage that would show only later.
    """
    engine = _sqlite_engine(path)
    try:
        bring_up(engine, schemas, recover, look_through=look_through)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_or_later(
    path: Path, schemas: Sequence[Schema], recover: Recover | None, *, look_through: bool = False, later: bool = True
) -> tuple[Engine, DiskError | None]:
    """The same; where the disk refuses, an engine to `bring_up` later, and why. Not `later`: raises DiskError, too."""
    try:
        return open_sqlite(path, schemas, recover, look_through=look_through), None
    except DiskError as error:
        if not later:
            raise
        return _sqlite_engine(path), error


def _sqlite_engine(path: Path, connections: int = 1) -> Engine:
    address = sqlite_url(path).set(drivername="sqlite")
    # hide_parameters, here and elsewhere: an error that quotes its values would write callers' numbers into the log
    engine = create_engine(address, pool_size=connections, max_overflow=0, hide_parameters=True)
    _prepare_sqlite(engine)
    return engine


def bring_up(engine: Engine, schemas: Sequence[Schema], recover: Recover | None, *, look_through: bool) -> None:
    """Bring a SQLite file's tables up to date; where it is damaged, recover. Raises StoreError, of it DamagedError."""
    make_file(Path(shown(engine.url)))
    try:
        _refuse_what_is_not_ours(engine)
        apply(engine, schemas)
        if look_through:
            check(engine, schemas)
    except DamagedError as error:
        if recover is None:
            raise
        recover(engine, schemas, error)


def apply(engine: Engine, schemas: Sequence[Schema]) -> None:
    """Bring a SQLite file's tables up to date. Raises StoreError, of it DamagedError."""
    with _named(shown(engine.url)), engine.begin() as connection:
        migrate(connection, schemas, datetime.now(UTC))


def check(engine: Engine, schemas: Sequence[Schema]) -> None:
    """Read a SQLite file through. Raises DamagedError where something in it is not as it must be, and StoreError.

    What indexes hold is not compared with their tables: that would take several times as long.
    """
    where = shown(engine.url)
    with _named(where), reading(engine).connect() as connection:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        missing = lacking(connection, schemas)
    if found != "ok":
        raise DamagedError(f"{where} is damaged ({' '.join(str(found).split())})")
    if missing:
        raise DamagedError(f"{where} is damaged or not crmbridge's (it has no {', '.join(missing)})")


def driver(connection: Connection) -> sqlite3.Connection:
    """What a connection to a SQLite file works with, for statements that must cost little: SQLAlchemy's own work on one
    is two thirds of SQLite's. What is begun there by hand, SQLAlchemy's statements on this connection take part in.
    """
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)  # noqa: S101  # no other kind is opened here
    return raw


def reading(engine: E) -> E:
    """The same database, for transactions that only read."""
    apart: E = engine.execution_options(**{READING: True})
    return apart


def reading_apart(engine: Engine) -> Engine:
    """The same SQLite file, for transactions that only read, each with a connection of its own.

    Nothing is kept open between them, so there is nothing to dispose of, and `engine` may be disposed of meanwhile.
    """
    apart = create_engine(engine.url, poolclass=NullPool, hide_parameters=True)
    _prepare_sqlite(apart)
    return reading(apart)


def _refuse_what_is_not_ours(engine: Engine) -> None:
    """Before anything is written into it."""
    path = Path(shown(engine.url))
    wal = path.with_name(f"{path.name}-wal")
    if path.exists() and not path.stat().st_size and wal.exists() and wal.stat().st_size:
        # SQLite deletes the write-ahead log of a file that is empty, and with it what is not anywhere else.
        raise DamagedError(f"{path} is empty, but its write-ahead log is not")
    with _named(str(path)), reading(engine).connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    if tables and VERSIONS not in tables:
        raise DamagedError(f"{path} is another program's database (it has {', '.join(tables[:3])})")


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Make StoreErrors, with the database's name, of what can go wrong."""
    try:
        yield
    except DamagedError:
        raise
    except StoreError as error:
        raise type(error)(f"{where} {error}") from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        kind = DamagedError if damage(error) else DiskError if _code(error) in _DISK else StoreError
        raise kind(f"{where} {explain(error)}") from error


def damage(error: BaseException) -> bool:
    """Whether the file's content is to blame, so that only another file can help."""
    return isinstance(error, DamagedError) or _code(error) in _DAMAGE


def disk_trouble(error: BaseException) -> bool:
    """Whether the disk, or another program, stands in the way, so that the same write may succeed later."""
    return _code(error) in _WORDS


def explain(error: BaseException) -> str:
    """What a database error means and what to do, to be read after the database's name."""
    if words := _WORDS.get(_code(error)) or mysql.explain(error):
        return words
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return f"cannot be used: {original}"


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 when it is none of SQLite's."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF


def parsed(url: str | URL) -> URL:
    """The address of a database. Raises StoreError where it is none that we know."""
    try:
        address = servers_address(url)
    except ArgumentError:
        raise StoreError(
            "store.url is no database address: write sqlite+aiosqlite:////FILE, "
            "mysql+asyncmy://USER:PASSWORD@HOST/NAME or, for a cluster, …@HOST1:PORT,HOST2:PORT/NAME"
        ) from None
    if address.drivername not in {"sqlite+aiosqlite", "mysql+asyncmy"}:
        raise StoreError(f"store.url begins with {address.drivername}: use sqlite+aiosqlite or mysql+asyncmy")
    return address


def shown(address: URL) -> str:
    """A file's path, or user, host and name of a server's database: without the password."""
    return address.database or "" if address.get_backend_name() == "sqlite" else mysql.shown(address)


def make_file(path: Path) -> None:
    """Callers' numbers are nobody else's business: 0700 and 0600 for what is made here. -wal and -shm take after it.

    Raises StoreError.
    """
    new = path.with_name(path.name + NEW)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if new.exists() and not path.exists():
            new.rename(path)  # killed before it could be put in the place of a damaged one
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in _DISK_ERRNO:
            raise DiskError(f"{path} cannot be written ({error.strerror})") from error
        raise StoreError(
            f"{path} cannot be written ({error.strerror}): "
            "check that its folder exists and belongs to the user that crmbridge runs as (store.state_dir, store.url)"
        ) from error


def _prepare_sqlite(engine: Engine) -> None:
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)


def _on_connect(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    del entry
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA page_count")
        if cursor.fetchall() == [(0,)]:
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect only before the first page is written
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"journal_size_limit = {WAL_MB * 1024 * 1024}",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
    except BaseException:
        cursor.close()
        connection.close()
        raise
    cursor.close()


def _on_begin(connection: Connection) -> None:
    if driver(connection).in_transaction:
        return  # begun by hand
    # A transaction that reads first and writes then fails at once when another wrote between: take the lock first.
    reads = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

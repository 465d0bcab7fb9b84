"""What can befall a database, done to a real MariaDB for as long as a context lasts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncmy
from tests.asterisk.lab.mariadb import Server

DURABLE = "SET GLOBAL innodb_flush_log_at_trx_commit = 1"

Fault = Callable[[Server], AbstractAsyncContextManager[None]]


async def _begin(where: Server) -> None:
    """Start it, with what it has committed on its disk, as any server has but those of other tests."""
    await asyncio.to_thread(where.start)
    await asyncio.to_thread(where.database.run, DURABLE)


@asynccontextmanager
async def _killed(where: Server) -> AsyncIterator[None]:
    await asyncio.to_thread(where.kill)
    yield
    await _begin(where)


@asynccontextmanager
async def _restarted(where: Server) -> AsyncIterator[None]:
    await asyncio.to_thread(where.stop)
    await _begin(where)
    yield


@asynccontextmanager
async def _frozen(where: Server) -> AsyncIterator[None]:
    where.signal(signal.SIGSTOP)
    yield
    where.signal(signal.SIGCONT)


@asynccontextmanager
async def _read_only(where: Server) -> AsyncIterator[None]:
    await asyncio.to_thread(where.database.run, "SET GLOBAL read_only = 1")
    yield
    await asyncio.to_thread(where.database.run, "SET GLOBAL read_only = 0")


@asynccontextmanager
async def _locked(where: Server) -> AsyncIterator[None]:
    """As a backup does it: whoever writes waits."""
    async with as_root(where) as connection, connection.cursor() as cursor:
        await cursor.execute("FLUSH TABLES WITH READ LOCK")
        yield
        await cursor.execute("UNLOCK TABLES")


@asynccontextmanager
async def _full(where: Server) -> AsyncIterator[None]:
    """All connections are somebody else's; those that there were are cut."""
    sql = "SELECT GROUP_CONCAT(CONCAT('KILL ', id) SEPARATOR ';') FROM information_schema.PROCESSLIST WHERE user IN "
    kills = await asyncio.to_thread(where.database.run, f"SET GLOBAL max_connections = 10; {sql}('reader', 'writer')")
    statements = kills.splitlines()[-1]
    async with contextlib.AsyncExitStack() as stack:
        if statements != "NULL":
            with contextlib.suppress(subprocess.SubprocessError):  # one may have ended by itself
                await asyncio.to_thread(where.database.run, statements)
        for _ in range(10):
            with contextlib.suppress(Exception):  # ours came back faster: then it has one of them, and is killed below
                await stack.enter_async_context(as_root(where))
        yield
    await asyncio.to_thread(where.database.run, "SET GLOBAL max_connections = 151")


@asynccontextmanager
async def as_root(where: Server) -> AsyncIterator[Any]:
    connection = await asyncmy.connect(unix_socket=str(where.database.socket), user="root", autocommit=True)
    try:
        yield connection
    finally:
        connection.close()


FAULTS: dict[str, Fault] = {
    "killed, and away": _killed,
    "restarted": _restarted,
    "frozen": _frozen,
    "read-only": _read_only,
    "locked, as a backup locks it": _locked,
    "without a connection left": _full,
}

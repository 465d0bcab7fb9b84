"""A database in use: brought up when it can be, asked again where that helps, cut off where it hangs, and explained.

One unit of work is one transaction, and may be run several times: what it does must be the same when done twice, since
a connection can break after the commit and before we hear of it. It must not know any tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import count
from random import random
from typing import TypeVar

import structlog
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from crmbridge.store import mysql
from crmbridge.store.async_engine import AsyncEngine
from crmbridge.store.engine import (
    BUSY_TIMEOUT_MS,
    DiskError,
    Recover,
    bring_up_async,
    damage,
    explain,
    make_engine,
    parsed,
    reading,
    shown,
)
from crmbridge.store.file_engine import FileEngine, Work
from crmbridge.store.schema import MigratingError, Schema, StoreError
from crmbridge.store.servers import Servers, listed

log = structlog.get_logger("crmbridge.store")

LIMIT_S = 5.0
"""Seconds until a database that says nothing counts as hanging."""
START_LIMIT_S = 2.0
"""The same while the daemon starts: popups wait for that."""

_PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.32)
"""Before a transaction that lost against another is tried anew, the last of them as often as there is time; less by
chance, so that the two don't meet again."""

T = TypeVar("T")
AnyEngine = AsyncEngine | FileEngine


class Database:
    """A database, and what tables it must have. Use `opened`."""

    def __init__(
        self,
        engine: AnyEngine,
        schemas: Sequence[Schema],
        recover: Recover | None,
        readers: AnyEngine | None = None,
        servers: Servers | None = None,
    ) -> None:
        """`readers`: an engine of its own for what only reads. `servers`: those of a server's database."""
        self._servers = servers
        self._engine = engine
        readers = engine if readers is None else readers
        self._reading = readers if isinstance(readers, FileEngine) else reading(readers)
        self._schemas = schemas
        self._recover = recover
        self._up = False
        self._damaged = False
        self._bringing_up = asyncio.Lock()
        self._writing = asyncio.Lock()  # writers that wait for one another must not hold all connections
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.name = shown(engine.url)
        """For messages."""

    async def close(self) -> None:
        """Close its connections."""
        await self._engine.dispose()
        await self._reading.dispose()

    async def bring_up(self, limit_s: float = LIMIT_S) -> None:
        """See that its tables are there and up to date. Raises StoreError, of it DamagedError and DiskError."""
        async with self._bringing_up:
            if self._up:
                return
            waits: list[MigratingError] = []
            try:
                # An upgrade of a file may take its time; a server of which nothing is heard must not.
                async with asyncio.timeout(None if self.is_sqlite else limit_s):
                    await self._bring_up(waits)
            except TimeoutError:
                raise StoreError(str(waits[-1]) if waits else self._hangs(limit_s)) from None
            self._up = True

    async def _bring_up(self, waits: list[MigratingError]) -> None:
        """`waits`: why it takes longer."""
        if self._damaged:
            await self._engine.dispose()  # what is open would go on with the file that is set aside
            await bring_up_async(self._engine, self._schemas, self._recover, look_through=True)
            self._damaged = False
            return
        for tried in count():
            try:
                await bring_up_async(self._engine, self._schemas, self._recover)
            except MigratingError as error:
                waits.append(error)
            except StoreError as error:  # another process may be doing the same
                if self.is_sqlite or error.__cause__ is None or not _may_pass_now(error.__cause__, tried):
                    raise
            else:
                return
            await asyncio.sleep(_pause_s(tried))

    async def write(self, work: Work[T], limit_s: float = LIMIT_S) -> T:
        """Do this in a transaction of its own and commit it. Raises StoreError."""
        return await self._run(self._engine, work, limit_s, self._writing, _once)

    async def read(self, work: Work[T], limit_s: float = LIMIT_S) -> T:
        """The same for what only reads. Raises StoreError."""
        return await self._run(self._reading, work, limit_s, nullcontext(), _looked)

    async def _run(
        self,
        engine: AnyEngine,
        work: Work[T],
        limit_s: float,
        turn: AbstractAsyncContextManager[object],
        once: Callable[[AnyEngine, Work[T]], Awaitable[T]],
    ) -> T:
        if self.is_sqlite:
            await self.bring_up()
            limit_s += BUSY_TIMEOUT_MS / 1000  # for another writer
        passed: SQLAlchemyError | None = None
        turn_of_server = self._servers.turn if self._servers is not None else 0
        try:
            async with asyncio.timeout(limit_s):
                await self.bring_up(limit_s)
                async with turn:
                    tried = 0
                    while True:
                        try:
                            return await once(engine, work)
                        except SQLAlchemyError as error:
                            if self.is_sqlite or not _may_pass_now(error, tried):
                                raise
                            passed = error
                        log.debug("store.tried_again", reason=explain(passed))
                        await asyncio.sleep(_pause_s(tried))
                        tried += 1
        except TimeoutError:
            if passed is None:
                await self._leave_server(turn_of_server)
            raise StoreError(f"{self.name} {explain(passed)}" if passed else self._hangs(limit_s)) from None
        except (SQLAlchemyError, OSError) as error:
            if damage(error) and self._recover is not None:
                self._up, self._damaged = False, True
            if mysql.other_tables(error):
                self._up = False
                await self.bring_up(limit_s)  # raises where a newer crmbridge has changed them, and says so
            raise StoreError(f"{self.name} {explain(error)}") from error

    async def _leave_server(self, turn: int) -> None:
        """It says nothing: where there are others, no other work shall wait for it as long, on connections it has."""
        if self._servers is None or not self._servers.several:
            return
        self._servers.leave(turn)
        for engine in (self._engine, self._reading):
            if not isinstance(engine, FileEngine):
                await engine.dispose(close=False)  # closing says goodbye, and waits for the answer

    def _hangs(self, limit_s: float) -> str:
        return f"{self.name} does not answer within {limit_s:g} s"


def _may_pass_now(error: BaseException, tried: int) -> bool:
    """Who lost against another may win the next time; who lost the connection soon has one again, or hasn't."""
    return mysql.lost(error) or (mysql.cut(error) and tried < len(_PAUSES_S))


def _pause_s(tried: int) -> float:
    return _PAUSES_S[min(tried, len(_PAUSES_S) - 1)] * (1 - random() / 2)  # noqa: S311  # no secret


async def _once(engine: AnyEngine, work: Work[T]) -> T:
    if isinstance(engine, FileEngine):
        return await engine.write(work)
    async with engine.begin() as connection:
        return await work(connection)


async def _looked(engine: AnyEngine, work: Work[T]) -> T:
    if isinstance(engine, FileEngine):
        return await engine.read(work)
    async with engine.connect() as connection:  # nothing to commit
        return await work(connection)


async def opened(
    url: str | URL,
    schemas: Sequence[Schema],
    *,
    connections: int = 5,
    recover: Recover | None = None,
    later: bool = False,
) -> Database:
    """Open a database and bring its tables up to date. The caller closes it. Raises StoreError, with what to do.

    `later`, for the daemon: where a server is away, hangs or refuses, or a file's disk does, that is logged, and the
    tables are brought up at the first use that succeeds. `recover`: see `bring_up_async`.
    """
    address = parsed(url)
    servers = Servers(listed(address)) if address.get_backend_name() != "sqlite" else None
    engine = make_engine(address, connections, servers=servers)
    readers = make_engine(address, connections, only_reads=True, servers=servers) if servers is not None else None
    database = Database(engine, schemas, recover, readers, servers)
    try:
        await database.bring_up(START_LIMIT_S if later else LIMIT_S)
    except StoreError as error:
        if not later or not _may_pass(database, error):
            await database.close()
            raise
        log.error("store.refuses", database=database.name, reason=str(error), effect="it is tried again with each use")
    except BaseException:
        await database.close()
        raise
    return database


def _may_pass(database: Database, error: StoreError) -> bool:
    return isinstance(error, DiskError) or not database.is_sqlite

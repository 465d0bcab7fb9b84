"""SQLite for asyncio: a transaction goes to a thread as a whole, and comes back when it is committed.

What is done in it is written once, as a coroutine that awaits its connection's statements, for a server's database and
for a file. For a file these run at once, so that the coroutine never waits, and can be run through in a thread.
aiosqlite goes to its thread and back for each step of each statement: forty times to store half a second's call
records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, Dialect

from crmbridge.store.async_engine import AsyncConnection

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]
"""What is done in one transaction. It awaits statements of its connection and nothing else."""


class FileEngine:
    """A SQLite file, used by up to as many threads as it has connections."""

    def __init__(self, engine: Engine, reading: Engine, connections: int) -> None:
        """`engine` is this one's from now on; `reading` is the same for what only reads."""
        self.sync_engine = engine
        self._reading = reading
        self._connections = connections
        self._threads: ThreadPoolExecutor | None = None

    @property
    def url(self) -> URL:
        """Its address."""
        return self.sync_engine.url

    @property
    def dialect(self) -> Dialect:
        """SQLite's."""
        return self.sync_engine.dialect

    async def write(self, work: Work[T]) -> T:
        """Do this in a transaction, and commit it. Where the caller is cancelled, the thread goes on to its end."""
        return await self._in_thread(partial(self._through, self.sync_engine.begin, work))

    async def read(self, work: Work[T]) -> T:
        """The same for what only reads."""
        return await self._in_thread(partial(self._through, self._reading.connect, work))

    async def dispose(self) -> None:
        """Close its connections. What is done later is done on others."""
        await asyncio.to_thread(self.sync_engine.dispose)
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def _in_thread(self, what: Callable[[], T]) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._connections, "file")
        return await asyncio.get_running_loop().run_in_executor(self._threads, what)

    @staticmethod
    def _through(begun: Callable[[], AbstractContextManager[Connection]], work: Work[T]) -> T:
        with begun() as connection:
            return _driven(work(cast(AsyncConnection, _AtOnce(connection))))


class _AtOnce:
    """Of AsyncConnection what works use, without waiting."""

    def __init__(self, connection: Connection) -> None:
        self.sync_connection = connection
        self.dialect = connection.dialect

    async def execute(self, *statement: Any) -> Any:  # noqa: ANN401  # as SQLAlchemy has it
        return self.sync_connection.execute(*statement)

    async def scalar(self, *statement: Any) -> Any:  # noqa: ANN401
        return self.sync_connection.scalar(*statement)

    async def exec_driver_sql(self, *statement: Any) -> Any:  # noqa: ANN401
        return self.sync_connection.exec_driver_sql(*statement)


def _driven(work: Awaitable[T]) -> T:
    """Its result, without an event loop."""
    running = cast("Coroutine[Any, Any, T]", work)
    try:
        running.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    running.close()
    raise RuntimeError("what is done in a transaction waits for something else")

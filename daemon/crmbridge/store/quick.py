"""A database for who has no time to wait: one connection, to whichever server answers, within a time that is set.

A server that says nothing is left for the next one after a fifth of that time, with whatever it was asked: so what it
is asked must bear being done again. It must not know any tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from random import random
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.engine import URL

from crmbridge.store import mysql
from crmbridge.store.async_engine import AsyncEngine
from crmbridge.store.engine import bring_up_async, shown
from crmbridge.store.schema import MigratingError, Schema, StoreError, mysql_code
from crmbridge.store.servers import Servers, listed

if TYPE_CHECKING:  # see servers.py
    import asyncmy

TRIES = 5
"""Servers, or tries of one, that there is time for."""
PATIENCE_S = 5.0
"""For what nobody waits for."""
LONGEST_PAUSE_S = 0.05
"""Between two tries."""

T = TypeVar("T")
Work = Callable[["asyncmy.Connection"], Awaitable[T]]
"""Something to do on a connection, in statements that stand for themselves (autocommit), or within BEGIN and COMMIT."""


class LostError(Exception):
    """Somebody else was quicker: look again."""


def errors() -> tuple[type[Exception], ...]:
    """What a server, or the way to it, may do to us; a time that is over among it."""
    from asyncmy.errors import MySQLError  # noqa: PLC0415  # see servers.py

    return (MySQLError, OSError, StoreError)


class Quick:
    """A MySQL or MariaDB database. Nothing is connected before the first use."""

    def __init__(self, address: URL, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._address = address
        self._each_s = timeout_s / TRIES
        self._hosts = len(listed(address))
        self._how = mysql.arguments(address)
        self._servers = Servers(listed(address), limit_s=self._each_s)
        self._connection: asyncmy.Connection | None = None
        self.name = shown(address)
        """For messages."""

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def do(self, work: Work[T], limit_s: float | None = None) -> T:
        """Do it on the server whose turn it is, or the next, as often as there is time. Raises `errors()`.

        Where time is over because this process was stopped meanwhile, that says nothing of the database: it is given
        the time once more. Else a bridge that goes on would take it for away, and do without.
        """
        failed: list[Exception] = []
        left_s = self.timeout_s if limit_s is None else limit_s
        while True:
            until = time.monotonic() + left_s
            try:
                async with asyncio.timeout(left_s):
                    return await self._tries(work, failed, until)
            except TimeoutError as over:
                self._leave()
                if time.monotonic() > until + self._each_s:
                    left_s = self.timeout_s
                    continue
                raise next((one for one in reversed(failed) if not isinstance(one, TimeoutError)), over) from None

    async def apart(self, work: Work[T]) -> T:
        """Do it once, on a connection of its own, which may take its time. Raises StoreError."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = await Servers(listed(self._address)).connected(**self._how)
                try:
                    return await work(connection)
                finally:
                    connection.close()
        except errors() as error:
            raise StoreError(self.words(error)) from error

    async def bring_up(self, schema: Schema) -> None:
        """Make its tables. Raises `errors()`."""
        engine, silent = mysql.make_engine(self._address, 1, servers=self._servers), False
        try:
            async with asyncio.timeout(self.timeout_s):
                while not await _brought_up(engine, schema):  # noqa: ASYNC110  # of another process there are no events
                    await asyncio.sleep(LONGEST_PAUSE_S)
        except TimeoutError:
            silent = True
            raise
        finally:
            await engine.dispose(close=not silent)  # closing says goodbye, and waits for the answer

    def words(self, error: BaseException) -> str:
        """What is wrong, for an administrator."""
        if isinstance(error, StoreError):
            return str(error)
        silent = f"does not answer within {self.timeout_s:g} s"
        return f"{self.name} {mysql.explain(error) or (silent if isinstance(error, TimeoutError) else error)}"

    async def _tries(self, work: Work[T], failed: list[Exception], until: float) -> T:
        for pause_s in _pauses_s():
            if time.monotonic() > until:
                raise TimeoutError  # and nobody says so: see servers.py on what asyncmy forgets
            try:
                connection = await self._connected()
                async with asyncio.timeout(self._each_s):
                    return await work(connection)
            except LostError:
                await self._roll_back()
            except errors() as error:
                failed.append(error)
                if mysql.lost(error):
                    await self._roll_back()
                else:
                    self._leave()
                if sum(map(_will_fail_again, failed)) >= self._hosts:
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError  # the pauses don't end

    async def _connected(self) -> asyncmy.Connection:
        if self._connection is None:
            self._connection = await self._servers.connected(**self._how)
            async with asyncio.timeout(self._each_s):
                await _prepare(self._connection)
        return self._connection

    async def _roll_back(self) -> None:
        try:
            if self._connection is not None:
                async with asyncio.timeout(self._each_s):
                    await self._connection.rollback()
        except errors():
            self._leave()

    def _leave(self) -> None:
        if self._connection is not None:
            self._servers.leave(self._servers.turn)
        self.close()


async def _prepare(connection: asyncmy.Connection) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        with suppress(*errors()):  # no server but one with Galera in it has this
            await cursor.execute("SET SESSION wsrep_retry_autocommit = 0")


async def _brought_up(engine: AsyncEngine, schema: Schema) -> bool:
    """False while another bridge does it, as where both are started at the same time on an empty database."""
    try:
        await bring_up_async(engine, [schema], None)
    except MigratingError:
        return False
    return True


def _will_fail_again(error: Exception) -> bool:
    """Whether it is what was asked for that is at fault, rather than the server or the way to it."""
    return mysql_code(error) != 0 and not (mysql.lost(error) or mysql.away(error))


def _pauses_s() -> Iterator[float]:
    """Between one try and the next: hardly any, and more when it doesn't help."""
    pause_s = 0.001
    while True:
        yield pause_s * (1 + random())  # noqa: S311  # no secret
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

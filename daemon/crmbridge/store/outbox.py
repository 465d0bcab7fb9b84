"""The outbox: every callback is here, on disk, before it is sent, and stays listed with how it ended.

A callback's key (PBX, call, extension, kind) is unique, so the same fact is stored once, whoever reports it and however
often. It must not know how callbacks are sent, nor when they are tried again. Always SQLite on the host's own disk: it
has to work when the network doesn't.

While the disk refuses or hangs, callbacks go on from memory (see journal.py) and are stored as soon as it is back. A
damaged file is set aside (see recovery.py), and another one begun.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from crmbridge.calls.events import Attempt, CallEvent, Delivery, State
from crmbridge.store import outbox_sql as sql
from crmbridge.store.engine import explain, open_or_later, reading_apart
from crmbridge.store.journal import DISK_RETRY_S, PATIENCE_S, Journal
from crmbridge.store.lock import sole_use
from crmbridge.store.outbox_sql import Key, Listed, Which
from crmbridge.store.outbox_tables import SCHEMA
from crmbridge.store.recovery import begin_anew
from crmbridge.store.schema import StoreError

log = structlog.get_logger("crmbridge.outbox")

FIRST_SECOND = 1_767_225_600
"""2026-01-01. A callback's id where the last one can't be read: the seconds since then; nobody has one a second."""

PRUNE_STEP, SHRINK_STEP = 500, 500
"""Callbacks, and pages of 4 kB, that are deleted in one transaction: some 20 ms."""

FULL = 0.9
"""Share of the allowed size from which on the oldest are deleted, so that there is room until it is looked at again."""

MOST_READERS = 2
"""Threads for reading, which don't wait for the one that writes."""

MOST_REMEMBERED = 5_000
"""Callbacks whose keys are kept in memory, so that a file begun anew lets none be told twice: those of half an hour
of a busy call centre, some 2 MB."""

T = TypeVar("T")


@asynccontextmanager
async def open_outbox(
    path: Path, *, sole: bool = True, disk_retry_s: float = DISK_RETRY_S, patience_s: float = PATIENCE_S
) -> AsyncIterator[Outbox]:
    """Open the outbox in this file, made if it is missing. Raises StoreError, with what to do about it.

    The daemon opens it for `sole` use, and sets it aside where it is damaged; commands that look, retry and drop beside
    it do not. A disk that refuses is no reason not to start the daemon, either.
    """
    async with AsyncExitStack() as stack:
        if sole:
            stack.enter_context(sole_use(path))
        recover = begin_anew if sole else None
        engine, refusal = await asyncio.to_thread(open_or_later, path, [SCHEMA], recover, look_through=sole, later=sole)
        journal = Journal(
            engine, [SCHEMA], retry_s=disk_retry_s, patience_s=patience_s, recover=recover, refusal=refusal
        )
        outbox = Outbox(engine, journal)
        stack.push_async_callback(outbox.close)
        await outbox.start()
        yield outbox


class Outbox:
    """All callbacks, on disk. One per file and process may add; others may look, retry and drop."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        """Use `open_outbox`."""
        self._engine = engine
        self._reading = reading_apart(engine)
        self._readers = ThreadPoolExecutor(MOST_READERS, "outbox")
        self._journal = journal
        self._next_id = 1
        self._interventions = 0
        self._too_large = False
        self._remembered: OrderedDict[Key, None] = OrderedDict()
        """What was added last, oldest first: stored or not, in this file or in one that was set aside since."""

    async def start(self) -> None:
        """Look where ids and interventions stand."""
        try:
            self._next_id = 1 + await self._read(sql.last_id)
            self._interventions = await self._read(sql.last_intervention)
        except StoreError:
            if not self._journal.broken:
                raise
            # Above all that the file may hold; and when it can be read, all that waits in it is news.
            self._next_id, self._interventions = int(time.time()) - FIRST_SECOND, -1

    async def close(self) -> None:
        """Write what is still to be written."""
        await self._journal.close()
        self._readers.shutdown(wait=False)

    @property
    def disk_refuses(self) -> bool:
        """Whether callbacks go on from memory at present, because the disk refuses them."""
        return self._journal.broken

    @property
    def disk_hangs(self) -> bool:
        """Whether callbacks go on from memory at present, because the disk takes too long."""
        return self._journal.hangs

    @property
    def unstored(self) -> int:
        """How many writes (callbacks, attempts) wait for the disk."""
        return self._journal.backlog

    def add(self, events: Sequence[CallEvent]) -> asyncio.Future[list[Delivery]]:
        """Store these, all or none; those of them that were not there yet, once they are on disk. Never blocks.

        Where the disk refuses or hangs, those that this process has not added lately come back all the same, and are
        stored later.
        """
        fresh = [event for event in map(sql.storable, events) if event.key not in self._remembered]
        if not fresh:
            nothing: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
            nothing.set_result([])
            return nothing
        deliveries = [self._numbered(event) for event in fresh]

        def operation(connection: Connection) -> list[Delivery]:
            return sql.insert(connection, deliveries)

        def done(added: asyncio.Future[list[Delivery]]) -> None:
            if not added.cancelled() and added.exception() is None:
                self._remember(deliveries)

        added = self._journal.write(operation, lambda: self._not_remembered(deliveries))
        added.add_done_callback(done)
        return added

    def record(
        self, delivery_id: int, attempt: Attempt, state: State, next_attempt_at: datetime | None = None
    ) -> Awaitable[bool]:
        """Store an attempt and where the callback stands now.

        False when it was to stay queued and somebody has dropped it meanwhile. What the CRM has confirmed or refused
        stands, dropped or not.
        """

        def operation(connection: Connection) -> bool:
            return sql.record(connection, delivery_id, attempt, state, next_attempt_at)

        return self._journal.write(operation, lambda: True)

    async def expire(self, delivery_ids: Sequence[int]) -> None:
        """These queued ones are too old to be of use."""
        ids = list(delivery_ids)
        await self._journal.write(lambda connection: sql.expire(connection, ids), lambda: None)

    async def retry(self, delivery_id: int, at: datetime) -> bool:
        """By hand: queue a refused, expired or dropped one again, with a new life. False when there is none.

        Raises StoreError when the disk refuses.
        """
        return await self._journal.write(lambda connection: sql.retry(connection, delivery_id, at))

    async def drop(self, delivery_id: int, at: datetime) -> bool:
        """By hand: send it no more and list it no more. False when there is none.

        Its key stays known, so that a reconnect to the PBX doesn't tell it after all. Raises StoreError.
        """
        return await self._journal.write(lambda connection: sql.drop(connection, delivery_id, at))

    async def prune(self, before: datetime, most_bytes: int | None = None, limit: int = PRUNE_STEP) -> int:
        """Delete up to `limit` that are not queued: those from before then, and the oldest of a file grown too large.

        How many it were; to be called again until there are none. In small steps, so that a call that comes meanwhile
        doesn't wait long for the disk. Raises StoreError.
        """
        full = None if most_bytes is None else int(most_bytes * FULL)

        def operation(connection: Connection) -> tuple[int, int]:
            pruned = sql.prune(connection, before, limit)
            if full is not None and pruned < limit and sql.used_bytes(connection) > full:
                pruned += sql.prune_oldest(connection, limit - pruned)
            sql.shrink(connection, SHRINK_STEP)
            return pruned, sql.used_bytes(connection)

        pruned, used = await self._journal.write(operation)
        if not pruned:
            self._say_too_large(used, most_bytes)
        return pruned

    def _say_too_large(self, used: int, most_bytes: int | None) -> None:
        too_large = most_bytes is not None and used > most_bytes
        if too_large and not self._too_large:
            hint = "all that could be deleted is; what still waits for the CRM never is: see store.keep_mb"
            log.warning("outbox.too_large", mb=used // 2**20, hint=hint)
        self._too_large = too_large

    async def waiting(self) -> list[Delivery]:
        """All that are queued, in the order in which they came."""
        return await self._read(sql.waiting)

    async def changes(self) -> list[Delivery] | None:
        """All that are queued, if any were retried or dropped by hand since this was last asked; else None."""
        if self._journal.broken or self._journal.hangs:
            return None
        seen = self._interventions
        try:
            found, queued = await self._read(lambda connection: sql.changes(connection, seen))
        except StoreError as error:
            log.error("outbox.unreadable", reason=str(error))
            return None
        self._interventions = found
        return queued

    async def known(self, pbx: str, calls: Iterable[str]) -> set[Key]:
        """Which facts about these calls (`CallEvent.key`s) are here: told, or about to be.

        A disk that can't be read is no reason not to tell: what is remembered is the answer then, loudly.
        """
        wanted = {sql.clean(call) for call in calls}
        remembered = {key for key in self._remembered if key[0] == sql.clean(pbx) and key[1] in wanted}
        try:
            return remembered | await self._read(lambda connection: sql.known(connection, pbx, wanted))
        except StoreError as error:
            log.error("outbox.unreadable", reason=str(error), effect="callbacks may be told twice")
            return remembered

    async def counts(self) -> dict[State, int]:
        """How many there are in each state, without dropped ones."""
        return await self._read(sql.counts)

    async def listing(self, which: Which | None = None, limit: int = 100) -> list[Listed]:
        """Callbacks with their last attempt, newest first."""
        return await self._read(lambda connection: sql.listing(connection, which or Which(), limit))

    async def events(self, which: Which, limit: int) -> list[CallEvent]:
        """What callbacks are about, newest first: what `listing` has, but how it went."""
        return await self._read(lambda connection: sql.events(connection, which, limit))

    async def attempts(self, delivery_id: int) -> list[Attempt]:
        """Every try to deliver this one, oldest first."""
        return await self._read(lambda connection: sql.attempts(connection, delivery_id))

    def _numbered(self, event: CallEvent) -> Delivery:
        # Numbered here and not by SQLite: while the disk refuses, a callback needs a number too.
        delivery = Delivery(self._next_id, event, State.QUEUED, 0, None)
        self._next_id += 1
        return delivery

    def _not_remembered(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that are new as far as memory reaches; they are remembered from now on."""
        return [each for each in deliveries if self._remember([each])]

    def _remember(self, deliveries: Iterable[Delivery]) -> int:
        """Remember these; how many were not remembered yet."""
        new = {each.event.key: None for each in deliveries if each.event.key not in self._remembered}
        self._remembered |= new
        while len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return len(new)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._query, query)
        except (DBAPIError, sqlite3.Error) as error:
            self._journal.suspect(error)
            raise StoreError(f"{self._engine.url.database} {explain(error)}") from error

    def _query(self, query: Callable[[Connection], T]) -> T:
        with self._reading.connect() as connection:
            return query(connection)

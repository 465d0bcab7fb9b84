"""Writes to one SQLite database: many at a time in one transaction, and on through a disk that fails.

What is asked for while the disk is busy goes into the next transaction together, so that a burst of calls costs one
flush of the disk and not one each. When the disk refuses (full, read-only, damaged), `write` gives what its caller
would have without a disk, and the write itself is kept and repeated until the disk is back. It must not know what is
written; a write has to bear coming late.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from crmbridge.store.engine import apply, disk_trouble, explain
from crmbridge.store.schema import Schema, StoreError

log = structlog.get_logger("crmbridge.store")

DISK_RETRY_S = 5.0
"""How often a disk that has refused is tried again."""

BACKLOG_LIMIT = 50_000
"""Writes kept for a disk that refuses: hours of callbacks, and less than 100 MB."""

STEP = 500
"""Writes in one transaction when the disk is back: calls that come meanwhile wait for no more than these."""

T = TypeVar("T")
Operation = Callable[[Connection], T]


@dataclass(slots=True, eq=False)
class _Write:
    operation: Operation[Any]
    otherwise: Callable[[], Any] | None
    done: asyncio.Future[Any]


class Journal:
    """The one writer of a SQLite database within this process."""

    def __init__(self, engine: AsyncEngine, schemas: Sequence[Schema], retry_s: float = DISK_RETRY_S) -> None:
        """`engine` stays the caller's, who uses it for nothing else: it is disposed of while the disk refuses.

        After the disk was gone, `schemas` are applied again: it may be a new file.
        """
        self._engine = engine
        self._schemas = schemas
        self._retry_s = retry_s
        self._new: deque[_Write] = deque()
        self._backlog: deque[Operation[Any]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._broken = False
        self._lost = 0

    @property
    def broken(self) -> bool:
        """Whether the disk refuses at present."""
        return self._broken

    @property
    def backlog(self) -> int:
        """How many writes wait for the disk to come back."""
        return len(self._backlog)

    async def write(self, operation: Operation[T], otherwise: Callable[[], T] | None = None) -> T:
        """Return the operation's result once it is on disk; what `otherwise` gives when the disk refuses.

        Without `otherwise`, a refused write is not kept, and StoreError is raised. Raises what the operation raises, if
        it is not the disk's fault. A caller that is cancelled takes nothing back.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write = _Write(operation, otherwise, done)
        if self._broken:
            self._refuse(write)
            return await done
        self._new.append(write)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await asyncio.shield(done)

    async def close(self) -> None:
        """Finish what was begun, and try a disk that has refused once more. What it still refuses is lost, loudly."""
        self._closing.set()
        if self._worker:
            await self._worker
        if self._backlog:
            log.error("store.writes_lost", writes=len(self._backlog))

    async def _work(self) -> None:
        while self._new or self._broken:
            if self._new:
                batch = list(self._new)
                self._new.clear()
                await self._commit(batch)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._retry_s):
                    await self._closing.wait()
            await self._try_disk()
            if self._closing.is_set():
                return

    async def _commit(self, batch: list[_Write]) -> None:
        try:
            results = await self._transaction([write.operation for write in batch])
        except Exception as error:  # noqa: BLE001 (whoever asked for the write gets it)
            if disk_trouble(error):
                self._break(batch, error)
            elif len(batch) == 1:
                batch[0].done.set_exception(error)
            else:
                # One of them can't be stored, whatever the disk: it must not take the others with it.
                for write in batch:
                    await self._commit([write])
            return
        for write, result in zip(batch, results, strict=True):
            write.done.set_result(result)

    async def _transaction(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        async with self._engine.begin() as connection:
            return await connection.run_sync(lambda sync: [operation(sync) for operation in operations])

    def _break(self, batch: list[_Write], error: Exception) -> None:
        if not self._broken:
            log.error(
                "store.disk_refuses",
                file=self._engine.url.database,
                reason=explain(error),
                effect="callbacks go on from memory; those not yet told are lost if crmbridge stops now",
            )
        self._broken = True
        for write in batch:
            self._refuse(write)

    def _refuse(self, write: _Write) -> None:
        if write.otherwise is None:
            file = self._engine.url.database
            write.done.set_exception(StoreError(f"{file} cannot be written at present: nothing was changed"))
            return
        self._keep(write.operation)
        write.done.set_result(write.otherwise())

    def _keep(self, operation: Operation[Any]) -> None:
        if len(self._backlog) < BACKLOG_LIMIT:
            self._backlog.append(operation)
            return
        if not self._lost:
            log.error("store.backlog_full", writes=BACKLOG_LIMIT, effect="callbacks are sent, but not recorded")
        self._lost += 1

    async def _try_disk(self) -> None:
        kept = len(self._backlog)
        # Fresh connections: an administrator may have put another file in the place of a damaged one.
        await self._engine.dispose()
        try:
            await apply(self._engine, self._schemas)
            while self._backlog:
                await self._store(list(itertools.islice(self._backlog, STEP)))
        except (StoreError, SQLAlchemyError) as error:
            log.debug("store.disk_still_refuses", reason=str(error))
            return
        self._broken = False
        log.warning("store.disk_back", file=self._engine.url.database, writes_stored=kept, writes_lost=self._lost)
        self._lost = 0

    async def _store(self, operations: list[Operation[Any]]) -> None:
        try:
            await self._transaction(operations)
        except Exception as error:
            if disk_trouble(error):
                raise
            if len(operations) > 1:
                for operation in operations:
                    await self._store([operation])
                return
            log.exception("store.write_lost")
        for _ in operations:
            self._backlog.popleft()

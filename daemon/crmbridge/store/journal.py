"""Writes to one SQLite database: many at a time in one transaction, and on through a disk that refuses or hangs.

What is asked for while the disk is busy goes into the next transaction together, so that a burst of calls costs one
flush of the disk and not one each. When the disk refuses (full, read-only, damaged) or keeps a write waiting for too
long, `write` gives what its caller would have without a disk, and the write itself keeps its place in the queue.

It must not know what is written; a write has to bear coming late.

There is one queue, one transaction at a time and one thread, so the order stays, and nothing piles up but the queue,
however long the disk hangs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from crmbridge.store.engine import Recover, bring_up, damage, disk_trouble, explain
from crmbridge.store.schema import Schema, StoreError

log = structlog.get_logger("crmbridge.store")

PATIENCE_S = 1.0
"""How long a callback waits for the disk before it goes on from memory: a popup is worth something for seconds."""

DISK_RETRY_S = 5.0
"""How often a disk that has refused is tried again."""

BACKLOG_LIMIT = 50_000
"""Writes kept for a disk that refuses or hangs: hours of callbacks, and less than 100 MB."""

STEP = 500
"""Writes in one transaction: what is asked for meanwhile waits for no more than these."""

CLOSE_S, CLOSE_MOST_S = 3.0, 10.0
"""How long a stop waits for a disk that hangs, and for one that is slow."""

T = TypeVar("T")
Operation = Callable[[Connection], T]


@dataclass(slots=True, eq=False)
class _Write:
    operation: Operation[Any]
    otherwise: Callable[[], Any] | None
    done: asyncio.Future[Any]
    late: bool = False
    """Answered from memory: its caller has gone on."""


class Journal:
    """The one writer of a SQLite database within this process."""

    def __init__(
        self,
        engine: Engine,
        schemas: Sequence[Schema],
        *,
        retry_s: float = DISK_RETRY_S,
        patience_s: float = PATIENCE_S,
        recover: Recover | None = None,
        refusal: StoreError | None = None,
    ) -> None:
        """`engine` is the journal's from now on: it is disposed of while the disk refuses, and at the end.

        After the disk was gone, `schemas` are applied again: it may be a new file. `recover` begins anew where the file
        is damaged; without it, an administrator must. `refusal`: why the disk refuses from the beginning.
        """
        self._engine = engine
        self._schemas = schemas
        self._retry_s = retry_s
        self._patience_s = patience_s
        self._recover = recover
        self._thread = ThreadPoolExecutor(1, "journal")
        self._connection: Connection | None = None
        """The thread's own, kept as long as it serves: having another one from the engine for each transaction took
        longer than the transaction's statements (`make bench`, section rings)."""
        self._queue: deque[_Write] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._refusal: BaseException | None = None
        self._suspicion: BaseException | None = None
        self._hangs_since: float | None = None
        self._late = 0
        self._lost = 0
        if refusal is not None:
            self._break(refusal)
            self._work_on()

    @property
    def broken(self) -> bool:
        """Whether the disk refuses at present."""
        return self._refusal is not None

    @property
    def hangs(self) -> bool:
        """Whether the disk takes too long at present."""
        return self._hangs_since is not None

    @property
    def backlog(self) -> int:
        """How many writes wait for the disk."""
        return len(self._queue)

    async def write(self, operation: Operation[T], otherwise: Callable[[], T] | None = None) -> T:
        """Return the operation's result once it is on disk; what `otherwise` gives when the disk refuses or hangs.

        Without `otherwise`, it waits for a disk that hangs; a refused write is not kept, and StoreError is raised.
        Raises what the operation raises, if it is not the disk's fault. A caller that is cancelled takes nothing back.
        """
        write = _Write(operation, otherwise, asyncio.get_running_loop().create_future())
        if otherwise is None and (self.broken or len(self._queue) >= BACKLOG_LIMIT):
            raise self._refused()
        if self.broken or self.hangs:
            _answer(write)
        self._add(write)
        patience = None
        if otherwise is not None and not write.done.done():
            patience = asyncio.get_running_loop().call_later(self._patience_s, self._lose_patience, write)
        try:
            result: T = await asyncio.shield(write.done)
        finally:
            if patience is not None:
                patience.cancel()
        return result

    def suspect(self, error: BaseException) -> None:
        """Somebody who only read has found damage: look into it now, not with the next write."""
        if damage(error) and self._recover is not None and not self.broken:
            self._suspicion = error
            self._work_on()

    async def close(self) -> None:
        """Finish what was begun, and try a disk that has refused once more. What it still refuses is lost, loudly."""
        self._closing.set()
        self._wake.set()
        if self._worker:
            await self._last_wait(self._worker)
        if self._queue:
            log.error("store.writes_lost", file=self._engine.url.database, writes=len(self._queue))
        disposed = self._thread.submit(self._disconnect)
        if self._worker is None or self._worker.done():
            await asyncio.wrap_future(disposed)
        else:
            self._worker.cancel()
        self._thread.shutdown(wait=False)

    async def _last_wait(self, worker: asyncio.Task[None]) -> None:
        clock = asyncio.get_running_loop()
        end, before = clock.time() + CLOSE_MOST_S, len(self._queue) + 1
        while not worker.done() and clock.time() < end and len(self._queue) < before:
            before = len(self._queue)
            await asyncio.wait([worker], timeout=CLOSE_S)

    def _add(self, write: _Write) -> None:
        if len(self._queue) >= BACKLOG_LIMIT:
            if not self._lost:
                log.error("store.backlog_full", writes=BACKLOG_LIMIT, effect="callbacks are sent, but not recorded")
            self._lost += 1
            _answer(write)
            return
        self._queue.append(write)
        self._work_on()

    def _work_on(self) -> None:
        self._wake.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._queue or self.broken or self.hangs or self._suspicion:
            if self._suspicion:
                self._break(self._suspicion)
            elif self.broken:
                await self._pause(self._closing)
                if not await self._try_disk() and self._closing.is_set():
                    return
            elif self._queue:
                await self._commit()
            else:
                # It was slow to the last: with nothing to write, time is all there is to judge by.
                self._wake.clear()
                if self._closing.is_set() or not await self._pause(self._wake):
                    self._keeps_up_again()

    async def _pause(self, end: asyncio.Event) -> bool:
        """Wait for as long as there is between two tries; True when the event ended it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._retry_s):
                return await end.wait()
        return False

    async def _commit(self) -> None:
        clock = asyncio.get_running_loop()
        began = clock.time()
        try:
            await self._store(list(islice(self._queue, STEP)))
        except Exception as error:  # noqa: BLE001  # only what is the disk's fault comes here
            self._break(error)
            return
        if self.hangs and not self._queue and clock.time() - began < self._patience_s:
            self._keeps_up_again()

    async def _store(self, batch: list[_Write]) -> None:
        """Commit these, the first of the queue, and take them out of it. Raises what is the disk's fault."""
        try:
            results = await self._transaction([write.operation for write in batch])
        except Exception as error:
            if disk_trouble(error):
                raise
            if len(batch) > 1:
                # One of them can't be stored, whatever the disk: it must not take the others with it.
                for write in batch:
                    await self._store([write])
                return
            self._queue.popleft()
            if batch[0].late:
                log.exception("store.write_lost", file=self._engine.url.database)
            else:
                batch[0].done.set_exception(error)
            return
        for write, result in zip(batch, results, strict=True):
            self._queue.popleft()
            self._late += write.late
            if not write.late:
                write.done.set_result(result)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _transaction(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        return await self._in_thread(partial(self._transact, operations))

    # In the thread

    def _transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                return [operation(self._connection) for operation in operations]
        except BaseException:
            self._connection.close()
            self._connection = None
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.dispose()

    def _break(self, error: BaseException) -> None:
        if not self.broken:
            log.error(
                "store.disk_refuses",
                file=self._engine.url.database,
                reason=str(error) if isinstance(error, StoreError) else explain(error),
                effect="callbacks go on from memory; those not yet told are lost if crmbridge stops now",
            )
        self._refusal, self._suspicion, self._hangs_since = error, None, None
        for write in self._queue:
            if write.otherwise is None:
                write.done.set_exception(self._refused())
            _answer(write)
        self._queue = deque(write for write in self._queue if write.otherwise is not None)

    def _refused(self) -> StoreError:
        return StoreError(f"{self._engine.url.database} cannot be written at present: nothing was changed")

    def _lose_patience(self, write: _Write) -> None:
        if write.done.done():
            return
        if not self.hangs:
            self._hangs_since = asyncio.get_running_loop().time() - self._patience_s
            log.error(
                "store.disk_hangs",
                file=self._engine.url.database,
                waited_s=self._patience_s,
                effect="callbacks go on from memory; those not yet told are lost if crmbridge stops now",
                hint="another program holds the file, or the disk is slow: see iostat and the kernel's log (dmesg)",
            )
        for each in self._queue:
            _answer(each)

    def _keeps_up_again(self) -> None:
        hung_s = asyncio.get_running_loop().time() - (self._hangs_since or 0.0)
        self._hangs_since = None
        self._say_back("store.disk_keeps_up", hung_s=round(hung_s, 1))

    async def _try_disk(self) -> bool:
        assert self._refusal is not None  # noqa: S101  # else there is nothing to try
        try:
            # Fresh connections: an administrator may have put another file in the place of a damaged one.
            await self._in_thread(self._disconnect)
            await self._in_thread(partial(self._open_again, look_through=damage(self._refusal)))
            while self._queue:
                await self._store(list(islice(self._queue, STEP)))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is tried again, and meanwhile all goes on
            log.debug("store.disk_still_refuses", reason=str(error), error=type(error).__name__)
            if damage(error):
                self._refusal = error
            return False
        self._refusal = None
        self._say_back("store.disk_back")
        return True

    def _open_again(self, *, look_through: bool) -> None:
        bring_up(self._engine, self._schemas, self._recover, look_through=look_through)

    def _say_back(self, event: str, **more: object) -> None:
        file = self._engine.url.database
        log.warning(event, file=file, writes_stored=self._late, writes_lost=self._lost, **more)
        self._late = self._lost = 0


def _answer(write: _Write) -> None:
    """Let its caller go on from memory, if it can and has not gone on yet."""
    if write.otherwise is not None and not write.done.done():
        write.late = True
        write.done.set_result(write.otherwise())

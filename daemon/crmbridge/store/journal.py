"""Writes to one SQLite database: many at a time in one transaction, and on through a disk that refuses or hangs.

What is asked for while the disk is busy goes into the next transaction together, so that a burst of calls costs one
flush of the disk and not one each. When the disk refuses (full, read-only, damaged) or keeps a write waiting for too
long, `write` gives what its caller would have without a disk, and the write itself keeps its place in the queue.

It must not know what is written; a write has to bear coming late.

There is one queue, one transaction at a time and one thread, so the order stays, and nothing piles up but the queue,
however long the disk hangs. While all is well the thread is handed one transaction after the other, without a task in
between, which was several rounds of the event loop each. A task sees to a disk that makes trouble.
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
from typing import Any, NamedTuple, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from crmbridge.store.engine import Recover, bring_up, damage, disk_trouble, driver, explain
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
    asked_at: float
    """On the loop's clock."""
    done: asyncio.Future[Any]
    late: bool = False
    """Answered from memory: its caller has gone on."""

    @property
    def keeps_waiting(self) -> bool:
        """Whether somebody waits for it who could go on from memory."""
        return self.otherwise is not None and not self.done.done()

    def go_on(self) -> None:
        """Let its caller go on from memory, if it can and has not gone on yet."""
        if self.otherwise is not None and not self.done.done():
            self.late = True
            self.done.set_result(self.otherwise())


class _Stored(NamedTuple):
    """What became of writes."""

    outcomes: list[tuple[Any, Exception | None]]
    """Of the first of them, as far as the disk took them: the result, or why that one can't be stored at all."""
    trouble: Exception | None = None
    """Why the disk did not take the rest."""


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
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "journal")
        self._connection: Connection | None = None
        """The thread's own, kept as long as it serves: having another one from the engine for each transaction took
        longer than the transaction's statements (`make bench`, section rings)."""
        self._queue: deque[_Write] = deque()
        """What the thread is storing is the first of these."""
        self._rests = asyncio.Event()
        """The thread was handed nothing but by the worker."""
        self._rests.set()
        self._worker: asyncio.Task[None] | None = None
        """While there is trouble, and at the end."""
        self._patience: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._closed = False
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

    def write(self, operation: Operation[T], otherwise: Callable[[], T] | None = None) -> asyncio.Future[T]:
        """The operation's result, once it is on disk; what `otherwise` gives when the disk refuses or hangs.

        Without `otherwise`, it waits for a disk that hangs; a refused write is not kept, and StoreError is raised.
        Raises what the operation raises, if it is not the disk's fault. A caller that is cancelled takes nothing back.
        """
        write = _Write(operation, otherwise, self._loop.time(), self._loop.create_future())
        if otherwise is None and (self.broken or len(self._queue) >= BACKLOG_LIMIT):
            write.done.set_exception(self._refused())
            return write.done
        if self.broken or self.hangs:
            write.go_on()
        self._add(write)
        if self._patience is None and write.keeps_waiting:
            self._patience = self._loop.call_later(self._patience_s, self._look_who_waits)
        return write.done

    def suspect(self, error: BaseException) -> None:
        """Somebody who only read has found damage: look into it now, not with the next write."""
        if damage(error) and self._recover is not None and not self.broken:
            self._suspicion = error
            self._work_on()

    async def close(self) -> None:
        """Finish what was begun, and try a disk that has refused once more. What it still refuses is lost, loudly."""
        self._closing.set()
        self._wake.set()
        if self._queue and not self._is_worked_on:
            self._worker = asyncio.create_task(self._work())
        if self._worker:
            await self._last_wait(self._worker)
        if self._patience is not None:
            self._patience.cancel()
        if self._queue:
            log.error("store.writes_lost", file=self._engine.url.database, writes=len(self._queue))
        disposed = self._thread.submit(self._disconnect)
        if self._worker is None or self._worker.done():
            await asyncio.wrap_future(disposed)
        else:
            self._worker.cancel()
        self._thread.shutdown(wait=False)
        self._closed = True

    async def _last_wait(self, worker: asyncio.Task[None]) -> None:
        end, before = self._loop.time() + CLOSE_MOST_S, len(self._queue) + 1
        while not worker.done() and self._loop.time() < end and len(self._queue) < before:
            before = len(self._queue)
            await asyncio.wait([worker], timeout=CLOSE_S)

    def _add(self, write: _Write) -> None:
        if len(self._queue) >= BACKLOG_LIMIT:
            if not self._lost:
                log.error("store.backlog_full", writes=BACKLOG_LIMIT, effect="callbacks are sent, but not recorded")
            self._lost += 1
            write.go_on()
            return
        self._queue.append(write)
        self._work_on()

    @property
    def _is_worked_on(self) -> bool:
        return self._worker is not None and not self._worker.done()

    def _work_on(self) -> None:
        """See to it that the thread, or the worker, is at work on what there is."""
        self._wake.set()
        if self._is_worked_on or not self._rests.is_set():
            return
        if self.broken or self.hangs or self._suspicion:
            self._worker = asyncio.create_task(self._work())
        elif self._queue:
            self._rests.clear()
            self._thread.submit(self._store_and_say, self._next())

    def _next(self) -> list[Operation[Any]]:
        return [write.operation for write in islice(self._queue, STEP)]

    def _rested(self, stored: _Stored) -> None:
        """The thread has done what it was handed."""
        if self._closed:
            return  # it took too long, and that was said
        self._rests.set()
        if trouble := self._take_out(stored):
            self._break(trouble)
        self._work_on()

    def _take_out(self, stored: _Stored) -> Exception | None:
        """Answer those that are stored, and those that can't be; why the disk did not take the rest."""
        for result, error in stored.outcomes:
            write = self._queue.popleft()
            if error is None:
                self._late += write.late
                if not write.done.done():
                    write.done.set_result(result)
            elif not write.done.done():
                write.done.set_exception(error)
            else:
                log.error("store.write_lost", file=self._engine.url.database, exc_info=error)
        return stored.trouble

    async def _work(self) -> None:
        await self._rests.wait()
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
        began = self._loop.time()
        if trouble := await self._store_next():
            self._break(trouble)
        elif self.hangs and not self._queue and self._loop.time() - began < self._patience_s:
            self._keeps_up_again()

    async def _store_next(self) -> Exception | None:
        return self._take_out(await self._in_thread(partial(self._store, self._next())))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, work)

    # In the thread

    def _store_and_say(self, operations: Sequence[Operation[Any]]) -> None:
        stored = self._store(operations)
        with suppress(RuntimeError):  # the loop has ended meanwhile, and nobody waits
            self._loop.call_soon_threadsafe(self._rested, stored)

    def _store(self, operations: Sequence[Operation[Any]]) -> _Stored:
        try:
            return _Stored([(result, None) for result in self._transact(operations)])
        except Exception as error:  # noqa: BLE001  # whatever it is, others wait for their turn
            if disk_trouble(error):
                return _Stored([], error)
            if len(operations) == 1:
                return _Stored([(None, error)])
        outcomes: list[tuple[Any, Exception | None]] = []
        for operation in operations:
            # One of them can't be stored, whatever the disk: it must not take the others with it.
            alone = self._store([operation])
            outcomes += alone.outcomes
            if alone.trouble is not None:
                return _Stored(outcomes, alone.trouble)
        return _Stored(outcomes)

    def _transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        if self._connection is None:
            self._connection = self._engine.connect()
        # By SQLAlchemy's way a transaction with nothing in it takes three times as long (see `driver`).
        connection, raw = self._connection, driver(self._connection)
        try:
            raw.execute("BEGIN IMMEDIATE")
            results = [operation(connection) for operation in operations]
            connection.commit()  # where SQLAlchemy takes part in it
            raw.commit()
        except BaseException:
            self._connection = None
            connection.close()
            raise
        return results

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
            if write.otherwise is None and not write.done.done():
                write.done.set_exception(self._refused())
            write.go_on()
        self._queue = deque(write for write in self._queue if write.otherwise is not None)

    def _refused(self) -> StoreError:
        return StoreError(f"{self._engine.url.database} cannot be written at present: nothing was changed")

    def _look_who_waits(self) -> None:
        # One timer for whatever comes, that is not stopped when nothing waits any more, in place of one for each write.
        self._patience = None
        oldest = next((write.asked_at for write in self._queue if write.keeps_waiting), None)
        if oldest is None:
            return
        left_s = oldest + self._patience_s - self._loop.time()
        if left_s > 0:
            self._patience = self._loop.call_later(left_s, self._look_who_waits)
        else:
            self._lose_patience()

    def _lose_patience(self) -> None:
        if not self.hangs:
            self._hangs_since = self._loop.time() - self._patience_s
            log.error(
                "store.disk_hangs",
                file=self._engine.url.database,
                waited_s=self._patience_s,
                effect="callbacks go on from memory; those not yet told are lost if crmbridge stops now",
                hint="another program holds the file, or the disk is slow: see iostat and the kernel's log (dmesg)",
            )
        for each in self._queue:
            each.go_on()

    def _keeps_up_again(self) -> None:
        hung_s = self._loop.time() - (self._hangs_since or 0.0)
        self._hangs_since = None
        self._say_back("store.disk_keeps_up", hung_s=round(hung_s, 1))

    async def _try_disk(self) -> bool:
        assert self._refusal is not None  # noqa: S101  # else there is nothing to try
        try:
            # Fresh connections: an administrator may have put another file in the place of a damaged one.
            await self._in_thread(self._disconnect)
            await self._in_thread(partial(self._open_again, look_through=damage(self._refusal)))
            while self._queue:
                if trouble := await self._store_next():
                    self._still_refuses(trouble)
                    return False
        except Exception as error:  # noqa: BLE001  # whatever it is, it is tried again, and meanwhile all goes on
            self._still_refuses(error)
            return False
        self._refusal = None
        self._say_back("store.disk_back")
        return True

    def _still_refuses(self, error: Exception) -> None:
        log.debug("store.disk_still_refuses", reason=str(error), error=type(error).__name__)
        if damage(error):
            self._refusal = error

    def _open_again(self, *, look_through: bool) -> None:
        bring_up(self._engine, self._schemas, self._recover, look_through=look_through)

    def _say_back(self, event: str, **more: object) -> None:
        file = self._engine.url.database
        log.warning(event, file=file, writes_stored=self._late, writes_lost=self._lost, **more)
        self._late = self._lost = 0

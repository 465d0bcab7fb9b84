"""The call list: the PBX's call records as they came, and the lines made of them, found by number in milliseconds.

Records are kept because a call's lines come from all its records together, and those arrive one by one: with each new
one the call is read again, and its lines are brought up to date, in the same transaction. A line keeps its id as long
as it means the same conversation, so that a page of the list goes on where the one before ended. Where the whole
history is read at once (`crmbridge sync`), lines come ready-made, and no records are kept.

How records are read is handed in (`calls.history`). The PBX's name is part of every key. Several processes may write
and read at the same time: the daemon, `crmbridge sync`, a second bridge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, tzinfo
from heapq import merge
from itertools import islice
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.engine import URL

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.history import CallRow, Page, Position
from crmbridge.store import call_pruning, call_writes
from crmbridge.store.async_engine import AsyncConnection
from crmbridge.store.call_numbers import FEW_KNOWN, MOST_KNOWN, KnownNumbers, Numbers
from crmbridge.store.call_tables import SCHEMA, calls, cdrs, numbers, progress
from crmbridge.store.database import Database, opened
from crmbridge.store.engine import Recover

BULK_LIMIT_S = 30.0
"""Seconds that a batch of the bulk path may take, and no popup or lookup waits for."""

_KEY = (cdrs.c.pbx, cdrs.c.linkedid, cdrs.c.uniqueid, cdrs.c.sequence, cdrs.c.dstchannel)
_SHOWN = [column for column in calls.c if column.name not in {"number_id", "time"}]
_LINES = f"SELECT {', '.join(column.name for column in _SHOWN)} FROM calls WHERE number_id = ?"  # noqa: S608  # no value in it
_SPELLINGS = "SELECT id, number, number_key FROM numbers WHERE number_key = ?"

Rows = Callable[[Iterable[Cdr]], list[CallRow]]


@asynccontextmanager
async def open_call_list(
    url: str | URL,
    rows: Rows,
    timezone: tzinfo,
    *,
    zones: Mapping[str, tzinfo] | None = None,
    recover: Recover | None = None,
    later: bool = False,
) -> AsyncIterator[CallList]:
    """Open the call list at this address. Raises StoreError, with what to do about it.

    `zones`: of PBXes that are not in `timezone`, by name.

    `recover` and `later`, for the daemon: a damaged file is set aside; a database that can't be had at present is no
    reason not to start; and few numbers are kept in memory.
    """
    database = await opened(url, [SCHEMA], recover=recover, later=later)
    try:
        yield CallList(database, rows, timezone, KnownNumbers(FEW_KNOWN if later else MOST_KNOWN), zones)
    finally:
        await database.close()


class CallList:
    """The call list in its database. All methods raise StoreError, within seconds also where the database hangs."""

    def __init__(
        self,
        database: Database,
        rows: Rows,
        timezone: tzinfo,
        numbers: KnownNumbers,
        zones: Mapping[str, tzinfo] | None = None,
    ) -> None:
        """`rows` makes the lines of one call from all its records; `timezone` is the PBX's. Use `open_call_list`."""
        self._zones = zones or {}
        self._database = database
        self._rows = rows
        self._timezone = timezone
        self._numbers = numbers

    async def add(self, records: Sequence[Cdr], *, anew: bool = False) -> int:
        """Take up records of any calls; when this returns they are on disk, and these calls' lines as they must be.

        Those that are there already (by `Cdr.key`) are passed over. How many were new; where a connection was cut and
        all was done twice, fewer than there were. `anew`: none is passed over, and lines
        are made as they would be made now.
        """
        return sum((await self.add_by_pbx(records, anew=anew)).values())

    async def add_by_pbx(self, records: Sequence[Cdr], *, anew: bool = False) -> dict[str, int]:
        """The same; how many were new of each PBX."""

        async def work(connection: AsyncConnection) -> tuple[dict[str, int], list[tuple[str, int, Numbers]]]:
            counts, numbers = {}, []
            for pbx in sorted({one.pbx for one in records}):
                prunings = await call_writes.take_turn(connection, pbx)
                own = [one for one in records if one.pbx == pbx]
                new, changed = await call_writes.take_up(connection, pbx, own, self._rows, anew=anew)
                _, written = await self._put_lines(connection, pbx, changed, prunings)
                numbers.append((pbx, prunings, written))
                counts[pbx] = new
            return counts, numbers

        counts, numbers = await self._database.write(work)
        for each in numbers:
            self._numbers.committed(*each)
        return counts

    async def replace(self, pbx: str, calls: Mapping[str, Sequence[CallRow]]) -> int:
        """Have these calls (linkedid → lines, all of them) be as given, without records; how many lines were written.

        The bulk path: some 2,000 calls at a time. What is as it must be is not written.
        """

        async def work(connection: AsyncConnection) -> tuple[int, tuple[str, int, Numbers]]:
            prunings = await call_writes.take_turn(connection, pbx)
            count, written = await self._put_lines(connection, pbx, calls, prunings)
            return count, (pbx, prunings, written)

        count, numbers = await self._database.write(work, BULK_LIMIT_S)
        self._numbers.committed(*numbers)
        return count

    async def _put_lines(
        self, connection: AsyncConnection, pbx: str, calls: Mapping[str, Sequence[CallRow]], prunings: int
    ) -> tuple[int, Numbers]:
        known, zone = self._numbers.of(pbx, prunings), self._zones.get(pbx, self._timezone)
        return await call_writes.put_lines(connection, pbx, calls, known, zone) if calls else (0, {})

    async def known(self, pbx: str, since_at: datetime, until_at: datetime) -> set[tuple[str, str, str, int, str]]:
        """The keys (`Cdr.key`) of the records that begin then; `since_at` included, `until_at` not."""
        began = cdrs.c.start_epoch_s.between(_epoch_s(since_at), _epoch_s(until_at) - 1)
        query = select(*_KEY).where(cdrs.c.pbx == pbx, began)

        async def work(connection: AsyncConnection) -> set[tuple[str, str, str, int, str]]:
            return {tuple(row) for row in await connection.execute(query)}

        return await self._database.read(work)

    async def progress(self, pbx: str, name: str) -> str | None:
        """What `set_progress` was told last: how far a source has been read."""
        query = select(progress.c.value).where(progress.c.pbx == pbx, progress.c.name == name)

        async def work(connection: AsyncConnection) -> str | None:
            return await connection.scalar(query)

        return await self._database.read(work)

    async def set_progress(self, pbx: str, name: str, value: str) -> None:
        """Remember a text of up to 1,000 characters."""

        async def work(connection: AsyncConnection) -> None:
            sql = f"REPLACE INTO {call_writes.values(progress)}"
            await connection.exec_driver_sql(call_writes.statement(connection, sql), (pbx, name, value))

        await self._database.write(work)

    async def prune_records(self, pbx: str, before_at: datetime) -> int:
        """Delete some of the records that began before then, oldest first; how many. Their lines stay."""
        return await self._database.write(
            lambda connection: call_pruning.prune_records(connection, pbx, _epoch_s(before_at))
        )

    async def prune_calls(self, before_at: datetime) -> int:
        """Delete some of the lines from before then, of any PBX, oldest first, and numbers nobody has any more.

        How many lines.
        """
        before = call_writes.wall(before_at, self._timezone)
        return await self._database.write(lambda connection: call_pruning.prune_calls(connection, before))

    async def by_number(
        self,
        key: str,
        *,
        client_ids: Collection[str] | None = None,
        extension: str | None = None,
        incoming: bool | None = None,
        since_at: datetime | None = None,
        until_at: datetime | None = None,
        limit: int = 100,
        after: Position | None = None,
    ) -> Page:
        """The calls with a number, newest first; `since_at` included, `until_at` not.

        `client_ids`: only calls of these clients of the CRM.
        """
        # To the driver as it is: SQLAlchemy's own work on the two selects was a fifth of a lookup's processor time.
        wanted, values = _wanted(client_ids, extension, incoming, since_at, until_at, after)
        query = f"{_LINES}{wanted} ORDER BY epoch_s DESC, id DESC LIMIT {limit + 1:d}"

        async def work(connection: AsyncConnection) -> list[list[tuple[Row[Any], str, str]]]:
            found = []
            spellings = await connection.exec_driver_sql(call_writes.statement(connection, _SPELLINGS), (key,))
            sql = call_writes.statement(connection, query)
            for one in spellings:
                # One number at a time: of several at once, a database would read and sort all their lines.
                rows = await connection.exec_driver_sql(sql, (one.id, *values))
                found.append([(row, one.number, one.number_key) for row in rows])
            return found

        found = await self._database.read(work)
        newest = merge(*found, key=lambda one: (one[0].epoch_s, one[0].id), reverse=True)
        return _page(list(islice(newest, limit + 1)), limit)

    async def newest(self) -> str | None:
        """When the newest call began, on the PBX's clock; None where there is none."""
        query = select(func.max(calls.c.time))

        async def work(connection: AsyncConnection) -> str | None:
            found = await connection.scalar(query)
            return None if found is None else str(found)

        return await self._database.read(work)

    async def of_call(self, linkedid: str) -> list[CallRow]:
        """The lines of one call, of whichever PBX, oldest first."""
        shown: Select[Any] = select(*_SHOWN, numbers.c.number, numbers.c.number_key)
        query = shown.join(numbers, numbers.c.id == calls.c.number_id).where(calls.c.linkedid == linkedid)
        query = query.order_by(calls.c.epoch_s, calls.c.id)

        async def work(connection: AsyncConnection) -> list[CallRow]:
            return [_shown(row, row.number, row.number_key) for row in await connection.execute(query)]

        return await self._database.read(work)


def _wanted(
    client_ids: Collection[str] | None,
    extension: str | None,
    incoming: bool | None,
    since_at: datetime | None,
    until_at: datetime | None,
    after: Position | None,
) -> tuple[str, list[object]]:
    """What follows `WHERE number_id = ?`, and its values."""
    sql, values = "", list[object]()

    def also(condition: str, *its: object) -> None:
        nonlocal sql
        sql += f" AND {condition}"
        values.extend(its)

    if client_ids is not None:
        marks = ", ".join("?" * len(client_ids)) or "NULL"  # nobody's: MySQL has no empty IN ()
        also(f"client_id IN ({marks})", *sorted(client_ids))
    if extension is not None:
        also("extension = ?", extension)
    if incoming is not None:
        also("incoming = ?", int(incoming))
    if since_at is not None:
        also("epoch_s >= ?", _epoch_s(since_at))
    if until_at is not None:
        also("epoch_s < ?", _epoch_s(until_at))
    if after is not None:
        also("epoch_s <= ? AND (epoch_s < ? OR id < ?)", after.epoch_s, after.epoch_s, after.id)
    return sql, values


def _page(found: Sequence[tuple[Row[Any], str, str]], limit: int) -> Page:
    shown = [_shown(*one) for one in found[:limit]]
    last = found[limit - 1][0] if len(found) > limit else None
    return Page(shown, Position(last.epoch_s, last.id) if last is not None else None)


def _shown(row: Row[Any], number: str, number_key: str) -> CallRow:
    return CallRow(
        pbx=row.pbx,
        linkedid=row.linkedid,
        client_id=row.client_id,
        extension=row.extension,
        number=number,
        number_key=number_key,
        started_at=datetime.fromtimestamp(row.epoch_s, UTC),
        talk_s=row.talk_s,
        filename=row.filename,
        incoming=bool(row.incoming),
    )


def _epoch_s(at: datetime) -> int:
    """Whole seconds, the next where there is a fraction: what begins then or later, or before, are the same calls."""
    return -int(-at.timestamp() // 1)

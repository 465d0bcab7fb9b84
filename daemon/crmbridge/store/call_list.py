"""The call list: the PBX's call records as they came, and the lines made of them, found by number in milliseconds.

Records are kept because a call's lines come from all its records together, and those arrive one by one: with each new
one the call is read again, and its lines are brought up to date, in the same transaction. A line keeps its id as long
as it means the same conversation, so that a page of the list goes on where the one before ended.

How records are read is handed in (`calls.history`). The PBX's name is part of every key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    and_,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from crmbridge.calls.cdr import LONGEST_PATH, MAX_LENGTH, Cdr
from crmbridge.calls.history import CallRow, Page, Position
from crmbridge.store.engine import explain, reading
from crmbridge.store.schema import Schema, StoreError, Utc

_TABLES = MetaData()
_PBX, _TEXT, _NUMBER = String(64), String(MAX_LENGTH), String(64)
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts by itself only where the type is INTEGER

_cdrs = Table(
    "cdrs",
    _TABLES,
    # Cdr.key. A call's records lie together.
    Column("pbx", _PBX, primary_key=True),
    Column("linkedid", _TEXT, primary_key=True),
    Column("uniqueid", _TEXT, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("dstchannel", _TEXT, primary_key=True),
    Column("channel", _TEXT, nullable=False),
    Column("src", _TEXT, nullable=False),
    Column("dst", _TEXT, nullable=False),
    Column("did", _TEXT, nullable=False),
    Column("start_at", Utc, nullable=False),
    Column("duration_s", Integer, nullable=False),
    Column("billsec_s", Integer, nullable=False),
    Column("disposition", _TEXT, nullable=False),
    Column("recordingfile", String(LONGEST_PATH), nullable=False),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

_calls = Table(
    "calls",
    _TABLES,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("pbx", _PBX, nullable=False),
    Column("linkedid", _TEXT, nullable=False),
    Column("client_id", _TEXT, nullable=False),
    Column("extension", _TEXT, nullable=False),
    Column("number", _NUMBER, nullable=False),
    Column("number_key", _NUMBER, nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("talk_s", Integer, nullable=False),
    Column("filename", String(LONGEST_PATH), nullable=False),
    Column("incoming", Boolean, nullable=False),
    Index("calls_by_number", "number_key", "started_at", "id"),
    Index("calls_by_call", "pbx", "linkedid"),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

SCHEMA = Schema("call_list", _TABLES)

_FIELDS = [column for column in _calls.c if column.name != "id"]
_add = insert(_cdrs).prefix_with("OR IGNORE", dialect="sqlite").prefix_with("IGNORE", dialect="mysql")


class CallList:
    """The call list in a database that has its tables (`SCHEMA`)."""

    def __init__(self, engine: AsyncEngine, rows: Callable[[Iterable[Cdr]], list[CallRow]]) -> None:
        """`engine` stays the caller's. `rows` makes the lines of one call from all its records."""
        self._engine = engine
        self._reading = reading(engine)
        self._rows = rows
        self._writing = asyncio.Lock()

    async def add_cdr(self, one: Cdr) -> bool:
        """Take up a record; when this returns it is on disk, and the call's lines are as they must be with it.

        False: it was there already. Raises StoreError.
        """
        with _explained():
            async with self._writing, self._engine.begin() as connection:
                return await connection.run_sync(self._take_up, one)

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
        """The calls with a number, newest first; `since_at` included, `until_at` not. Raises StoreError.

        `client_ids`: only these clients'; None: everybody's.
        """
        wanted = [_calls.c.number_key == key]
        if client_ids is not None:
            wanted.append(_calls.c.client_id.in_(sorted(client_ids)))
        if extension is not None:
            wanted.append(_calls.c.extension == extension)
        if incoming is not None:
            wanted.append(_calls.c.incoming.is_(incoming))
        if since_at is not None:
            wanted.append(_calls.c.started_at >= since_at)
        if until_at is not None:
            wanted.append(_calls.c.started_at < until_at)
        if after is not None:
            wanted.append(_older(after))
        newest_first = (_calls.c.started_at.desc(), _calls.c.id.desc())
        query = select(_calls).where(*wanted).order_by(*newest_first).limit(limit + 1)
        with _explained():
            async with self._reading.connect() as connection:
                found = (await connection.execute(query)).all()
        return _page(found, limit)

    def _take_up(self, connection: Connection, one: Cdr) -> bool:
        added = connection.execute(_add.values({column.name: getattr(one, column.name) for column in _cdrs.c}))
        if not added.rowcount:
            return False
        same_call = and_(_cdrs.c.pbx == one.pbx, _cdrs.c.linkedid == one.linkedid)
        records = connection.execute(select(_cdrs).where(same_call).with_for_update()).all()
        _replace(connection, one, self._rows(Cdr(**record._mapping) for record in records))  # noqa: SLF001  # public
        return True


def _replace(connection: Connection, one: Cdr, lines: list[CallRow]) -> None:
    """Bring the lines of this record's call up to date."""
    same_call = and_(_calls.c.pbx == one.pbx, _calls.c.linkedid == one.linkedid)
    present: dict[tuple[object, ...], list[Row[Any]]] = {}
    for row in connection.execute(select(_calls).where(same_call).order_by(_calls.c.id)):
        present.setdefault((row.extension, row.number_key, row.incoming), []).append(row)
    for line in lines:
        values = {column.name: getattr(line, column.name) for column in _FIELDS}
        before = present.get((line.extension, line.number_key, line.incoming))
        if not before:
            connection.execute(insert(_calls).values(values))
            continue
        connection.execute(update(_calls).where(_calls.c.id == before.pop(0).id).values(values))
    gone = [row.id for rows in present.values() for row in rows]
    if gone:
        connection.execute(delete(_calls).where(_calls.c.id.in_(gone)))


def _older(than: Position) -> ColumnElement[bool]:
    at = datetime.fromtimestamp(than.epoch_s, UTC)
    return and_(_calls.c.started_at <= at, or_(_calls.c.started_at < at, _calls.c.id < than.id))


def _page(found: Sequence[Row[Any]], limit: int) -> Page:
    rows = [CallRow(**{column.name: getattr(row, column.name) for column in _FIELDS}) for row in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    return Page(rows, Position(int(last.started_at.timestamp()), last.id) if last is not None else None)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(f"the call list's database {explain(error)}") from error

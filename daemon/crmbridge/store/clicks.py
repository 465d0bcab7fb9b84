"""The trail of clicks: who asked for which call, what was decided, and how it ended.

In a SQLite file of its own, on the host's own disk. A call list may be lost or lie on another host, and is made anew
from the PBX's records; this can't be, and has to be written when the network is away. And it must not share the
outbox's file: a flood of refused clicks would make callbacks wait for the disk.

How many clicks are kept is bounded, those that came to nothing apart, so that they can't push out the others.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError

from crmbridge.calls.clicks import Asked, News, Outcome, Side
from crmbridge.store.engine import explain, open_or_later, reading_apart
from crmbridge.store.journal import Journal
from crmbridge.store.recovery import begin_anew
from crmbridge.store.schema import Schema, StoreError, Utc

MOST_PLACED = 500_000
"""Clicks that were placed: some 150 MB, and two years of a busy call centre."""
MOST_OTHERS = 50_000
"""Clicks that were refused or repeated: some 15 MB."""
LONGEST_TEXT = 200
"""Characters of what who asked has sent; nothing that is right is near it."""

_TABLES = MetaData()
_clicks = Table(
    "clicks",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("pbx", Text, nullable=False),
    Column("click_id", Text, nullable=False),
    Column("at", Utc, nullable=False),
    Column("address", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("extension", Text, nullable=False),
    Column("number", Text, nullable=False),
    Column("dialed", Text),
    Column("outcome", Text, nullable=False),
    Column("code", Text),
    Column("reason", Text),
    Column("phone_state", Text),
    Column("number_state", Text),
    Column("cause", Integer),
    Column("talk_s", Integer),
    Column("changed_at", Utc, nullable=False),
    Index("clicks_click_id", "click_id"),
    Index("clicks_at", "at"),
    Index("clicks_outcome", "outcome", "at"),
    sqlite_autoincrement=True,
)
SCHEMA = Schema("clicks", _TABLES)

_OTHERS = [Outcome.REFUSED.value, Outcome.REPEATED.value]


@dataclass(frozen=True, slots=True)
class Which:
    """Which clicks to list; all that is given must hold."""

    extension: str | None = None
    number: str | None = None
    """As it was asked for, or as it was dialed."""
    client_id: str | None = None
    pbx: str | None = None
    outcome: Outcome | None = None
    click_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A click and how it stands."""

    asked: Asked
    news: News


@asynccontextmanager
async def open_clicks(path: Path, *, sole: bool = True) -> AsyncIterator[ClickStore]:
    """Open the trail in this file, made if it is missing. Raises StoreError, with what to do about it.

    The daemon opens it for `sole` use (it holds the outbox's lock) and sets it aside where it is damaged; commands that
    look beside it do not.
    """
    recover = begin_anew if sole else None
    engine, refusal = await asyncio.to_thread(open_or_later, path, [SCHEMA], recover, later=sole)
    store = ClickStore(engine, Journal(engine, [SCHEMA], recover=recover, refusal=refusal))
    try:
        yield store
    finally:
        await store.close()


class ClickStore:
    """The clicks on all PBXes of a bridge, on disk."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        """Use `open_clicks`."""
        self._engine = engine
        self._reading = reading_apart(engine)
        self._journal = journal

    async def close(self) -> None:
        """Write what is still to be written."""
        await self._journal.close()

    async def write(self, changes: Sequence[Asked | News]) -> None:
        """Store these, in order. While the disk refuses they are kept in memory."""

        def operation(connection: Connection) -> None:
            for change in changes:
                _add(connection, change) if isinstance(change, Asked) else _change(connection, change)

        await self._journal.write(operation, lambda: None)

    async def prune(self, before: datetime, limit: int = 500) -> int:
        """Delete up to `limit` of those from before then, and of those that are too many; how many it were.

        Raises StoreError.
        """
        return await self._journal.write(lambda connection: _prune(connection, before, limit))

    async def in_progress(self) -> list[Listed]:
        """Those whose end is not known, oldest first. Raises StoreError."""
        going_on = _clicks.c.outcome == Outcome.IN_PROGRESS.value
        return await self._read([going_on], [_clicks.c.id], limit=None)

    async def listing(self, which: Which | None = None, limit: int = 100) -> list[Listed]:
        """Clicks, newest first. Raises StoreError."""
        return await self._read(_wanted(which or Which()), [_clicks.c.id.desc()], limit)

    async def _read(
        self, wanted: Iterable[ColumnElement[bool]], order: Iterable[ColumnElement[Any]], limit: int | None
    ) -> list[Listed]:
        query = select(_clicks).where(*wanted).order_by(*order).limit(limit)
        try:
            return await asyncio.to_thread(self._query, query)
        except (DBAPIError, sqlite3.Error) as error:
            self._journal.suspect(error)
            raise StoreError(f"{self._engine.url.database} {explain(error)}") from error

    def _query(self, query: Select[Any]) -> list[Listed]:
        with self._reading.connect() as connection:
            return [_listed(row) for row in connection.execute(query)]


def _add(connection: Connection, asked: Asked) -> None:
    values = {name: _clean(value) for name, value in asdict(asked).items()}
    connection.execute(_clicks.insert().values(**values, changed_at=asked.at))


def _change(connection: Connection, news: News) -> None:
    """Bring a click up to date. One whose end is known stays as it is; so do the repetitions of one."""
    values: dict[str, object] = {
        "outcome": news.outcome.value,
        "phone_state": news.phone and news.phone.value,
        "number_state": news.number and news.number.value,
        "cause": news.cause,
        "talk_s": news.talk_s,
        "changed_at": news.at,
    }
    if news.code:  # what the PBX said when it was asked; events may have told more already
        values = {"outcome": news.outcome.value, "code": news.code, "reason": _clean(news.reason)}
    this = (_clicks.c.click_id == news.click_id, _clicks.c.outcome == Outcome.IN_PROGRESS.value)
    connection.execute(_clicks.update().where(*this).values(**values))


def _prune(connection: Connection, before: datetime, limit: int) -> int:
    others = _clicks.c.outcome.in_(_OTHERS)
    ids = set(connection.scalars(select(_clicks.c.id).where(_clicks.c.at < before).limit(limit)))
    for kind, most in ((others, MOST_OTHERS), (~others, MOST_PLACED)):
        too_many = (connection.scalar(select(func.count()).where(kind)) or 0) - most
        if too_many > 0:
            oldest = select(_clicks.c.id).where(kind).order_by(_clicks.c.id).limit(min(too_many, limit))
            ids |= set(connection.scalars(oldest))
    old = sorted(ids)[:limit]
    return connection.execute(_clicks.delete().where(_clicks.c.id.in_(old))).rowcount if old else 0


def _wanted(which: Which) -> list[ColumnElement[bool]]:
    columns = _clicks.c
    equal: tuple[tuple[Column[Any], str | None], ...] = (
        (columns.extension, which.extension),
        (columns.client_id, which.client_id),
        (columns.pbx, which.pbx),
        (columns.outcome, which.outcome),
        (columns.click_id, which.click_id),
    )
    wanted: list[ColumnElement[bool]] = [column == str(value) for column, value in equal if value is not None]
    if which.number is not None:
        wanted.append((columns.number == which.number) | (columns.dialed == which.number))
    if which.since is not None:
        wanted.append(columns.at >= which.since)
    if which.until is not None:
        wanted.append(columns.at < which.until)
    return wanted


def _listed(row: Row[Any]) -> Listed:
    given = {field.name: getattr(row, field.name) for field in fields(Asked)}
    asked = Asked(**{**given, "outcome": Outcome(row.outcome)})
    news = News(
        click_id=row.click_id,
        at=row.changed_at,
        outcome=Outcome(row.outcome),
        phone=Side(row.phone_state) if row.phone_state else None,
        number=Side(row.number_state) if row.number_state else None,
        cause=row.cause,
        talk_s=row.talk_s,
        code=row.code,
        reason=row.reason,
    )
    return Listed(asked, news)


def _clean(value: Any) -> Any:  # noqa: ANN401  # whatever a column takes
    """What SQLite and a terminal take, and no more of it than is worth keeping."""
    if isinstance(value, str):
        return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(value)[:LONGEST_TEXT])
    return value

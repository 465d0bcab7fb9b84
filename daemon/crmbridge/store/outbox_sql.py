"""Each statement on the outbox's tables, as a function of a connection.

Statements only: transactions, threads and failing disks are journal.py's and outbox.py's. All instants are aware UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    func,
    or_,
    select,
)

from crmbridge.calls.events import Attempt, CallEvent, Delivery, Kind, State
from crmbridge.store.engine import driver
from crmbridge.store.outbox_tables import callbacks, interventions, tries
from crmbridge.store.schema import as_text

Key = tuple[str, str, str, str]
"""`CallEvent.key`: PBX, call, extension, kind."""

CHUNK = 500
"""Values in one statement; SQLite takes at least 999."""

# What each callback needs goes to the driver as it is: SQLAlchemy's own work on these four was nine tenths of what
# storing a callback and its attempt cost, 0.9 ms of 1.0 (`make bench`, section rings).
_NEW = (
    *("id", "pbx", "call", "extension", "kind", "number", "client_id", "at", "linkedid", "uniqueid"),
    *("state", "attempts"),
)
_INSERT = (
    f"INSERT INTO callbacks ({', '.join(_NEW)}) VALUES ({', '.join('?' * len(_NEW))})"  # noqa: S608  # no value in it
    " ON CONFLICT (pbx, call, extension, kind) DO NOTHING"
)
_STATE = "SELECT state FROM callbacks WHERE id = ?"
_TRIED = "INSERT INTO attempts (callback_id, at, duration_s, status, outcome) VALUES (?, ?, ?, ?, ?)"
_COUNTED = "UPDATE callbacks SET attempts = attempts + 1 WHERE id = ?"
_CAME_OUT = "UPDATE callbacks SET attempts = attempts + 1, state = ?, next_attempt_at = ? WHERE id = ?"


@dataclass(frozen=True, slots=True)
class Which:
    """Which callbacks to list; all that is given must hold."""

    state: State | None = None
    extension: str | None = None
    number: str | None = None
    call: str | None = None
    """Uniqueid of the inbound leg, or linkedid."""
    since: datetime | None = None
    until: datetime | None = None
    dropped: bool = False
    """Those that were dropped by hand, instead of those that were not."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A callback and how its last attempt went."""

    delivery: Delivery
    last: Attempt | None


def clean(text: str) -> str:
    """Text that SQLite takes: a badly decoded name may hold half a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def storable(event: CallEvent) -> CallEvent:
    """The event with nothing in it that SQLite refuses."""
    return replace(
        event,
        pbx=clean(event.pbx),
        call=clean(event.call),
        extension=clean(event.extension),
        number=clean(event.number),
        client_id=clean(event.client_id),
        linkedid=clean(event.linkedid),
        uniqueid=clean(event.uniqueid),
    )


def last_id(connection: Connection) -> int:
    """The highest id ever given."""
    found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'callbacks'").scalar()
    return int(found or 0)


def last_intervention(connection: Connection) -> int:
    """The newest change by hand."""
    return connection.scalar(select(func.max(interventions.c.id))) or 0


def insert(connection: Connection, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Store these but for those whose key is there already; return those stored."""
    run = driver(connection).execute
    return [each for each in deliveries if run(_INSERT, _values(each)).rowcount == 1]


def record(connection: Connection, delivery_id: int, attempt: Attempt, state: State, next_at: datetime | None) -> bool:
    """Add an attempt and set the state; False when it was to stay queued and is not queued any more."""
    run = driver(connection).execute
    row = run(_STATE, (delivery_id,)).fetchone()
    if row is None:
        return False
    found = row[0]
    values = (delivery_id, as_text(attempt.at), attempt.duration_s, attempt.status, clean(attempt.outcome))
    run(_TRIED, values)
    taken_back = found != State.QUEUED and state in {State.QUEUED, State.EXPIRED}
    if taken_back:
        run(_COUNTED, (delivery_id,))
    else:
        run(_CAME_OUT, (state.value, None if next_at is None else as_text(next_at), delivery_id))
    return not taken_back


def expire(connection: Connection, ids: Iterable[int]) -> None:
    """Queued ones are too old."""
    for chunk in _chunks(ids):
        connection.execute(
            callbacks.update()
            .where(callbacks.c.id.in_(chunk), callbacks.c.state == State.QUEUED.value)
            .values(state=State.EXPIRED.value, next_attempt_at=None)
        )


def retry(connection: Connection, delivery_id: int, at: datetime) -> bool:
    """Queue again what is not queued."""
    changed = connection.execute(
        callbacks.update()
        .where(
            callbacks.c.id == delivery_id,
            callbacks.c.state != State.QUEUED.value,
            or_(callbacks.c.state != State.CONFIRMED.value, callbacks.c.dropped_at.is_not(None)),
        )
        .values(state=State.QUEUED.value, attempts=0, next_attempt_at=None, requeued_at=at, dropped_at=None)
    )
    return _intervened(connection, changed.rowcount, delivery_id, at, "retry")


def drop(connection: Connection, delivery_id: int, at: datetime) -> bool:
    """List it no more, and if it is queued, send it no more."""
    this = callbacks.c.id == delivery_id
    connection.execute(
        callbacks.update()
        .where(this, callbacks.c.state == State.QUEUED.value)
        .values(state=State.EXPIRED.value, next_attempt_at=None)
    )
    changed = connection.execute(callbacks.update().where(this, callbacks.c.dropped_at.is_(None)).values(dropped_at=at))
    return _intervened(connection, changed.rowcount, delivery_id, at, "drop")


def prune(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to so many of the oldest from before then that are not queued, with their attempts."""
    left = limit
    for state in (state for state in State if state is not State.QUEUED):  # each by itself: so the index serves
        old = select(callbacks.c.id).where(callbacks.c.state == state.value, callbacks.c.at < before)
        left -= _delete(connection, old.order_by(callbacks.c.at).limit(left))
    newest = select(func.max(interventions.c.id)).scalar_subquery()
    connection.execute(interventions.delete().where(interventions.c.at < before, interventions.c.id < newest))
    return limit - left


def prune_oldest(connection: Connection, limit: int) -> int:
    """Delete up to so many of the oldest that are not queued, with their attempts."""
    old = select(callbacks.c.id).where(callbacks.c.state != State.QUEUED.value)
    return _delete(connection, old.order_by(callbacks.c.id).limit(limit))


def used_bytes(connection: Connection) -> int:
    """How much of the file is in use; what is free in it is used before it grows."""
    pages, free, size = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def shrink(connection: Connection, pages: int) -> None:
    """Give up to so many free pages back to the disk; in a file that was not made for that, they stay to be reused."""
    free = int(connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0)
    for _ in range(min(pages, free)):
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")  # Python's sqlite3 stops after the first page anyway


def _delete(connection: Connection, which: Select[tuple[int]]) -> int:
    return connection.execute(callbacks.delete().where(callbacks.c.id.in_(which))).rowcount


def waiting(connection: Connection) -> list[Delivery]:
    """All that are queued, in the order of their ids."""
    query = select(callbacks).where(callbacks.c.state == State.QUEUED.value).order_by(callbacks.c.id)
    return [_delivery(row) for row in connection.execute(query)]


def changes(connection: Connection, seen: int) -> tuple[int, list[Delivery] | None]:
    """The newest change by hand; and all that are queued, if it is newer than `seen`."""
    newest = last_intervention(connection)
    return newest, waiting(connection) if newest > seen else None


def known(connection: Connection, pbx: str, calls: Collection[str]) -> set[Key]:
    """The keys of these calls that are there."""
    found: set[Key] = set()
    columns = (callbacks.c.pbx, callbacks.c.call, callbacks.c.extension, callbacks.c.kind)
    for chunk in _chunks(calls):
        query = select(*columns).where(callbacks.c.pbx == clean(pbx), callbacks.c.call.in_(chunk))
        found.update((row[0], row[1], row[2], row[3]) for row in connection.execute(query))
    return found


def counts(connection: Connection) -> dict[State, int]:
    """How many in each state, 0 included; without dropped ones."""
    query = select(callbacks.c.state, func.count()).where(callbacks.c.dropped_at.is_(None))
    found = {row[0]: int(row[1]) for row in connection.execute(query.group_by(callbacks.c.state))}
    return {state: found.get(state.value, 0) for state in State}


def listing(connection: Connection, which: Which, limit: int) -> list[Listed]:
    """Callbacks with their last attempt, newest first."""
    newest = (
        select(func.max(tries.c.id)).where(tries.c.callback_id == callbacks.c.id).scalar_subquery().correlate(callbacks)
    )
    query = select(
        callbacks,
        tries.c.at.label("tried_at"),
        tries.c.duration_s,
        tries.c.status,
        tries.c.outcome,
    ).select_from(callbacks.outerjoin(tries, tries.c.id == newest))
    rows = connection.execute(_narrowed(query, which).order_by(callbacks.c.id.desc()).limit(limit))
    return [Listed(_delivery(row), _last(row)) for row in rows]


def events(connection: Connection, which: Which, limit: int) -> list[CallEvent]:
    """What callbacks are about, newest first. A daemon that starts reads thousands, and needs no more of them."""
    columns = [callbacks.c[field.name] for field in fields(CallEvent)]
    rows = connection.execute(_narrowed(select(*columns), which).order_by(callbacks.c.id.desc()).limit(limit))
    return [CallEvent(Kind(kind), *rest) for kind, *rest in rows]


def attempts(connection: Connection, delivery_id: int) -> list[Attempt]:
    """Every try to deliver this one, oldest first."""
    query = select(tries.c.at, tries.c.duration_s, tries.c.status, tries.c.outcome)
    rows = connection.execute(query.where(tries.c.callback_id == delivery_id).order_by(tries.c.id))
    return [Attempt(row.at, row.duration_s, row.status, row.outcome) for row in rows]


def _narrowed(query: Select[Any], which: Which) -> Select[Any]:
    columns = callbacks.c
    equal = ((columns.state, which.state), (columns.extension, which.extension), (columns.number, which.number))
    wanted = [column == value for column, value in equal if value is not None]
    if which.call is not None:
        wanted.append(or_(columns.call == which.call, columns.linkedid == which.call))
    if which.since is not None:
        wanted.append(columns.at >= which.since)
    if which.until is not None:
        wanted.append(columns.at < which.until)
    dropped = columns.dropped_at.is_not(None) if which.dropped else columns.dropped_at.is_(None)
    return query.where(and_(dropped, *wanted))


def _intervened(connection: Connection, changed: int, delivery_id: int, at: datetime, what: str) -> bool:
    if changed:
        connection.execute(interventions.insert().values(at=at, callback_id=delivery_id, what=what))
    return changed > 0


def _values(delivery: Delivery) -> tuple[object, ...]:
    """In the order of `_NEW`."""
    event = delivery.event
    return (
        delivery.id,
        event.pbx,
        event.call,
        event.extension,
        event.kind.value,
        event.number,
        event.client_id,
        as_text(event.at),
        event.linkedid,
        event.uniqueid,
        delivery.state.value,
        delivery.attempts,
    )


def _delivery(row: Row[Any]) -> Delivery:
    event = CallEvent(
        kind=Kind(row.kind),
        pbx=row.pbx,
        call=row.call,
        extension=row.extension,
        number=row.number,
        client_id=row.client_id,
        at=row.at,
        linkedid=row.linkedid,
        uniqueid=row.uniqueid,
    )
    return Delivery(row.id, event, State(row.state), row.attempts, row.next_attempt_at, row.requeued_at)


def _last(row: Row[Any]) -> Attempt | None:
    if row.tried_at is None:
        return None
    return Attempt(row.tried_at, row.duration_s, row.status, row.outcome)


def _chunks(items: Iterable[Any]) -> Iterable[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk

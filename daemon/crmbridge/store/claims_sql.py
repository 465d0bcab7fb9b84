"""The table of claims, and each statement on it, over the driver itself: a popup waits for them.

Statements only: connections, time limits and batches are claims.py's. Chosen so that no claim has two winners, on one
server or on two nodes of a Galera cluster: a row is inserted without IGNORE, or updated where its version still is the
one that was seen; what the server says of it is believed only when the commit is answered; and whatever goes wrong in
between, it is read anew. Galera's own second try (`wsrep_retry_autocommit`) is off: we look again before we try again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table

from crmbridge.calls.claims import FREE, Insert, Judge, Row, Step, Take
from crmbridge.store.migration import VERSIONS
from crmbridge.store.quick import LostError, errors
from crmbridge.store.schema import Schema, Utc, mysql_code

if TYPE_CHECKING:  # see servers.py
    import asyncmy

_TABLES = MetaData()
_ASCII: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "ascii", "mysql_collate": "ascii_bin"}

claims = Table(
    "claims",
    _TABLES,
    Column("claim", String(32), primary_key=True),
    Column("bridge", String(32), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("told", String(32), nullable=False),
    Column("changed_at", Utc, nullable=False),
    Index("claims_by_change", "changed_at"),
    **_ASCII,
)
bridges = Table(
    "bridges",
    _TABLES,
    Column("bridge", String(32), primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("seen_at", Utc, nullable=False),
    **_ASCII,
)
SCHEMA = Schema("claims", _TABLES)

_DUPLICATE = 1062  # ER_DUP_ENTRY
_NO_TABLE = 1146  # ER_NO_SUCH_TABLE
_NOW = "UTC_TIMESTAMP(6)"
_FIND = (
    f"SELECT claim, bridge, token, version, told, TIMESTAMPDIFF(MICROSECOND, changed_at, {_NOW}) FROM claims"  # noqa: S608
    " WHERE claim IN "
)
_COLUMNS = "INSERT INTO claims (claim, bridge, token, version, told, changed_at) VALUES "


@dataclass(frozen=True, slots=True)
class Us:
    """This start of this bridge."""

    bridge: str
    token: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What is asked of the database together."""

    wanted: Mapping[str, Judge] = field(default_factory=dict)
    """Keys of claims, and who says what to do about each."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Keys, and what came of them."""
    let_go: Sequence[str] = ()


async def is_up_to_date(connection: asyncmy.Connection) -> bool:
    """Whether the tables are there, and as they are now."""
    async with connection.cursor() as cursor:
        try:
            await cursor.execute(f"SELECT version FROM {VERSIONS} WHERE component = %s", [SCHEMA.component])  # noqa: S608
            found = await cursor.fetchone()
            for table in _TABLES.sorted_tables:
                await cursor.execute(f"SELECT 1 FROM {table.name} LIMIT 0")  # noqa: S608
        except errors() as error:
            if mysql_code(error) == _NO_TABLE:
                return False
            raise
    return found is not None and int(found[0]) == SCHEMA.version


async def put_through(
    connection: asyncmy.Connection, us: Us, batch: Batch, clock: Callable[[], float]
) -> dict[str, Step]:
    """Do all of it, or raise; what was to be done about each wanted claim is done then.

    May be done again after whatever error, once the connection is rolled back, or on another one. Raises LostError
    where another bridge was quicker with one of the claims.
    """
    async with connection.cursor() as cursor:
        steps: dict[str, Step] = {}
        if batch.wanted:
            found = await _found(cursor, batch.wanted)
            now = clock()
            steps = {key: judge(found.get(key), now) for key, judge in batch.wanted.items()}
        writes = _writes(us, batch, steps)
        if not writes:
            return steps
        async with _whole(cursor, len(writes)):
            for statement, values, rows in writes:
                await _write(cursor, statement, values, rows)
        return steps


async def _found(cursor: Any, keys: Iterable[str]) -> dict[str, Row]:  # noqa: ANN401  # asyncmy's
    wanted = sorted(keys)
    await cursor.execute(_FIND + _marks(wanted), wanted)
    return {
        key: Row(bridge, token, version, told, age / 1e6)
        for key, bridge, token, version, told, age in await cursor.fetchall()
    }


def _writes(us: Us, batch: Batch, steps: Mapping[str, Step]) -> list[tuple[str, list[Any], int | None]]:
    """Statements, their values, and of how many rows each must change where that matters.

    Keys in order: two bridges that want the same rows then wait for each other, and don't get into a deadlock.
    """
    writes: list[tuple[str, list[Any], int | None]] = []
    for how in sorted(set(batch.told.values())):
        keys = sorted(key for key, told in batch.told.items() if told == how)
        row = f"(%s, %s, %s, 1, %s, {_NOW})"
        known = f"bridge = %s, token = %s, version = version + 1, told = %s, changed_at = {_NOW}"
        statement = f"{_COLUMNS}{', '.join([row] * len(keys))} ON DUPLICATE KEY UPDATE {known}"
        ours = [us.bridge, us.token, how]
        writes.append((statement, [value for key in keys for value in (key, *ours)] + ours, None))
    if batch.let_go:
        keys = sorted(batch.let_go)
        free = f"UPDATE claims SET token = {FREE}, version = version + 1, changed_at = {_NOW}"  # noqa: S608
        writes.append((f"{free} WHERE token = %s AND told = '' AND claim IN {_marks(keys)}", [us.token, *keys], None))
    if takes := sorted((key, step.version) for key, step in steps.items() if isinstance(step, Take)):
        take = f"UPDATE claims SET bridge = %s, token = %s, version = version + 1, told = '', changed_at = {_NOW}"  # noqa: S608
        pairs = ", ".join(["(%s, %s)"] * len(takes))
        values = [us.bridge, us.token, *(value for pair in takes for value in pair)]
        writes.append((f"{take} WHERE (claim, version) IN ({pairs})", values, len(takes)))
    if keys := sorted(key for key, step in steps.items() if isinstance(step, Insert)):
        rows = ", ".join([f"(%s, %s, %s, 1, '', {_NOW})"] * len(keys))
        writes.append((_COLUMNS + rows, [value for key in keys for value in (key, us.bridge, us.token)], None))
    return writes


@asynccontextmanager
async def _whole(cursor: Any, statements: int) -> AsyncIterator[None]:  # noqa: ANN401  # asyncmy's
    """All or none; one statement by itself is that already, and takes two round trips less."""
    if statements == 1:
        yield
        return
    await cursor.execute("BEGIN")
    yield
    await cursor.execute("COMMIT")


async def _write(cursor: Any, statement: str, values: list[Any], rows: int | None) -> None:  # noqa: ANN401  # asyncmy's
    try:
        changed = await cursor.execute(statement, values)
    except errors() as error:
        if mysql_code(error) == _DUPLICATE:
            raise LostError from None
        raise
    if rows is not None and changed != rows:
        raise LostError


async def beat(connection: asyncmy.Connection, us: Us) -> int | None:
    """Say that we live; the token that was there before under our name, None where there was none."""
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT token FROM bridges WHERE bridge = %s", [us.bridge])
        before = await cursor.fetchone()
        await cursor.execute(
            f"INSERT INTO bridges (bridge, token, seen_at) VALUES (%s, %s, {_NOW})"  # noqa: S608
            f" ON DUPLICATE KEY UPDATE token = %s, seen_at = {_NOW}",
            [us.bridge, us.token, us.token],
        )
    return int(before[0]) if before else None


async def try_out(connection: asyncmy.Connection, us: Us) -> tuple[float, dict[str, float]]:
    """Claim what is nothing, and take that back: how many seconds it took, and ago each bridge was heard of last."""
    key = f"tried by {us.token:x}"[:32]
    began = time.monotonic()
    await put_through(connection, us, Batch({key: lambda row, now: Insert()}), time.monotonic)  # noqa: ARG005  # of any
    took_s = time.monotonic() - began
    async with connection.cursor() as cursor:
        await cursor.execute("DELETE FROM claims WHERE claim = %s", [key])
    return took_s, await seen(connection)


async def seen(connection: asyncmy.Connection) -> dict[str, float]:
    """How many seconds ago each bridge was heard of last."""
    async with connection.cursor() as cursor:
        await cursor.execute(f"SELECT bridge, TIMESTAMPDIFF(MICROSECOND, seen_at, {_NOW}) FROM bridges")  # noqa: S608
        return {str(bridge): age / 1e6 for bridge, age in await cursor.fetchall()}


async def prune(connection: asyncmy.Connection, before_s: float, limit: int) -> int:
    """Delete up to so many that were changed last longer ago than that; how many."""
    async with connection.cursor() as cursor:
        old = f"changed_at < {_NOW} - INTERVAL %s SECOND"
        await cursor.execute(f"SELECT claim FROM claims WHERE {old} LIMIT {limit}", [int(before_s)])  # noqa: S608
        keys = sorted(key for (key,) in await cursor.fetchall())
        if keys:
            delete = f"DELETE FROM claims WHERE claim IN {_marks(keys)} AND {old}"  # noqa: S608
            await cursor.execute(delete, [*keys, int(before_s)])
        return len(keys)


def _marks(values: Sequence[object]) -> str:
    return f"({', '.join(['%s'] * len(values))})"

"""How the call list is written: each function is a part of one transaction.

All that is done to a PBX's calls is done in turns: its row in `turns` is written first, which makes another writer
wait, and makes two nodes of a Galera cluster see that they collide, since Galera compares what was written, not what
was locked. So what is read here stays true until the commit. In SQLite there is one writer at a time anyway.

Statements go to the driver as they are: a bulk load has 10 µs for a line, which is less than SQLAlchemy's own
work on an insert. `REPLACE` means the same to both kinds of database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from sqlalchemy import Table

from crmbridge.calls.cdr import LONGEST_PATH, MAX_LENGTH, Cdr
from crmbridge.calls.history import CallRow
from crmbridge.calls.identity import lines, number_id
from crmbridge.store import call_tables
from crmbridge.store.async_engine import AsyncConnection
from crmbridge.store.call_numbers import LONGEST_NUMBER, Numbers

Line = tuple[Any, ...]
"""A row of `calls`, in the order of its columns."""

AT_ONCE = 900
"""Values in one IN: from 1,000 on MariaDB turns it into a join with a table that it must make first."""

_LINE = call_tables.calls.columns.keys()
_RECORD = call_tables.cdrs.columns.keys()
_START = _RECORD.index("start_epoch_s")


def statement(connection: AsyncConnection, sql: str) -> str:
    """The same with the driver's own marks for values; ours is `?`."""
    return sql if connection.dialect.name == "sqlite" else sql.replace("?", "%s")


def values(table: Table) -> str:
    """What an INSERT or REPLACE says after INTO."""
    names = table.columns.keys()
    return f"{table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def _insert_new(connection: AsyncConnection, table: Table) -> str:
    """What is there already stays as it is. Not INSERT IGNORE: MySQL tells each row of that in a warning."""
    key = next(iter(table.primary_key.columns)).name
    update = f"ON CONFLICT DO UPDATE SET {key} = {key}" if connection.dialect.name == "sqlite" else ""
    return f"INSERT INTO {values(table)} {update or f'ON DUPLICATE KEY UPDATE {key} = {key}'}"


async def take_turn(connection: AsyncConnection, pbx: str) -> int:
    """Wait until nobody else writes this PBX's calls; how often numbers were pruned so far."""
    conflict = "ON CONFLICT DO UPDATE SET" if connection.dialect.name == "sqlite" else "ON DUPLICATE KEY UPDATE"
    sql = f"INSERT INTO turns (pbx, turn, prunings) VALUES (?, 1, 0) {conflict} turn = turn + 1"  # noqa: S608  # no value in it
    await connection.exec_driver_sql(statement(connection, sql), (pbx,))
    sql = statement(connection, "SELECT prunings FROM turns WHERE pbx = ?")
    return int((await connection.exec_driver_sql(sql, (pbx,))).scalar_one())


async def take_up(
    connection: AsyncConnection,
    pbx: str,
    records: Sequence[Cdr],
    rows: Callable[[Iterable[Cdr]], list[CallRow]],
    *,
    anew: bool = False,
) -> tuple[int, dict[str, list[CallRow]]]:
    """Store these records of one PBX; how many are new, and the lines of the calls that have new ones.

    `anew`: they stand in the place of those that are there, and all count as new.
    """
    found = await _of_calls(connection, "cdrs", _RECORD, pbx, {one.linkedid for one in records})
    stored = {one.key: one for one in map(_record, found)}
    new = {one.key: one for one in records if anew or one.key not in stored}
    if not new:
        return 0, {}
    into = f"REPLACE INTO {values(call_tables.cdrs)}" if anew else _insert_new(connection, call_tables.cdrs)
    sql = statement(connection, into)
    await connection.exec_driver_sql(sql, [_stored(one) for one in new.values()])
    changed: dict[str, list[Cdr]] = {one.linkedid: [] for one in new.values()}
    for one in (stored | new).values():
        if one.linkedid in changed:
            changed[one.linkedid].append(one)
    return len(new), {linkedid: rows(cdrs) for linkedid, cdrs in changed.items()}


async def put_lines(
    connection: AsyncConnection,
    pbx: str,
    calls: Mapping[str, Sequence[CallRow]],
    known: Numbers,
    timezone: tzinfo,
) -> tuple[int, Numbers]:
    """Have these calls consist of these lines, and write no more than what differs; how many lines that were.

    Also the numbers that are in the dictionary now and were not `known` to be.
    """
    new: Numbers = {}
    present = {line[:3]: line for line in await _of_calls(connection, "calls", _LINE, pbx, calls)}
    wanted = {line[:3]: line for line in _lines(calls, known, new, timezone)}
    written = [line for key, line in wanted.items() if present.get(key) != line]
    gone = [key for key in present if key not in wanted]
    if new:
        sql = statement(connection, _insert_new(connection, call_tables.numbers))
        # In everybody's order, so that two PBXes' writers don't wait for each other in a ring.
        rows = sorted((id_, number[:LONGEST_NUMBER], key[:LONGEST_NUMBER]) for (number, key), id_ in new.items())
        await connection.exec_driver_sql(sql, rows)
    if gone:
        await delete_lines(connection, gone)
    if written:
        await connection.exec_driver_sql(statement(connection, f"REPLACE INTO {values(call_tables.calls)}"), written)
    return len(written) + len(gone), new


async def delete_lines(connection: AsyncConnection, keys: list[Line]) -> None:
    """Delete lines by their primary keys."""
    sql = statement(connection, "DELETE FROM calls WHERE number_id = ? AND epoch_s = ? AND id = ?")
    await connection.exec_driver_sql(sql, keys)


def wall(at: datetime, timezone: tzinfo) -> str:
    """What the PBX's clock shows, as SQL's DATETIME."""
    return at.astimezone(timezone).isoformat(" ")[:19]


def _lines(calls: Mapping[str, Sequence[CallRow]], known: Numbers, new: Numbers, timezone: tzinfo) -> Iterator[Line]:
    for rows in calls.values():
        for id_, row in lines(rows):
            number = (row.number, row.number_key)
            yield (
                known.get(number) or new.get(number) or new.setdefault(number, number_id(*number)),
                int(row.started_at.timestamp()),
                id_,
                row.pbx,
                row.linkedid,
                row.client_id[:MAX_LENGTH],
                row.extension[:MAX_LENGTH],
                wall(row.started_at, timezone),
                row.talk_s,
                row.filename[:LONGEST_PATH],
                int(row.incoming),
            )


async def _of_calls(
    connection: AsyncConnection, table: str, columns: Sequence[str], pbx: str, linkedids: Iterable[str]
) -> list[Line]:
    """The rows of these calls, as they will be compared."""
    mysql = connection.dialect.name != "sqlite"
    # While a table fills, the server's statistics are of when it was small, and it would read all of it.
    index = " FORCE INDEX (calls_by_call)" if mysql and table == "calls" else ""
    shown = ", ".join("CAST(time AS CHAR)" if mysql and name == "time" else name for name in columns)
    every, found = list(linkedids), []
    for start in range(0, len(every), AT_ONCE):
        some = every[start : start + AT_ONCE]
        marks = ", ".join("?" * len(some))
        sql = f"SELECT {shown} FROM {table}{index} WHERE pbx = ? AND linkedid IN ({marks})"  # noqa: S608
        result = await connection.exec_driver_sql(statement(connection, sql), (pbx, *some))
        found += [tuple(row) for row in result]
    return found


def _record(row: Line) -> Cdr:
    start_at = datetime.fromtimestamp(row[_START], UTC)
    return Cdr._make(start_at if n == _START else value for n, value in enumerate(row))


def _stored(one: Cdr) -> Line:
    return one._replace(start_at=int(one.start_at.timestamp()))  # type: ignore[arg-type]  # as `cdrs` has it

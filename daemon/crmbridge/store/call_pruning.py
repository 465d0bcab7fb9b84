"""How the call list is kept from growing: records and lines that are too old, a few at a time.

Each step is a short transaction, found by an index, so that neither a lookup nor a replica nor a Galera cluster waits.
"""

from __future__ import annotations

from crmbridge.store.async_engine import AsyncConnection
from crmbridge.store.call_writes import delete_lines, statement, take_turn

STEP = 500
"""Rows deleted in one transaction."""

_UNUSED = "NOT EXISTS (SELECT 1 FROM calls c WHERE c.number_id = numbers.id)"


async def prune_records(connection: AsyncConnection, pbx: str, before_epoch_s: int) -> int:
    """Delete up to so many of a PBX's records that began before then, and those of the same second; how many."""
    await take_turn(connection, pbx)
    which = "FROM cdrs WHERE pbx = ? AND start_epoch_s < ?"
    newest = f"SELECT start_epoch_s {which} ORDER BY start_epoch_s LIMIT 1 OFFSET {STEP - 1}"
    found = await connection.exec_driver_sql(statement(connection, newest), (pbx, before_epoch_s))
    last = found.scalar()
    until = before_epoch_s if last is None else min(last + 1, before_epoch_s)
    deleted = await connection.exec_driver_sql(statement(connection, f"DELETE {which}"), (pbx, until))
    return deleted.rowcount


async def prune_calls(connection: AsyncConnection, before: str) -> int:
    """Delete up to so many lines from before this wall time, and the numbers that have none left; how many lines."""
    oldest = f"SELECT number_id, epoch_s, id FROM calls WHERE time < ? ORDER BY time LIMIT {STEP}"  # noqa: S608
    if not await _lines(connection, oldest, before):
        return 0
    for pbx in (await connection.exec_driver_sql("SELECT pbx FROM turns ORDER BY pbx")).scalars().all():
        await take_turn(connection, pbx)
    keys = await _lines(connection, oldest, before)
    if not keys:
        return 0
    await delete_lines(connection, keys)
    ids = sorted({key[0] for key in keys})
    marks = ", ".join("?" * len(ids))
    sql = statement(connection, f"DELETE FROM numbers WHERE id IN ({marks}) AND {_UNUSED}")  # noqa: S608
    if (await connection.exec_driver_sql(sql, tuple(ids))).rowcount:
        # Who writes next must not take for granted that they are there (call_numbers).
        await connection.exec_driver_sql("UPDATE turns SET prunings = prunings + 1")
    return len(keys)


async def _lines(connection: AsyncConnection, query: str, before: str) -> list[tuple[int, int, int]]:
    found = await connection.exec_driver_sql(statement(connection, query), (before,))
    return [tuple(row) for row in found]

"""What can still be read of a damaged SQLite file, row by row.

SQLite stops at the first damaged page. Here the rows before it and behind it are read, too, and what is not of the kind
that its column must hold is left out. The file itself is opened for reading only and stays as it is. It must not know
what the rows are for.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Column, Connection, Float, Integer, Table
from sqlalchemy.exc import IntegrityError

from crmbridge.store.schema import Schema, Utc

MOST_ROWS = 100_000
"""Of each table the newest; some 100 MB in memory."""

_HIGHEST = 1 << 48
"""No rowid of ours is beyond it."""

Row = tuple[object, ...]


class Salvaged:
    """The rows of a file, by table; columns in `columns`' order."""

    def __init__(self) -> None:
        self.columns: dict[str, list[str]] = {}
        self.rows: dict[str, list[Row]] = {}
        self.sequences: dict[str, int] = {}
        """The highest id that each table ever gave."""


def read(path: Path, schemas: Sequence[Schema], most: int = MOST_ROWS) -> Salvaged:
    """Read what can be read of these tables. Blocks: seconds for a file of a GB."""
    found = Salvaged()
    if not path.stat().st_size:
        return found  # SQLite would delete its write-ahead log, though it only reads
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA writable_schema = ON")  # else a file that was cut off can't be read at all
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        with suppress(sqlite3.Error):
            for name, highest in connection.execute("SELECT name, seq FROM sqlite_sequence"):
                if isinstance(highest, int) and 0 <= highest < _HIGHEST:
                    found.sequences[name] = highest
        for schema in schemas:
            for table in schema.tables.sorted_tables:
                _read_table(connection, table, schema.values, most, found)
    return found


def write(connection: Connection, found: Salvaged, schemas: Sequence[Schema]) -> dict[str, int]:
    """Put the rows into these (new) tables; how many of each."""
    counts = {}
    for table in (table for schema in schemas for table in schema.tables.sorted_tables):
        # Each by itself: what can't be put into one table must not cost the others.
        with suppress(IntegrityError), connection.begin_nested():
            counts[table.name] = _write_table(connection, table, found)
    for name, highest in found.sequences.items():
        changed = connection.exec_driver_sql(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (highest, name)
        )
        if not changed.rowcount:
            connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, highest))
    return counts


def _write_table(connection: Connection, table: Table, found: Salvaged) -> int:
    columns, rows = found.columns.get(table.name, []), _with_parents(table, found)
    if not columns or not rows:
        return 0
    names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
    connection.exec_driver_sql(f'INSERT OR IGNORE INTO "{table.name}" ({names}) VALUES ({marks})', rows)  # noqa: S608
    return len(rows)


def _read_table(
    connection: sqlite3.Connection, table: Table, values: Mapping[str, object], most: int, found: Salvaged
) -> None:
    with suppress(sqlite3.Error):
        there = {row[1] for row in connection.execute(f'PRAGMA table_info("{table.name}")')}
        columns = [column for column in table.columns if column.name in there]
        if not columns:
            return
        allowed = [values.get(f"{table.name}.{column.name}") for column in columns]
        kept: deque[Row] = deque(maxlen=most)
        names = [column.name for column in columns]
        has_rowid = table.dialect_options["sqlite"]["with_rowid"]
        for row in _rows(connection, table.name, names) if has_rowid else _ordered_rows(connection, table, names):
            if all(_fits(*each) for each in zip(columns, row, allowed, strict=True)):
                kept.append(row)
        found.columns[table.name] = [column.name for column in columns]
        found.rows[table.name] = list(kept)


def _rows(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> Iterator[Row]:
    """All rows that can be read, those behind a damaged page first backwards up to it, then onwards."""
    names = ", ".join(f'"{name}"' for name in columns)
    onwards = f'SELECT rowid, {names} FROM "{table}" WHERE rowid >= ? ORDER BY rowid'  # noqa: S608
    back = f'SELECT rowid, {names} FROM "{table}" WHERE rowid >= ? AND rowid < ? ORDER BY rowid DESC'  # noqa: S608
    low = 0
    while low < _HIGHEST:
        try:
            for row in connection.execute(onwards, (low,)):
                yield row[1:]
                low = row[0] + 1
        except sqlite3.Error:
            beyond = _beyond(connection, table, low)
        else:
            return
        with suppress(sqlite3.Error):
            for row in connection.execute(back, (low, beyond)):
                yield row[1:]
        low = beyond


def _ordered_rows(connection: sqlite3.Connection, table: Table, columns: Sequence[str]) -> Iterator[Row]:
    """Those of a table without rowids: up to the first damaged page, then from the other end to the last one."""
    every = f'SELECT {", ".join(columns)} FROM "{table.name}" ORDER BY '  # noqa: S608
    try:
        yield from connection.execute(every + ", ".join(column.name for column in table.primary_key))
    except sqlite3.Error:
        with suppress(sqlite3.Error):
            yield from connection.execute(every + ", ".join(f"{column.name} DESC" for column in table.primary_key))


def _beyond(connection: sqlite3.Connection, table: str, low: int) -> int:
    """A rowid above this one from which on rows can be found again."""
    step = 1
    while low + step < _HIGHEST:
        with suppress(sqlite3.Error):
            connection.execute(f'SELECT rowid FROM "{table}" WHERE rowid >= ? LIMIT 1', (low + step,)).fetchone()  # noqa: S608
            break
        step *= 2
    return low + step


def _fits(column: Column[object], value: object, allowed: object) -> bool:
    if value is None:
        return bool(column.nullable)
    if isinstance(column.type, Utc):
        return isinstance(value, str) and _is_instant(value)
    if isinstance(column.type, Integer):  # Boolean too, in SQLite
        return isinstance(value, int)
    if isinstance(column.type, Float):
        return isinstance(value, int | float)
    if isinstance(allowed, Sequence) and value not in allowed:
        return False
    return not isinstance(value, bytes)


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _with_parents(table: Table, found: Salvaged) -> list[Row]:
    """The rows without those that belong to a row that is lost."""
    rows = found.rows.get(table.name, [])
    for key in table.foreign_keys:
        parent, columns = key.column.table.name, found.columns.get(table.name, [])
        if parent not in found.columns or key.parent.name not in columns:
            return []
        at, own = found.columns[parent].index(key.column.name), columns.index(key.parent.name)
        there = {row[at] for row in found.rows[parent]}
        rows = [row for row in rows if row[own] in there]
    return rows

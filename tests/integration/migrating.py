"""A database with two upgrades before it, and the next version of our own tables, as a later crmbridge may have them.

As a program, one that is killed in the middle of an upgrade.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, event, text

from crmbridge.store.engine import apply, open_sqlite
from crmbridge.store.schema import Addition, Schema, add_column, create

ROWS = 5000
SUMS = (sum(2 * n for n in range(ROWS)), sum(3 * n for n in range(ROWS)))
MOMENTS = ("in the first step", "between the steps", "in the second step", "before the commit", "after the commit")

Step = Callable[[Connection], None]


def tables(*more: str) -> MetaData:
    """Of version 1, with columns that were added later."""
    made = MetaData()
    columns = [Column(name, Integer) for name in ("n", *more)]
    Table("things", made, Column("id", Integer, primary_key=True), *columns)
    return made


def double(connection: Connection) -> None:
    """To version 2."""
    connection.exec_driver_sql("ALTER TABLE things ADD COLUMN doubled INTEGER")
    connection.exec_driver_sql("UPDATE things SET doubled = 2 * n")


def triple(connection: Connection) -> None:
    """To version 3."""
    connection.exec_driver_sql("ALTER TABLE things ADD COLUMN tripled INTEGER")
    connection.exec_driver_sql("UPDATE things SET tripled = 3 * n")


def schema(*steps: Step) -> Schema:
    """Version 3."""
    return Schema("things", tables("doubled", "tripled"), steps or (double, triple))


def next_version(schema: Schema) -> Schema:
    """With a column more in each table, a table more, and views that show the column: programs of before go on."""
    made = MetaData()
    for table in schema.tables.sorted_tables:
        table.to_metadata(made).append_column(Column("novelty", String(64), server_default=text("'none'")))
    Table(f"{schema.component}_novelties", made, Column("id", Integer, primary_key=True), **_BINARY)

    def add(connection: Connection) -> None:
        for table in schema.tables.sorted_tables:
            add_column(connection, made.tables[table.name].c.novelty)
        create(connection, made)

    views = {name: query.replace("SELECT ", "SELECT c.novelty, ", 1) for name, query in schema.views.items()}
    return Schema(schema.component, made, (*schema.upgrades, Addition(add)), schema.values, views)


def last_version(schema: Schema, table: str, column: str) -> Schema:
    """The one after the next, in which a column has another name: programs of before must not go on."""
    before = next_version(schema)

    def rename(connection: Connection) -> None:
        connection.execute(text(f"ALTER TABLE {table} RENAME COLUMN {column} TO {column}_2"))

    return Schema(schema.component, before.tables, (*before.upgrades, rename), schema.values, before.views)


_BINARY: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def fill(file: Path) -> None:
    """Make a file of version 1."""
    engine = open_sqlite(file, [Schema("things", tables())])
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO things (n) VALUES (?)", [(n,) for n in range(ROWS)])
    engine.dispose()


def found(file: Path) -> tuple[int, int]:
    """The version that a file has, and how many rows."""
    with closing(sqlite3.connect(file)) as connection:
        (version,) = connection.execute("SELECT version FROM schema_versions").fetchone()
        (count,) = connection.execute("SELECT count(*) FROM things").fetchone()
    return int(version), int(count)


def die(*_: object) -> None:
    """As a power cut does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in(step: Step) -> Step:
    """The step, killed after it has changed all rows."""

    def killed(connection: Connection) -> None:
        step(connection)
        die()

    return killed


def killed_before(step: Step) -> Step:
    """The step, killed when it begins."""

    def killed(connection: Connection) -> None:
        die()
        step(connection)

    return killed


def main(file: Path, moment: str) -> None:
    """Upgrade, and be killed at that moment."""
    steps: dict[str, tuple[Step, ...]] = {
        "in the first step": (killed_in(double), triple),
        "between the steps": (double, killed_before(triple)),
        "in the second step": (double, killed_in(triple)),
    }
    engine: Engine = open_sqlite(file, [Schema("things", tables())])
    if moment == "before the commit":
        event.listen(engine, "commit", die)
    apply(engine, [schema(*steps.get(moment, ()))])
    die()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

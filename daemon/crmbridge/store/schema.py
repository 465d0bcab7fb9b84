"""What tables a database must have, and the steps that make an older one so.

Each part of the store brings one `Schema`: a component's name, its tables as they are now, and the steps that made them
so. Versions are counted per component, so that the outbox and the call list can lie in one database or in two, and
change separately. `migration.py` does the steps.

Programs of two versions use one database while bridges are upgraded one after another, and a program that is taken back
finds what the newer one has made. So a change is made in two releases: the first only adds (`Addition`), and programs
of the version before go on; what nobody uses any more is taken away in a later one. Rules for what is added:

- a column may be NULL or has a default, since older programs don't fill it, and REPLACE by one of them empties it
  again: what it holds can be made anew, or lies in a table of its own;
- a column or an index of a table that may be large is added without copying the table (`add_column`): in a Galera
  cluster everybody waits for DDL;
- what rows must be changed is changed later, by the program at work, some hundred at a time.

It must not know what the tables are for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Executable,
    MetaData,
    String,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable
from sqlalchemy.types import TypeDecorator, TypeEngine


class StoreError(Exception):
    """The database can't be used. The message says why, and what an administrator can do."""


class Utc(TypeDecorator[datetime]):
    """An instant: aware UTC in Python; in SQLite text of one length, so that it sorts; DATETIME(6) in MySQL."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """MySQL has a type for it that is shorter, and that people can reckon with."""
        if dialect.name == "mysql":
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(String(27))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Raise ValueError for an instant that doesn't say its time zone."""
        if value is None:
            return None
        return _utc(value) if dialect.name == "mysql" else as_text(value)

    def process_result_value(self, value: datetime | str | None, dialect: Dialect) -> datetime | None:
        """Back to aware UTC."""
        del dialect
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        return value.replace(tzinfo=UTC) if value else None


def as_text(at: datetime) -> str:
    """An aware instant as it stands in SQLite. Raises ValueError for one that doesn't say its time zone."""
    # Not strftime: it writes years before 1000 with three digits, and such text does not sort.
    return _utc(at).isoformat(timespec="microseconds") + "Z"


def _utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("an instant without a time zone can't be stored")
    return at.astimezone(UTC).replace(tzinfo=None)


class MigratingError(StoreError):
    """Another process makes the tables at this moment: soon they are there."""


Upgrade = Callable[[Connection], None]
"""One step to the next version.

Where DDL is not part of the transaction (MySQL), it must bear being run twice, and by two processes at the same time.
"""


@dataclass(frozen=True)
class Addition:
    """A step that only adds what programs of the version before it needn't know: they go on beside it."""

    step: Upgrade

    def __call__(self, connection: Connection) -> None:
        """Do the step."""
        self.step(connection)


@dataclass(frozen=True)
class Schema:
    """The tables of one component of the store."""

    component: str
    tables: MetaData
    """As they are in the current version."""
    upgrades: tuple[Upgrade, ...] = ()
    """From version 1 to 2, from 2 to 3, … Never changed once released: write the next one. One that is no `Addition`
    shuts out programs of all versions before it."""
    values: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The only texts that a column (`table.column`) may hold: what else a damaged file has there is not taken over."""
    views: Mapping[str, str] = field(default_factory=dict)
    """Name → SELECT: what others may read, where they can (MySQL)."""

    @property
    def version(self) -> int:
        """The version that this program knows."""
        return 1 + len(self.upgrades)

    @property
    def works_with(self) -> int:
        """The oldest version whose programs can go on with these tables."""
        steps = enumerate(self.upgrades, start=2)
        return max((version for version, step in steps if not isinstance(step, Addition)), default=1)


_DUPLICATE_COLUMN, _DUPLICATE_INDEX = 1060, 1061  # ER_DUP_FIELDNAME, ER_DUP_KEYNAME


def create(connection: Connection, tables: MetaData) -> None:
    """Make those tables and indexes that are not there yet.

    Whoever was killed half-way through on MySQL has left some of them; another process may be making them now.
    """
    for table in tables.sorted_tables:
        if not inspect(connection).has_table(table.name):
            connection.execute(CreateTable(table, if_not_exists=True))
        there = {index["name"] for index in inspect(connection).get_indexes(table.name)}
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in there:
                _unless(_DUPLICATE_INDEX, connection, CreateIndex(index))


def add_column(connection: Connection, column: Column[Any]) -> None:
    """Make a column of a table that is not there yet, at once, however many rows the table has."""
    if not (column.nullable or column.server_default):
        raise ValueError(f"{column} must have a default: older programs, and rows that are there, don't fill it")
    table = column.table.name
    if column.name in {one["name"] for one in inspect(connection).get_columns(table)}:
        return
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    instant = "" if connection.dialect.name == "sqlite" else ", ALGORITHM=INSTANT"
    _unless(_DUPLICATE_COLUMN, connection, text(f"ALTER TABLE {table} ADD COLUMN {definition}{instant}"))


def _unless(done: int, connection: Connection, statement: Executable) -> None:
    """`done`: the error by which MySQL says that another process has done it meanwhile."""
    try:
        connection.execute(statement)
    except DBAPIError as error:
        if mysql_code(error) != done:
            raise


def mysql_code(error: BaseException | None) -> int:
    """The number that MySQL or MariaDB gave an error, 0 where it is none of theirs."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = original.args[0] if original is not None and original.args else 0
    return code if isinstance(code, int) else 0


def lacking(connection: Connection, schemas: Iterable[Schema]) -> list[str]:
    """The tables and columns (`table.column`) that there must be and are not."""
    there = inspect(connection)
    missing: list[str] = []
    for table in (table for schema in schemas for table in schema.tables.sorted_tables):
        if not there.has_table(table.name):
            missing.append(table.name)
            continue
        columns = {column["name"] for column in there.get_columns(table.name)}
        missing += [f"{table.name}.{column.name}" for column in table.columns if column.name not in columns]
    return missing


def view_statements(schema: Schema) -> list[str]:
    """What makes its views, or makes them anew as of who runs it, with whose rights they are read."""
    return [f"CREATE OR REPLACE SQL SECURITY DEFINER VIEW {name} AS {query}" for name, query in schema.views.items()]

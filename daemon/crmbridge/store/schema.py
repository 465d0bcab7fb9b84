"""What tables a database must have, and how an older one is brought up to date.

Each part of the store brings one `Schema`: a component's name, its tables as they are now, and the steps that made them
so. A new database gets the tables as they are now; an older one gets the steps that it has not seen. Versions are
counted per component, so that the outbox and the call list can lie in one database or in two, and change separately.

It must not know what the tables are for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import randbelow
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable
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
class Schema:
    """The tables of one component of the store."""

    component: str
    tables: MetaData
    """As they are in the current version."""
    upgrades: tuple[Upgrade, ...] = ()
    """From version 1 to 2, from 2 to 3, … Never changed once released: write the next one."""
    values: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The only texts that a column (`table.column`) may hold: what else a damaged file has there is not taken over."""
    views: Mapping[str, str] = field(default_factory=dict)
    """Name → SELECT: what others may read, where they can (MySQL)."""

    @property
    def version(self) -> int:
        """The version that this program knows."""
        return 1 + len(self.upgrades)


VERSIONS = "schema_versions"
"""The table that every database of ours has."""

_DUPLICATE_INDEX = 1061  # ER_DUP_KEYNAME
CLAIM_S = 10
"""After so many seconds we take it that whoever began to make the tables was killed."""
_BEING_SET_UP = "is being set up by another crmbridge: wait a few seconds"
_TOO_OLD = f"UTC_TIMESTAMP(6) - INTERVAL {CLAIM_S} SECOND"

_versions_tables = MetaData()
_versions = Table(
    VERSIONS,
    _versions_tables,
    Column("component", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("changed_at", Utc, nullable=False),
)


def migrate(connection: Connection, schemas: Iterable[Schema], now: datetime) -> None:
    """Create or upgrade the tables. Raises StoreError when the database is of a newer version than this program."""
    create(connection, _versions_tables)
    for schema in schemas:
        _migrate_one(connection, schema, now)


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
                _create_index(connection, CreateIndex(index))


def _create_index(connection: Connection, statement: CreateIndex) -> None:
    try:
        connection.execute(statement)
    except DBAPIError as error:
        if mysql_code(error) != _DUPLICATE_INDEX:
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


def _migrate_one(connection: Connection, schema: Schema, now: datetime) -> None:
    ours = _versions.c.component == schema.component
    version = select(_versions.c.version).where(ours)
    if connection.scalar(version) == schema.version:
        return
    with nullcontext() if connection.dialect.name == "sqlite" else _claimed(connection, schema):
        _bring_up(connection, schema, connection.scalar(version), {"version": schema.version, "changed_at": now})


@contextmanager
def _claimed(connection: Connection, schema: Schema) -> Iterator[None]:
    """Be the only one to change these tables. Raises MigratingError where somebody else is.

    MariaDB bears being told to make tables by several at once, but not views: where two nodes of a Galera cluster (of
    MariaDB 10.11) each make one, both hang, and with them all that anybody writes. Galera has no GET_LOCK, so the claim
    is a row, of which one can be inserted.
    """
    claim, token = f"{schema.component}: being changed", randbelow(2**31)
    claimed = _versions.c.component == claim
    ours = claimed & (_versions.c.version == token)
    connection.execute(_versions.delete().where(claimed, _versions.c.changed_at < text(_TOO_OLD)))
    try:
        connection.execute(_versions.insert().values(component=claim, version=token, changed_at=func.utc_timestamp(6)))
        connection.exec_driver_sql("COMMIT")
    except IntegrityError:
        raise MigratingError(_BEING_SET_UP) from None
    if _seen_by_all(connection, select(_versions.c.version).where(claimed)) != token:
        raise MigratingError(_BEING_SET_UP)  # two nodes took both for the first
    try:
        yield
    except BaseException:
        with suppress(SQLAlchemyError):  # where the connection is gone, the claim ends by itself
            connection.execute(_versions.delete().where(ours))
            connection.exec_driver_sql("COMMIT")
        raise
    connection.execute(_versions.delete().where(ours))


def _seen_by_all(connection: Connection, query: Select[Any]) -> int | None:
    """What a query finds once a node of a cluster has taken in all that was committed before, on whatever node."""
    setting = "SET SESSION wsrep_sync_wait ="
    with suppress(DBAPIError):  # MySQL has no such setting
        connection.exec_driver_sql(f"{setting} 1")
    found: int | None = connection.scalar(query)
    with suppress(DBAPIError):
        connection.exec_driver_sql(f"{setting} DEFAULT")
    return found


def _bring_up(connection: Connection, schema: Schema, found: int | None, stamp: Mapping[str, object]) -> None:
    ours = _versions.c.component == schema.component
    if found is None:
        create(connection, schema.tables)
        _create_views(connection, schema)
        with suppress(IntegrityError):  # another process was quicker
            connection.execute(_versions.insert().values(component=schema.component, **stamp))
    elif found > schema.version:
        raise StoreError(
            f"was written by a newer crmbridge ({schema.component} version {found}, this one knows up to "
            f"{schema.version}): install the newer crmbridge again, or start with another database"
        )
    elif found < schema.version:
        for upgrade in schema.upgrades[found - 1 :]:
            upgrade(connection)
        _create_views(connection, schema)
        connection.execute(_versions.update().where(ours).values(**stamp))


def _create_views(connection: Connection, schema: Schema) -> None:
    if connection.dialect.name == "sqlite":
        return
    for statement in view_statements(schema):
        connection.exec_driver_sql(statement)


def view_statements(schema: Schema) -> list[str]:
    """What makes its views, or makes them anew as of who runs it, with whose rights they are read."""
    return [f"CREATE OR REPLACE SQL SECURITY DEFINER VIEW {name} AS {query}" for name, query in schema.views.items()]

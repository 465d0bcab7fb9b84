"""How a database is brought up to date, by one process at a time, while others use it.

A new database gets the tables as they are now; an older one gets the steps that it has not seen. With its version it is
written down from which version on programs can use it, so that one that is older, but not too old, goes on with what a
newer one has made, and leaves it as it is. Bridges are upgraded one after another like this, and one can be taken back.

It must not know what the tables are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from secrets import randbelow
from typing import Any

import structlog
from sqlalchemy import Column, Connection, Integer, MetaData, Select, String, Table, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from crmbridge.store.schema import MigratingError, Schema, StoreError, Utc, add_column, create, view_statements

log = structlog.get_logger("crmbridge.store")

VERSIONS = "schema_versions"
"""The table that every database of ours has."""

CLAIM_S = 10
"""After so many seconds we take it that whoever began to make the tables was killed."""
BEING_SET_UP = "is being set up by another crmbridge: wait a few seconds"
_TOO_OLD = f"UTC_TIMESTAMP(6) - INTERVAL {CLAIM_S} SECOND"

_versions_tables = MetaData()
_versions = Table(
    VERSIONS,
    _versions_tables,
    Column("component", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("changed_at", Utc, nullable=False),
    # The oldest version whose programs can use it; NULL, as databases of the first crmbridge have it: none is older.
    Column("works_with", Integer),
)


def migrate(connection: Connection, schemas: Iterable[Schema], now: datetime) -> None:
    """Create or upgrade the tables. Raises StoreError when the database is too new for this program."""
    create(connection, _versions_tables)
    add_column(connection, _versions.c.works_with)
    for schema in schemas:
        _migrate_one(connection, schema, now)


def make_views_anew(connection: Connection, schema: Schema) -> None:
    """As of who does it, with whose rights they are read. Raises StoreError where a newer program has made others."""
    found = _version(connection, schema)
    if found is not None and found > schema.version:
        raise StoreError(
            f"was upgraded by a newer crmbridge ({schema.component} version {found}, this one knows up to "
            f"{schema.version}): its views are not this one's to make, use that one's command, or upgrade this bridge"
        )
    with _claimed(connection, schema):
        _create_views(connection, schema)


def claimed_by_hand(schema: Schema, versions: str, statements: Sequence[str]) -> list[str]:
    """These statements between those of the claim (see `_claimed`), for whoever runs them by another program.

    The INSERT fails while somebody else has it. Each commits by itself. `versions`: that table, in SQL.
    """
    claim, token = f"'{_claim(schema)}'", randbelow(2**31)
    free = f"DELETE FROM {versions} WHERE component = {claim} AND"  # noqa: S608  # all of it is ours
    take = f"INSERT INTO {versions} (component, version, changed_at) VALUES"
    return [
        f"{free} changed_at < {_TOO_OLD}",
        f"{take} ({claim}, {token}, UTC_TIMESTAMP(6))",
        *statements,
        f"{free} version = {token}",
    ]


def _claim(schema: Schema) -> str:
    return f"{schema.component}: being changed"


def _migrate_one(connection: Connection, schema: Schema, now: datetime) -> None:
    found = _version(connection, schema)
    if found is not None and found >= schema.version:
        _see_that_it_can_be_used(connection, schema, found)
        return
    with nullcontext() if connection.dialect.name == "sqlite" else _claimed(connection, schema):
        _bring_up(connection, schema, now)


def _version(connection: Connection, schema: Schema) -> int | None:
    found: int | None = connection.scalar(select(_versions.c.version).where(_versions.c.component == schema.component))
    return found


def _see_that_it_can_be_used(connection: Connection, schema: Schema, found: int) -> None:
    if found == schema.version:
        return
    works_with = connection.scalar(select(_versions.c.works_with).where(_versions.c.component == schema.component))
    if schema.version < (works_with or found):
        raise StoreError(
            f"was upgraded by a newer crmbridge ({schema.component} version {found}, this one knows up to "
            f"{schema.version}): upgrade this bridge, or start with another database"
        )
    log.info("store.newer_schema", component=schema.component, version=found, known=schema.version)


@contextmanager
def _claimed(connection: Connection, schema: Schema) -> Iterator[None]:
    """Be the only one to change these tables. Raises MigratingError where somebody else is.

    MariaDB bears being told to make tables by several at once, but not views: where two nodes of a Galera cluster (of
    MariaDB 10.11) each make the same one, or one makes a view and the other one of it, both hang, and with them all
    that anybody writes. Galera has no GET_LOCK, so the claim is a row, of which one can be inserted.
    """
    claim, token = _claim(schema), randbelow(2**31)
    claimed = _versions.c.component == claim
    ours = claimed & (_versions.c.version == token)
    connection.execute(_versions.delete().where(claimed, _versions.c.changed_at < text(_TOO_OLD)))
    try:
        connection.execute(_versions.insert().values(component=claim, version=token, changed_at=func.utc_timestamp(6)))
        connection.exec_driver_sql("COMMIT")
    except IntegrityError:
        raise MigratingError(BEING_SET_UP) from None
    if _seen_by_all(connection, select(_versions.c.version).where(claimed)) != token:
        raise MigratingError(BEING_SET_UP)  # two nodes took both for the first
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


def _bring_up(connection: Connection, schema: Schema, now: datetime) -> None:
    found = _version(connection, schema)  # once more: another process may have done it until it was our turn
    if found is not None and found >= schema.version:
        _see_that_it_can_be_used(connection, schema, found)
        return
    if found is None:
        create(connection, schema.tables)
    else:
        for upgrade in schema.upgrades[found - 1 :]:
            upgrade(connection)
    _create_views(connection, schema)
    stamp = {"version": schema.version, "works_with": schema.works_with, "changed_at": now}
    if found is None:
        with suppress(IntegrityError):  # another process was quicker
            connection.execute(_versions.insert().values(component=schema.component, **stamp))
    else:
        connection.execute(_versions.update().where(_versions.c.component == schema.component).values(**stamp))


def _create_views(connection: Connection, schema: Schema) -> None:
    if connection.dialect.name == "sqlite":
        return
    for statement in view_statements(schema):
        connection.exec_driver_sql(statement)

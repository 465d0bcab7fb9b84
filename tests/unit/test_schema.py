"""Tables made, upgraded, and refused when they are from the future."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, inspect, select
from sqlalchemy.exc import StatementError

from crmbridge.store.migration import migrate
from crmbridge.store.schema import Addition, Schema, StoreError, Upgrade, Utc, add_column

NOW = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def things(*columns: str) -> MetaData:
    tables = MetaData()
    Table("things", tables, Column("id", Integer, primary_key=True), *[Column(name, Integer) for name in columns])
    return tables


def columns_of(connection: Connection) -> list[str]:
    return [str(column["name"]) for column in inspect(connection).get_columns("things")]


def first() -> Schema:
    return Schema("things", things("a"))


def second() -> Schema:
    return Schema("things", things("a", "b"), (lambda connection: _add(connection, "b"),))


def third() -> Schema:
    return Schema("things", things("a", "b", "c"), (*second().upgrades, lambda connection: _add(connection, "c")))


def _add(connection: Connection, name: str) -> None:
    connection.exec_driver_sql(f"ALTER TABLE things ADD COLUMN {name} INTEGER")


@pytest.mark.parametrize("start", [first, second, third])
def test_every_older_version_becomes_what_a_new_database_is(
    connection: Connection, start: Callable[[], Schema]
) -> None:
    migrate(connection, [start()], NOW)
    migrate(connection, [third()], NOW)
    migrate(connection, [third()], NOW)
    assert columns_of(connection) == ["id", "a", "b", "c"]


def test_components_are_versioned_apart(connection: Connection) -> None:
    migrate(connection, [third()], NOW)
    others = MetaData()
    Table("others", others, Column("id", Integer, primary_key=True))
    migrate(connection, [third(), Schema("others", others)], NOW)
    assert inspect(connection).has_table("others")


def test_a_newer_database_is_left_alone_and_named(connection: Connection) -> None:
    migrate(connection, [third()], NOW)
    with pytest.raises(StoreError, match=r"newer crmbridge \(things version 3, this one knows up to 1\)"):
        migrate(connection, [first()], NOW)
    assert columns_of(connection) == ["id", "a", "b", "c"]


def beside(*steps: str) -> Schema:
    """Of version 1 + steps, each an addition or one that takes something away."""
    made: dict[str, Upgrade] = {"addition": Addition(lambda _: None), "removal": lambda _: None}
    return Schema("things", things("a"), tuple(made[step] for step in steps))


@pytest.mark.parametrize(
    ("steps", "works_with"),
    [
        ([], 1),
        (["addition"], 1),
        (["addition", "addition"], 1),
        (["removal"], 2),
        (["removal", "addition"], 2),
        (["addition", "removal"], 3),
        (["addition", "removal", "addition", "addition"], 3),
    ],
)
def test_the_oldest_program_that_can_go_on(connection: Connection, steps: list[str], works_with: int) -> None:
    migrate(connection, [first()], NOW)
    migrate(connection, [beside(*steps)], NOW)
    for version in range(1, len(steps) + 1):
        older = beside(*steps[: version - 1])
        if version < works_with:
            with pytest.raises(StoreError, match="upgrade this bridge"):
                migrate(connection, [older], NOW)
        else:
            migrate(connection, [older], NOW)
    assert stamps(connection) == [("things", len(steps) + 1, works_with if steps else 1)]


def stamps(connection: Connection) -> list[tuple[object, ...]]:
    found = connection.exec_driver_sql("SELECT component, version, works_with FROM schema_versions")
    return [tuple(row) for row in found]


def test_versions_as_the_first_crmbridge_wrote_them(connection: Connection) -> None:
    connection.exec_driver_sql(
        "CREATE TABLE schema_versions (component TEXT PRIMARY KEY, version INT, changed_at TEXT)"
    )
    connection.exec_driver_sql("CREATE TABLE things (id INTEGER PRIMARY KEY, a INTEGER)")
    connection.exec_driver_sql("INSERT INTO schema_versions VALUES ('things', 2, '2024-01-02T00:00:00.000000Z')")
    with pytest.raises(StoreError, match=r"newer crmbridge \(things version 2, this one knows up to 1\)"):
        migrate(connection, [first()], NOW)  # nothing says that it is not too new
    migrate(connection, [beside("removal")], NOW)
    assert stamps(connection) == [("things", 2, None)]
    migrate(connection, [beside("removal", "addition")], NOW)
    migrate(connection, [beside("removal")], NOW)
    assert stamps(connection) == [("things", 3, 2)]


def test_a_column_is_added_once_and_older_programs_need_not_fill_it(connection: Connection) -> None:
    migrate(connection, [first()], NOW)
    connection.exec_driver_sql("INSERT INTO things (a) VALUES (1)")
    newer = things("a", "b").tables["things"]
    for _ in range(2):
        add_column(connection, newer.c.b)
    connection.exec_driver_sql("INSERT INTO things (a) VALUES (2)")
    assert connection.exec_driver_sql("SELECT a, b FROM things").all() == [(1, None), (2, None)]
    strict = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("c", Integer, nullable=False))
    with pytest.raises(ValueError, match=r"things\.c must have a default"):
        add_column(connection, strict.c.c)


def test_instants_sort_and_come_back(connection: Connection) -> None:
    tables = MetaData()
    table = Table("instants", tables, Column("at", Utc))
    tables.create_all(connection)
    israel = timezone(timedelta(hours=2))
    instants = [
        datetime(2024, 1, 2, 10, 0, tzinfo=israel),
        datetime(2024, 1, 2, 8, 0, 0, 1, tzinfo=UTC),
        datetime(2024, 1, 2, 9, 59, 59, tzinfo=israel),
        datetime(999, 1, 2, tzinfo=UTC),
    ]
    connection.execute(table.insert(), [{"at": each} for each in instants])
    connection.execute(table.insert(), [{"at": None}])
    found = list(connection.scalars(select(table.c.at).where(table.c.at.is_not(None)).order_by(table.c.at)))
    assert found == sorted(instants)
    assert all(each.utcoffset() == timedelta(0) for each in found)
    assert connection.scalar(select(table.c.at).where(table.c.at.is_(None))) is None


def test_an_instant_without_a_time_zone_is_refused(connection: Connection) -> None:
    tables = MetaData()
    table = Table("instants", tables, Column("at", Utc))
    tables.create_all(connection)
    with pytest.raises(StatementError, match="without a time zone"):
        connection.execute(table.insert(), [{"at": datetime(2024, 1, 2)}])  # noqa: DTZ001 (that is the point)

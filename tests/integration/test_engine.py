"""Databases opened, and refused with words that help."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from crmbridge.store.engine import bring_up_async, make_engine, sqlite_url
from crmbridge.store.file_engine import FileEngine
from crmbridge.store.lock import sole_use
from crmbridge.store.schema import Schema, StoreError


async def open_database(url: str | URL, schemas: Sequence[Schema]) -> AsyncEngine | FileEngine:
    engine = make_engine(url)
    try:
        await bring_up_async(engine, schemas, None)
    except StoreError:
        await engine.dispose()
        raise
    return engine


@asynccontextmanager
async def file(folder: Path) -> AsyncIterator[FileEngine]:
    """A new one, with a table `things`."""
    engine = await open_database(sqlite_url(folder / "calls.db"), [schema()])
    assert isinstance(engine, FileEngine)
    yield engine
    await engine.dispose()


def schema(upgrades: int = 0) -> Schema:
    tables = MetaData()
    Table("things", tables, Column("id", Integer, primary_key=True))
    return Schema("things", tables, tuple([lambda _: None] * upgrades))


async def test_what_is_made_is_nobody_elses_business(tmp_path: Path) -> None:
    file = tmp_path / "state" / "deep" / "calls.db"
    engine = await open_database(sqlite_url(file), [schema()])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"calls.db": 0o600, "calls.db-wal": 0o600, "calls.db-shm": 0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    await engine.dispose()


async def test_sqlite_is_set_to_last(tmp_path: Path) -> None:
    async def values(connection: AsyncConnection) -> dict[str, object]:
        return {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    async with file(tmp_path) as engine:
        found = await engine.read(values)
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


async def test_a_failed_transaction_leaves_nothing_not_even_tables(tmp_path: Path) -> None:
    async def fails_at_its_end(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("CREATE TABLE more (id INTEGER)")
        await connection.exec_driver_sql("INSERT INTO things VALUES (1)")
        await connection.exec_driver_sql("INSERT INTO things VALUES (1)")

    async def what_is_there(connection: AsyncConnection) -> tuple[object, list[object]]:
        things = schema().tables.tables["things"]
        tables = await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'more'")
        return await connection.scalar(select(func.count()).select_from(things)), list(tables)

    async with file(tmp_path) as engine:
        with pytest.raises(DBAPIError):
            await engine.write(fails_at_its_end)
        assert await engine.read(what_is_there) == (0, [])


async def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    written, may_commit = threading.Event(), threading.Event()

    async def write(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("INSERT INTO things VALUES (1)")
        written.set()
        assert may_commit.wait(20)

    async def count(connection: AsyncConnection) -> object:
        return (await connection.exec_driver_sql("SELECT count(*) FROM things")).scalar()

    async with file(tmp_path) as engine:
        writing = asyncio.create_task(engine.write(write))
        assert await asyncio.to_thread(written.wait, 20)
        assert await engine.read(count) == 0
        may_commit.set()
        await writing
        assert await engine.read(count) == 1


async def test_what_is_done_in_a_file_waits_for_nothing_but_its_statements(tmp_path: Path) -> None:
    async def waits(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("INSERT INTO things VALUES (1)")
        await asyncio.sleep(0)

    async def count(connection: AsyncConnection) -> object:
        return (await connection.exec_driver_sql("SELECT count(*) FROM things")).scalar()

    async with file(tmp_path) as engine:
        with pytest.raises(RuntimeError, match="waits for something else"):
            await engine.write(waits)
        assert await engine.read(count) == 0
        await engine.dispose()
        assert await engine.read(count) == 0, "over a new connection"


async def refusal(url: str | URL, *schemas: Schema) -> str:
    with pytest.raises(StoreError) as caught:
        await open_database(url, schemas or [schema()])
    return str(caught.value)


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "calls.db"
    file.write_text("not a database, but long enough to be looked at as one" * 30)
    message = await refusal(sqlite_url(file))
    assert message.startswith(f"{file} is no SQLite database")
    assert "sets it aside" in message


async def test_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "calls.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE schema_versions (component, version, changed_at)")
    connection.close()
    content = bytearray(file.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    file.write_bytes(content)
    assert (await refusal(sqlite_url(file))).startswith(f"{file} is damaged: the daemon sets it aside")


async def test_a_file_of_a_newer_version(tmp_path: Path) -> None:
    file = tmp_path / "calls.db"
    await (await open_database(sqlite_url(file), [schema(upgrades=2)])).dispose()
    message = await refusal(sqlite_url(file))
    assert message.startswith(f"{file} was upgraded by a newer crmbridge (things version 3, this one knows up to 1)")


async def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "store.state_dir" in await refusal(sqlite_url(tmp_path / "file" / "calls.db"))
    assert "cannot be written" in await refusal(sqlite_url(Path("/proc/crmbridge/calls.db")))
    assert "Is a directory" in await refusal(sqlite_url(tmp_path))


async def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        message = await refusal(sqlite_url(tmp_path / "calls.db"))
    finally:
        os.seteuid(user)
        os.chmod(tmp_path, 0o700)
    assert "Permission denied" in message
    assert "belongs to the user that crmbridge runs as" in message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "no database address"),
        ("postgresql://x/y", "use sqlite+aiosqlite or mysql+asyncmy"),
        ("sqlite:///x.db", "use sqlite+aiosqlite or mysql+asyncmy"),
        ("sqlite+aiosqlite://", "names no file"),
        ("sqlite+aiosqlite:///:memory:", "names no file"),
    ],
)
async def test_addresses_that_are_none(url: str, words: str) -> None:
    assert words in await refusal(url)


async def test_a_database_server_that_is_not_there_and_no_password_shown() -> None:
    message = await refusal("mysql+asyncmy://crm:geheim@127.0.0.1:1/calls")
    assert "127.0.0.1:1/calls" in message
    assert "is not there: see that the server runs" in message
    assert "geheim" not in message


def test_sole_use_names_who_has_it(tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    with sole_use(file):
        with pytest.raises(StoreError, match=rf"process {os.getpid()}\): stop that one first"), sole_use(file):
            pass
        assert stat.S_IMODE((tmp_path / "outbox.db.lock").stat().st_mode) == 0o600
    with sole_use(file):
        pass

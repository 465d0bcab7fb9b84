"""The call list on a real MariaDB that is away, hangs, refuses, or cuts connections in the middle of the work."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import asyncmy
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs
from tests.asterisk.lab import mariadb
from tests.integration.conftest import Fresh
from tests.integration.test_call_list import BEGAN, HERE, HISTORY, KEY, by_call, line, record, shown

from crmbridge.store import call_tables
from crmbridge.store.call_list import CallList, open_call_list
from crmbridge.store.database import Database
from crmbridge.store.engine import make_engine
from crmbridge.store.schema import StoreError

pytestmark = pytest.mark.needs("mariadb")

LIMIT_S = 30


@pytest.fixture
async def calls(fresh: Fresh) -> AsyncIterator[CallList]:
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as opened:
        yield opened


def opening(url: str, *, later: bool = False) -> Callable[[], Awaitable[None]]:
    async def opening() -> None:
        async with asyncio.timeout(LIMIT_S), open_call_list(url, HISTORY.rows, HERE, later=later):
            pass

    return opening


async def refusal(work: Callable[[], Awaitable[object]]) -> str:
    with pytest.raises(StoreError) as caught:
        await work()
    told = str(caught.value)
    assert "geh" not in told, "the password"
    assert "\n" not in told
    return told


async def waiting(fresh: Fresh, what: str) -> int:
    """The id of a connection of ours whose statement begins so, when there is one."""
    query = f"SELECT id FROM information_schema.processlist WHERE user = '{fresh.user}' AND info LIKE '{what}%'"
    return int((await asyncio.to_thread(answered, fresh, query)).split()[1])


def answered(fresh: Fresh, query: str) -> str:
    """What a query gives once it gives something."""
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        if found := fresh.sql(query):
            return found
    raise TimeoutError(query)


class Holder:
    """Another program that holds a lock."""

    def __init__(self, fresh: Fresh, statement: str) -> None:
        self._fresh, self._statement = fresh, statement

    async def __aenter__(self) -> Holder:
        server = self._fresh.server
        self._connection = await asyncmy.connect(unix_socket=str(server.socket), user="root", db=self._fresh.name)
        async with self._connection.cursor() as cursor:
            await cursor.execute(self._statement)
        return self

    async def let_go(self) -> None:
        await self._connection.rollback()

    async def __aexit__(self, *_: object) -> None:
        await self._connection.ensure_closed()


# Tables


async def test_several_processes_open_an_empty_database_at_once(fresh: Fresh) -> None:
    await asyncio.gather(*(opening(fresh.url)() for _ in range(8)))
    assert structure(fresh) == EXPECTED
    assert fresh.sql("SELECT component, version FROM schema_versions") == "component\tversion\ncall_list\t2\n"


async def test_what_a_process_that_was_killed_has_not_made_is_made_by_the_next(fresh: Fresh) -> None:
    await opening(fresh.url)()
    fresh.sql(
        "DELETE FROM schema_versions; DROP VIEW all_calls; DROP TABLE turns, progress; "
        "ALTER TABLE calls DROP INDEX calls_by_time, DROP INDEX calls_by_call"
    )
    assert structure(fresh) != EXPECTED
    await opening(fresh.url)()
    assert structure(fresh) == EXPECTED


def structure(fresh: Fresh) -> set[tuple[str, ...]]:
    """Tables and views with their indexes."""
    indexes = (
        "SELECT table_name, ifnull(index_name, ''), ifnull(group_concat(column_name ORDER BY seq_in_index), '') "
        "FROM information_schema.tables LEFT JOIN information_schema.statistics USING (table_schema, table_name) "
        "WHERE table_schema = database() GROUP BY table_name, index_name"
    )
    return {tuple(row.split("\t")) for row in fresh.sql(indexes).splitlines()[1:]}


EXPECTED = {
    ("all_calls", "", ""),
    ("calls", "PRIMARY", "number_id,epoch_s,id"),
    ("calls", "calls_by_call", "linkedid,pbx"),
    ("calls", "calls_by_extension", "extension,time"),
    ("calls", "calls_by_time", "time"),
    ("cdrs", "PRIMARY", "pbx,linkedid,uniqueid,sequence,dstchannel"),
    ("cdrs", "cdrs_by_start", "pbx,start_epoch_s"),
    ("client_calls", "", ""),
    ("incoming_calls", "", ""),
    ("numbers", "PRIMARY", "id"),
    ("numbers", "numbers_by_key", "number_key"),
    ("numbers", "numbers_by_number", "number"),
    ("outgoing_calls", "", ""),
    ("progress", "PRIMARY", "pbx,name"),
    ("schema_versions", "PRIMARY", "component"),
    ("turns", "PRIMARY", "pbx"),
}


async def test_tables_are_binary_whatever_the_database_has(fresh: Fresh) -> None:
    fresh.sql(f"ALTER DATABASE `{fresh.name}` CHARACTER SET latin1")
    await opening(fresh.url)()
    query = (
        "SELECT DISTINCT table_collation, engine FROM information_schema.tables "
        "WHERE table_schema = database() AND table_type = 'BASE TABLE' AND table_name <> 'schema_versions'"
    )
    assert fresh.sql(query) == "table_collation\tengine\nutf8mb4_bin\tInnoDB\n"


async def test_the_session_is_ours_whatever_the_server_has(fresh: Fresh, calls: CallList) -> None:
    async def session(connection: AsyncConnection) -> tuple[object, ...]:
        names = "@@time_zone, @@sql_mode, @@tx_isolation, @@character_set_client, @@innodb_lock_wait_timeout"
        return tuple((await connection.exec_driver_sql(f"SELECT {names}")).one())

    fresh.server.run("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES', time_zone = '+02:00'")
    try:
        assert await calls._database.write(session) == (
            "+00:00",
            "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
            "READ-COMMITTED",
            "utf8mb4",
            2,
        )
    finally:
        fresh.server.run("SET GLOBAL sql_mode = DEFAULT, time_zone = DEFAULT")


# Away and hanging


async def test_a_server_that_is_away_at_the_start_is_used_once_it_is_there() -> None:
    port = mariadb.free_port()
    url = f"mysql+asyncmy://root@127.0.0.1:{port}/later"
    assert "is not there: see that the server runs" in await refusal(opening(url))
    with capture_logs() as logs:
        async with open_call_list(url, HISTORY.rows, HERE, later=True) as calls:
            assert [one["event"] for one in logs] == ["store.refuses"]
            assert "is not there" in await refusal(lambda: calls.add([record()]))
            with mariadb.running(port=port) as server:
                assert "does not exist on that server" in await refusal(lambda: calls.add([record()]))
                server.run("CREATE DATABASE later")
                added = await asyncio.gather(*(calls.add([record(n)]) for n in range(5)))
                assert added == [1] * 5
                assert len((await calls.by_number(KEY)).rows) == 5
            assert "127.0.0.1" in await refusal(lambda: calls.by_number(KEY))


async def test_a_server_that_restarts() -> None:
    port = mariadb.free_port()
    url = f"mysql+asyncmy://root@127.0.0.1:{port}/mysql"
    with mariadb.running(port=port):
        async with open_call_list(url, HISTORY.rows, HERE) as calls:
            await asyncio.gather(*(calls.add([record(n)]) for n in range(5)))
            await cut(port)
            assert await calls.add([record(6)]) == 1, "one try finds out that all connections are cut, the next is new"
            assert len((await calls.by_number(KEY)).rows) == 6


async def cut(port: int) -> None:
    """Close every connection but ours, as a restart does."""
    connection = await asyncmy.connect(host="127.0.0.1", port=port, user="root")
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND db = 'mysql'"
        )
        for (each,) in await cursor.fetchall():
            await cursor.execute(f"KILL {each}")
    await connection.ensure_closed()


async def test_a_port_where_nobody_says_anything() -> None:
    """However many ask, and whenever their time is up: some of them when the next connection is just made."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def nothing(_: AsyncConnection) -> None:
        raise AssertionError("there is no database")

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"mysql+asyncmy://x@127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    assert "does not answer" in await refusal(opening(url))
    database = Database(make_engine(url), [], None)
    database._up = True
    async with asyncio.timeout(LIMIT_S):
        for _ in range(8):
            await asyncio.gather(*(refusal(lambda: database.read(nothing, limit_s=0.2)) for _ in range(60)))
    await database.close()
    server.close()
    await server.wait_closed()


@contextmanager
def stopped(server: mariadb.Database) -> Iterator[None]:
    """A server that says nothing for a while."""
    process = int(Path(server.run("SELECT @@pid_file").splitlines()[1]).read_text(encoding="ascii"))
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_server_that_hangs_costs_seconds_and_no_more(fresh: Fresh, calls: CallList) -> None:
    await calls.add([record(1)])
    with stopped(fresh.server):
        async with asyncio.timeout(LIMIT_S):
            every = [lambda: calls.add([record(2)]), lambda: calls.by_number(KEY)] * 5
            told = await asyncio.gather(*(refusal(work) for work in every))
            said = {one.partition(" ")[2] for one in told}
            assert said <= {"does not answer within 5 s", "does not answer: it hangs, or is no database server"}
            with capture_logs() as logs:
                await opening(fresh.url, later=True)()
            assert [one["reason"].partition(" ")[2] for one in logs] == ["does not answer within 2 s"]
    assert await calls.add([record(3)]) == 1, "no connection that was cut in the middle is used again"
    assert sorted(shown(await calls.by_number(KEY)))[:2] == [("777", 5)] * 2


# In the middle


async def test_connections_killed_in_the_middle_lose_nothing_and_write_nothing_twice(
    fresh: Fresh, calls: CallList
) -> None:
    lines = [line(n, linkedid=f"x{n}", started_at=BEGAN + timedelta(seconds=n)) for n in range(300)]
    ended = asyncio.Event()

    async def kill() -> int:
        killed = 0
        query = f"SELECT id FROM information_schema.processlist WHERE user = '{fresh.user}'"
        while not ended.is_set():
            for each in (await asyncio.to_thread(fresh.sql, query)).split()[1:]:
                with suppress(Exception):  # it has ended by itself
                    await asyncio.to_thread(fresh.sql, f"KILL CONNECTION {each}")
                    killed += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.15)
        return killed

    async def work() -> None:
        for start in range(0, 300, 10):
            await asyncio.gather(
                calls.add([record(start // 10)]), calls.replace("pbx", by_call(lines[start : start + 10]))
            )
        ended.set()

    killed, _ = await asyncio.gather(kill(), work())
    assert killed > 0
    rows = (await calls.by_number(KEY, limit=1000)).rows
    assert len(rows) == len(set(rows)) == 330


async def test_a_connection_killed_while_it_waits_for_a_lock(fresh: Fresh, calls: CallList) -> None:
    await calls.add([record(1)])
    async with Holder(fresh, "UPDATE turns SET turn = turn + 1") as holder:
        adding = asyncio.create_task(calls.add([record(2)]))
        ours = await waiting(fresh, "INSERT INTO turns")
        fresh.sql(f"KILL CONNECTION {ours}")
        await waiting(fresh, "INSERT INTO turns")
        await holder.let_go()
        assert await adding == 1
    assert len((await calls.by_number(KEY)).rows) == 2


async def test_locks_that_others_hold_for_long(fresh: Fresh, calls: CallList) -> None:
    await calls.add([record(1)])
    async with Holder(fresh, "UPDATE turns SET turn = turn + 1") as holder:
        assert "keeps our rows locked" in await refusal(lambda: calls.add([record(2)]))
        assert shown(await calls.by_number(KEY)) == [("777", 5)], "who reads waits for nobody"
        await holder.let_go()
    assert await calls.add([record(2)]) == 1


async def test_a_transaction_that_loses_a_deadlock_is_done_anew(fresh: Fresh, calls: CallList) -> None:
    await calls.add([record(1)])
    tried, crossed = [], asyncio.Event()

    async def work(connection: AsyncConnection) -> None:
        tried.append(await connection.exec_driver_sql("UPDATE turns SET turn = turn + 1"))
        if len(tried) == 1:
            # What is held by the other is wanted by us and the other way round; the one that changed less is chosen.
            wants = asyncio.create_task(holder._connection.cursor().execute("UPDATE turns SET turn = turn + 1"))
            locked = "SELECT trx_id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
            await asyncio.to_thread(answered, fresh, locked)
            others.append(wants)
            crossed.set()
        await connection.exec_driver_sql("UPDATE cdrs SET duration_s = duration_s + 1")

    others: list[asyncio.Task[object]] = []
    more = "INSERT INTO progress SELECT 'x', seq, '' FROM seq_1_to_1000"
    async with asyncio.timeout(LIMIT_S), Holder(fresh, more) as holder:
        async with holder._connection.cursor() as cursor:
            await cursor.execute("UPDATE cdrs SET duration_s = 0")
        writing = asyncio.create_task(calls._database.write(work))
        await crossed.wait()
        await others[0]
        await holder.let_go()
        await writing
    assert len(tried) == 2


# Refused


@contextmanager
def changed(fresh: Fresh, change: str, back: str) -> Iterator[None]:
    fresh.server.run(change)
    try:
        yield
    finally:
        fresh.server.run(back)


async def test_a_read_only_server(fresh: Fresh, calls: CallList) -> None:
    await calls.add([record(1)])
    with changed(fresh, "SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"):
        assert "is read-only: it may be a replica" in await refusal(lambda: calls.add([record(2)]))
        assert shown(await calls.by_number(KEY)) == [("777", 5)]
    assert await calls.add([record(2)]) == 1


async def test_no_connection_left(fresh: Fresh, calls: CallList) -> None:
    user = f"ALTER USER '{fresh.user}'@'127.0.0.1' WITH MAX_USER_CONNECTIONS"
    await calls.add([record(1)])
    assert shown(await calls.by_number(KEY)) == [("777", 5)]
    with changed(fresh, f"{user} 1", f"{user} 0"):
        async with open_call_list(fresh.url, HISTORY.rows, HERE):
            assert "has no connection left for us: raise max_connections" in await refusal(opening(fresh.url))
    with changed(fresh, "SET GLOBAL max_connections = 10", "SET GLOBAL max_connections = DEFAULT"):
        taken: list[asyncmy.Connection] = []
        try:
            with suppress(asyncmy.errors.OperationalError):
                while True:
                    taken.append(await asyncmy.connect(unix_socket=str(fresh.server.socket), user="root"))
            assert "has no connection left for us" in await refusal(opening(fresh.url))
            assert shown(await calls.by_number(KEY)) == [("777", 5)], "with those that we have"
        finally:
            for each in taken:
                await each.ensure_closed()


async def test_what_is_wrong_in_store_url(fresh: Fresh) -> None:
    told = await refusal(opening(fresh.url.replace("geh%", "geheim%")))
    assert told.startswith(f"{fresh.user}@127.0.0.1:{fresh.server.port}/{fresh.name} refuses this user or password")
    assert "refuses this user" in await refusal(opening(fresh.url.replace(fresh.user, "nobody")))
    assert "does not let this user" in await refusal(opening(fresh.url.replace(fresh.name, "mysql")))
    root = f"mysql+asyncmy://root@127.0.0.1:{fresh.server.port}/nowhere"
    assert "does not exist on that server: CREATE DATABASE" in await refusal(opening(root))
    assert "is not there" in await refusal(opening("mysql+asyncmy://x:geheim@127.0.0.1:1/x"))
    assert "127.0.0.1:1/x" in await refusal(opening("mysql+asyncmy://x:geheim@127.0.0.1:1/x?ssl_key=geheim"))


async def test_rights_that_are_missing(fresh: Fresh) -> None:
    rights = f"CREATE VIEW ON `{fresh.name}`.*"
    with changed(
        fresh,
        f"REVOKE {rights} FROM '{fresh.user}'@'127.0.0.1'",
        f"GRANT {rights} TO '{fresh.user}'@'127.0.0.1'",
    ):
        assert "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE" in await refusal(opening(fresh.url))
    await opening(fresh.url)()
    assert structure(fresh) == EXPECTED


async def test_a_database_of_a_newer_version(fresh: Fresh) -> None:
    await opening(fresh.url)()
    fresh.sql("UPDATE schema_versions SET version = 99, works_with = 99")
    told = await refusal(opening(fresh.url))
    assert (
        f"was upgraded by a newer crmbridge (call_list version 99, this one knows up to {call_tables.SCHEMA.version})"
        in told
    )

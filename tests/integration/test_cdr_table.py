"""The CDR table of a real MariaDB, read as a user who may do nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncmy
import pytest
from structlog.testing import capture_logs
from tests.integration.cdr_tables import FREEPBX, HERE, insert, reader, record
from tests.integration.conftest import Fresh

from crmbridge.checks import records as check_records
from crmbridge.config import Settings, parse
from crmbridge.pbx import cdr_table
from crmbridge.pbx.cdr_table import CdrTable, SourceError, TooSlowError

pytestmark = pytest.mark.needs("mariadb")

BEGAN = 1_795_413_000
EVER = (0, 4_000_000_000)

Opened = Callable[..., CdrTable]


@pytest.fixture
async def opened(fresh: Fresh) -> AsyncIterator[Opened]:
    """Opens the table as the user who may read it."""
    async with AsyncExitStack() as stack:

        def opened(name: str = "cdr", zone: ZoneInfo = HERE) -> CdrTable:
            url = reader(fresh.server, fresh.name, table=name)
            table = CdrTable(url, name, pbx="pbx", timezone=zone)
            stack.push_async_callback(table.close)
            return table

        yield opened


@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM"])
async def test_freepbx(fresh: Fresh, opened: Opened, engine: str) -> None:
    records = [record(BEGAN + n, n) for n in range(5)] + [record(BEGAN, 9, src="א'; --", did="")]
    fresh.sql(FREEPBX.format(engine=engine) + insert(records))
    table = opened()
    assert sorted(await table.read(*EVER)) == sorted(records)
    shape = await table.shape()
    assert (shape.indexed, shape.lacking) == (True, ())
    first, last = await table.span() or (0, 0)
    assert [table.wall_time.epoch(wall) for wall in (first, last)] == [BEGAN, BEGAN + 4]


async def test_a_range_has_its_begin_and_not_its_end(fresh: Fresh, opened: Opened) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB") + insert([record(BEGAN + n // 2, n) for n in range(8)]))
    table = opened()
    since, until = table.wall_time.reach(BEGAN + 1, BEGAN + 3)
    assert sorted(one.sequence for one in await table.read(since, until)) == [2, 3, 4, 5], "all of a second, or none"
    wanted = [f"{BEGAN + 2}.4", "none"]
    assert [one.sequence for one in await table.read(since, until, wanted)] == [4]


async def test_as_the_documentation_has_it_for_a_vanilla_asterisk(fresh: Fresh, opened: Opened) -> None:
    """Columns may be NULL, have other types, and be missing."""
    fresh.sql(
        "CREATE TABLE calls (start timestamp(6) NULL, uniqueid varbinary(150), src text, channel varchar(255),"
        " billsec float, sequence varchar(20), disposition varchar(45), KEY (start));"
        f"SET time_zone = '+00:00'; INSERT INTO calls VALUES (FROM_UNIXTIME({BEGAN}) + INTERVAL 700000 MICROSECOND,"
        f" 'pbx1-{BEGAN}.1', NULL, REPEAT('x', 200), 1.9, NULL, NULL);"
    )
    zone = ZoneInfo(fresh.sql("SELECT @@system_time_zone").split()[-1])
    (one,) = await opened("calls", zone).read(*EVER)
    assert (one.linkedid, one.uniqueid) == (f"pbx1-{BEGAN}.1", f"pbx1-{BEGAN}.1")
    assert (one.start_at.timestamp(), one.sequence) == (BEGAN, -BEGAN)
    assert (one.src, one.dstchannel, one.did, one.disposition, one.billsec_s) == ("", "", "", "", 1)
    assert one.channel == "x" * 150


async def test_a_table_of_another_database_and_a_view(fresh: Fresh, opened: Opened) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB") + insert([record(BEGAN)]) + "CREATE VIEW seen AS SELECT * FROM cdr;")
    assert await opened("seen").read(*EVER) == [record(BEGAN)]
    assert (await opened("seen").shape()).indexed, "of a view nobody can tell"
    url = reader(fresh.server, fresh.name).rpartition("/")[0] + "/information_schema"
    table = CdrTable(url, f"{fresh.name}.cdr", pbx="pbx", timezone=HERE)
    try:
        assert await table.read(*EVER) == [record(BEGAN)]
    finally:
        await table.close()


async def test_without_an_index_it_says_so_once(fresh: Fresh, opened: Opened) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB") + "DROP INDEX calldate ON cdr;" + insert([record(BEGAN)]))
    table = opened()
    with capture_logs() as logs:
        for _ in range(2):
            assert await table.read(*EVER) == [record(BEGAN)]
            await table.close()
    (told,) = [one for one in logs if one["event"] == "cdr.no_index"]
    fresh.sql(told["hint"].rpartition(": ")[2])
    assert (await table.shape()).indexed, "what it advises is what helps"


async def refusal(table: CdrTable) -> str:
    try:
        with pytest.raises(SourceError) as refused:
            await table.read(*EVER)
        return str(refused.value)
    finally:
        await table.close()


async def test_what_is_wrong_is_told_with_what_to_do(fresh: Fresh) -> None:
    fresh.sql("CREATE TABLE other (n int); CREATE TABLE old (calldate datetime, src text, KEY (calldate));")
    url = reader(fresh.server, fresh.name, table="old")

    async def told(url: str, name: str) -> str:
        return await refusal(CdrTable(url, name, pbx="pbx", timezone=HERE))

    assert "check cdr.table, and give the user SELECT on it" in await told(url, "none")
    assert "check cdr.table, and give the user SELECT on it" in await told(url, "other")
    assert "has no column uniqueid" in await told(url, "old")
    assert "check user and password" in await told(url.replace(":secret", ":wrong"), "cdr")
    # Who may not see a database hears the same of one that isn't there.
    assert "give the user SELECT on the table" in await told(url.rpartition("/")[0] + "/nowhere", "cdr")
    port = url.rpartition("/")[0].rpartition(":")[2]
    assert "can't be read: Can't connect" in await told(url.replace(f":{port}/", ":1/"), "cdr")
    assert "secret" not in await told(url.replace(f":{port}/", ":1/"), "cdr")
    with pytest.raises(SourceError, match="no database address"):
        CdrTable("mysql+asyncmy://u:p@h:port/db", "cdr", pbx="pbx", timezone=HERE)


async def test_the_server_gives_up_what_takes_too_long(
    fresh: Fresh, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdr_table, "QUERY_S", 1)
    fresh.sql(
        FREEPBX.format(engine="InnoDB")
        + insert([record(BEGAN + n, n) for n in range(3)])
        + "CREATE VIEW slow AS SELECT *, SLEEP(0.9) AS slept FROM cdr WHERE SLEEP(0.9) = 0;"
    )
    table = opened("slow")
    began = time.monotonic()
    with pytest.raises(TooSlowError):
        await table.read(*EVER)
    assert time.monotonic() - began < 10
    wall, _ = table.wall_time.reach(BEGAN + 1, BEGAN + 1)
    (one,) = await table.read(wall, wall + 1)
    assert one.sequence == 1, "and the same connection reads on"


async def test_it_waits_for_no_lock_and_reads_nothing_that_is_not_committed(fresh: Fresh, opened: Opened) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB") + insert([record(BEGAN)]))
    table = opened()
    writer = await asyncmy.connect(host="127.0.0.1", port=fresh.server.port, user="root", db=fresh.name)
    try:
        async with writer.cursor() as cursor:
            await cursor.execute("BEGIN")
            await cursor.execute("UPDATE cdr SET src = 'x'")
            await cursor.execute(insert([record(BEGAN + 1, 1)]))
            assert await table.read(*EVER) == [record(BEGAN)]
            await cursor.execute("COMMIT")
            assert len(await table.read(*EVER)) == 2
    finally:
        writer.close()


async def test_the_user_can_only_read(fresh: Fresh, opened: Opened) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB") + insert([record(BEGAN)]))
    table = opened()
    await table.read(*EVER)
    for statement in ("DELETE FROM cdr", "UPDATE cdr SET src = ''", insert([record(BEGAN)]), "DROP TABLE cdr"):
        with pytest.raises(SourceError, match=r"denied|READ ONLY"):
            await table._rows(statement)
        await table.shape()  # a new connection


async def test_what_an_old_server_does_not_know_is_done_without(fresh: Fresh, opened: Opened) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB") + insert([record(BEGAN)]))
    table = opened()
    await table.shape()
    connection = table._connection
    for asked in ("TRANSACTION OF NO KIND", "no_such_limit = 10"):
        await table._set(asked)
    assert await table.read(*EVER) == [record(BEGAN)]
    assert table._connection is connection


def settings(source: str) -> Settings:
    return parse(
        {
            "crm": {"url": "https://crm.example/webservice.php", "client_id": "10"},
            "ami": {"username": "x", "secret": "y"},
            "http": {"username": "u", "password": "p"},
            "cdr": {"source": source, "timezone": "Asia/Jerusalem"},
        },
        source="test",
    )


async def test_check_tries_the_table(fresh: Fresh) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB") + insert([record(BEGAN)]))
    at = f"{datetime.now(ZoneInfo('Asia/Jerusalem')) - timedelta(minutes=10):%Y-%m-%d %H:%M:%S}"
    fresh.sql(f"UPDATE cdr SET calldate = '{at}'")
    source = reader(fresh.server, fresh.name)
    link, *_ = await check_records.source(settings(source))
    assert (link.state, link.found) == ("ok", f"table cdr, the latest of {at}, 10 min ago")
    fresh.sql("ALTER TABLE cdr DROP COLUMN linkedid; DELETE FROM cdr")
    link, *_ = await check_records.source(settings(source))
    assert (link.ok, "none yet; it has no linkedid" in link.found) == (True, True)
    fresh.sql("DROP INDEX calldate ON cdr")
    link, *_ = await check_records.source(settings(source))
    assert not link.ok
    assert link.found.endswith("CREATE INDEX calldate ON cdr (calldate)")
    link, *_ = await check_records.source(settings(source.replace(":secret", ":wrong")))
    assert not link.ok
    assert "check user and password" in link.found


async def test_check_tries_the_file(tmp_path: Path) -> None:
    file = tmp_path / "crmbridge.csv"
    assert not (await check_records.source(settings(str(file))))[0].ok
    file.touch()
    link, *_ = await check_records.source(settings(str(file)))
    assert (link.ok, link.found) == (True, f"{file}, the latest of none yet")

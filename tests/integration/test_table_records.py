"""Following the CDR table of a real MariaDB into a real call list: nothing missing, nothing twice, whatever happens."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.asterisk.lab.mariadb import Server, server
from tests.integration.cdr_tables import (
    FREEPBX,
    HERE,
    HISTORY,
    KEY,
    insert,
    reader,
    record,
    until,
)
from tests.integration.conftest import Fresh

from crmbridge import following
from crmbridge.calls.cdr import Cdr
from crmbridge.pbx import cdr_table
from crmbridge.pbx.cdr_table import CdrTable
from crmbridge.store.call_list import CallList, open_call_list
from crmbridge.store.engine import sqlite_url
from crmbridge.table_records import TableRecords, Timing

pytestmark = pytest.mark.needs("mariadb")

NOW = 1_795_413_000
DAY = 86400
BELL_ONLY = Timing(bell=(0.02, 0.05, 0.1, 0.2), sweeps=((300, 3600), (3600, 3600)), settle_s=3600)
"""Nothing is looked for after the start but what a bell rings for."""
QUICK = Timing(bell=(0.02, 0.05), sweeps=((300, 0.05), (3600, 0.2)), settle_s=3600)


def event(one: Cdr) -> dict[str, str]:
    """What cdr_manager tells of a record."""
    start = one.start_at.astimezone(HERE).strftime("%Y-%m-%d %H:%M:%S")
    return {"Event": "Cdr", "UniqueID": one.uniqueid, "DestinationChannel": one.dstchannel, "StartTime": start}


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[CallList]:
    async with open_call_list(sqlite_url(tmp_path / "calls.db"), HISTORY.rows, HERE) as opened:
        yield opened


def insert_many(fresh: Fresh, records: list[Cdr]) -> None:
    for start in range(0, len(records), 300):
        fresh.sql(insert(records[start : start + 300]))


async def known(calls: CallList) -> set[Any]:
    return set(await calls.known("pbx", datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)))


async def until_known(calls: CallList, condition: Callable[[set[Any]], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition(await known(calls)):  # noqa: ASYNC110  # of what is asked nobody tells
            await asyncio.sleep(0.001)


def keys(records: list[Cdr]) -> set[Any]:
    return {one.key for one in records}


@dataclass
class Followed:
    records: TableRecords
    calls: CallList
    now: list[int]

    async def lines(self) -> list[str]:
        """The recordings of the calls in the list, which name the records; sorted."""
        page = await self.calls.by_number(KEY, limit=1000)
        return sorted(row.filename for row in page.rows)

    async def has(self, *numbers: int) -> None:
        """Wait until the list has just these, each once."""
        wanted = sorted(f"in-{n}.wav" for n in numbers)
        async with asyncio.timeout(20):
            while (lines := await self.lines()) != wanted:
                assert set(lines) <= set(wanted), lines
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Wait until all that may have come was looked at."""
        await until(lambda: all(one.at is None and one.due > 0 for one in self.records._sweeps))


@asynccontextmanager
async def following_table(url: str, calls: CallList, timing: Timing, now: int = NOW) -> AsyncIterator[Followed]:
    at = [now]
    table = CdrTable(url, "cdr", pbx="pbx", timezone=HERE)
    records = TableRecords(
        pbx="pbx", table=table, store=calls, timing=timing, now=lambda: datetime.fromtimestamp(at[0], UTC)
    )
    task = asyncio.create_task(records.run())
    try:
        yield Followed(records, calls, at)
        assert not task.done()
    finally:
        began = time.monotonic()
        records.stop()
        await task
        assert time.monotonic() - began < 5


@pytest.fixture
def url(fresh: Fresh) -> str:
    """Of a FreePBX's table, empty."""
    fresh.sql(FREEPBX.format(engine="InnoDB"))
    return reader(fresh.server, fresh.name)


async def test_a_bell_brings_its_record_at_once(fresh: Fresh, url: str, calls: CallList) -> None:
    async with following_table(url, calls, BELL_ONLY) as followed:
        await followed.settled()
        fresh.sql(insert([record(NOW + 5, 1), record(NOW + 5, 2), record(NOW + 60, 3)]))
        followed.records.take(event(record(NOW + 5, 1)))
        await followed.has(1, 2)


async def test_a_bell_may_ring_before_the_row_is_there(fresh: Fresh, url: str, calls: CallList) -> None:
    slower = Timing(bell=(0.05,) * 100, sweeps=BELL_ONLY.sweeps, settle_s=3600)
    async with following_table(url, calls, slower) as followed:
        await followed.settled()
        for n in (1, 2):
            followed.records.take(event(record(NOW, n)))
        await until(lambda: all(bell.tries > 2 for bell in followed.records._bells.values()))
        fresh.sql(insert([record(NOW, 1)]))
        await followed.has(1)
        await until(lambda: len(followed.records._bells) == 1)
        fresh.sql(insert([record(NOW, 2)]))
        await followed.has(1, 2)
        await until(lambda: not followed.records._bells)


async def test_a_bell_for_each_of_several_records_of_one_channel(fresh: Fresh, url: str, calls: CallList) -> None:
    """A ring group is one unique id, and its rows are written one after the other."""
    group = [record(NOW, 1, dstchannel=f"PJSIP/77{n}-1", sequence=n) for n in range(3)]
    async with following_table(url, calls, Timing((0.05,) * 100, BELL_ONLY.sweeps, 3600)) as followed:
        await followed.settled()
        for one in group:
            followed.records.take(event(one))
        for left in (2, 1, 0):
            fresh.sql(insert([group[left]]))
            await until(lambda left=left: len(followed.records._bells) == left)  # type: ignore[misc]
        await until_known(calls, lambda there: there == keys(group))


async def test_with_usegmtime_the_unique_id_tells_where_to_look(fresh: Fresh, calls: CallList, url: str) -> None:
    """cdr_manager's times are local, whatever the table's are."""
    table = CdrTable(url, "cdr", pbx="pbx", timezone=UTC)
    records = TableRecords(
        pbx="pbx", table=table, store=calls, timing=BELL_ONLY, now=lambda: datetime.fromtimestamp(NOW, UTC)
    )
    task = asyncio.create_task(records.run())
    followed = Followed(records, calls, [NOW])
    await followed.settled()
    fresh.sql(insert([record(NOW, 1)], zone=UTC))  # type: ignore[arg-type]
    records.take(event(record(NOW, 1)))
    await followed.has(1)
    records.stop()
    await task


async def test_what_no_bell_rang_for_is_found(fresh: Fresh, url: str, calls: CallList) -> None:
    async with following_table(url, calls, QUICK) as followed:
        await followed.settled()
        fresh.sql(
            insert([record(NOW - 10, 1), record(NOW - 3000, 2), record(NOW + 3600, 3)])
        )  # the PBX's clock is ahead
        await followed.has(1, 2, 3)


async def test_a_long_call_appears_with_the_time_at_which_it_began(fresh: Fresh, url: str, calls: CallList) -> None:
    fresh.sql(insert([record(NOW - 100, 1)]))
    async with following_table(url, calls, BELL_ONLY) as followed:
        await followed.has(1)
        await followed.settled()
        fresh.sql(insert([record(NOW - DAY + 600, 2, duration_s=DAY - 700)]))
        followed.records.connected({"Event": "FullyBooted"})
        await followed.has(1, 2)


async def test_the_first_start_goes_back_a_day_and_says_what_brings_the_rest(
    fresh: Fresh, url: str, calls: CallList
) -> None:
    fresh.sql(insert([record(NOW - 30 * DAY, 1), record(NOW - DAY + 60, 2)]))
    with capture_logs() as logs:
        async with following_table(url, calls, BELL_ONLY) as followed:
            await followed.has(2)
            await followed.settled()
    (told,) = [one for one in logs if one["event"] == "cdr.follows"]
    assert "crmbridge sync" in told["hint"]


async def test_of_a_call_that_began_before_that_day_all_records_are_taken(
    fresh: Fresh, url: str, calls: CallList
) -> None:
    """Else its lines would be made of its end alone."""
    begun = NOW - DAY - 600
    first, last = record(begun, 1), record(NOW - DAY + 60, 2, begun=begun, linkedid=f"{begun}.1", channel="PJSIP/778-1")
    custom = [record(begun + 60, 3, linkedid="sales-1"), record(NOW - 500, 4, linkedid="sales-1")]
    unknown = record(begun, 9)  # ended before
    fresh.sql(insert([first, last, *custom, unknown]))
    async with following_table(url, calls, BELL_ONLY) as followed:
        await followed.settled()
        assert await known(calls) == keys([first, last, *custom])


async def test_after_days_away_it_goes_on_where_it_was(fresh: Fresh, url: str, calls: CallList) -> None:
    async with following_table(url, calls, BELL_ONLY) as followed:
        await followed.settled()
    fresh.sql(insert([record(NOW + n * 3600, n) for n in range(1, 100)]))
    fresh.sql(insert([record(NOW - 7200, 100, duration_s=9000)]))  # it went on when we stopped
    with capture_logs() as logs:
        async with following_table(url, calls, BELL_ONLY, now=NOW + 5 * DAY) as followed:
            await followed.has(*range(1, 101))
    assert "cdr.follows" not in {one["event"] for one in logs}


async def test_a_stop_in_the_middle_loses_nothing(fresh: Fresh, url: str, calls: CallList) -> None:
    insert_many(fresh, [record(NOW - DAY + n * 8, n) for n in range(1, 2500)])
    for _ in range(3):
        async with following_table(url, calls, BELL_ONLY) as followed:
            before = await known(calls)
            await until_known(calls, lambda there: there != before or len(there) == 2499)  # noqa: B023
    async with following_table(url, calls, BELL_ONLY) as followed:
        await followed.settled()
        assert len(await known(calls)) == 2499


async def test_a_table_that_is_trimmed_restored_or_replaced(fresh: Fresh, url: str, calls: CallList) -> None:
    old = [record(NOW - 1000 + n, n) for n in range(1, 6)]
    fresh.sql(insert(old))
    async with following_table(url, calls, QUICK) as followed:
        await followed.has(*range(1, 6))
        fresh.sql("DELETE FROM cdr WHERE sequence < 4;" + insert([record(NOW, 6)]))
        await followed.has(*range(1, 7))
        fresh.sql("TRUNCATE cdr;" + insert([*old, record(NOW + 1, 7)]))
        await followed.has(*range(1, 8))
        fresh.sql("DROP TABLE cdr;" + FREEPBX.format(engine="MyISAM"))
        # Asterisk's sequence restarts with it: the same number, the same phone, another call.
        fresh.sql(insert([record(NOW + 2, 1, recordingfile="in-8.wav")]))
        await followed.has(*range(1, 9))


async def test_a_clock_that_is_set(fresh: Fresh, url: str, calls: CallList) -> None:
    async with following_table(url, calls, QUICK) as followed:
        await followed.settled()
        for n, now in enumerate((NOW + 400 * DAY, NOW, NOW - 3600, NOW + 60), start=1):
            followed.now[0] = now
            fresh.sql(insert([record(NOW + n * 10, n)]))
            if now > NOW + DAY:
                followed.records.take(event(record(NOW + n * 10, n)))
            else:
                followed.records.connected({})
            await followed.has(*range(1, n + 1))


async def test_the_hour_that_comes_twice(fresh: Fresh, url: str, calls: CallList) -> None:
    """Two calls at 01:30 by the clock, an hour apart."""
    back = int(datetime(2026, 10, 24, 23, tzinfo=UTC).timestamp())
    records = [record(back + minutes * 60, n) for n, minutes in enumerate((-90, -30, 30, 90))]
    fresh.sql(insert(records))
    async with following_table(url, calls, BELL_ONLY, now=back + 7200) as followed:
        await followed.settled()
        assert await known(calls) == keys(records)
        page = await calls.by_number(KEY)
        assert {int(row.started_at.timestamp()) for row in page.rows} == {
            int(one.start_at.timestamp()) for one in records
        }


async def test_a_record_that_never_comes_is_told_once(url: str, calls: CallList) -> None:
    with capture_logs() as logs:
        async with following_table(url, calls, BELL_ONLY) as followed:
            for n in range(1, 4):
                followed.records.take(event(record(NOW, n)))
            await until(lambda: not followed.records._bells)
    warned = [one for one in logs if one["event"] == "cdr.no_row" and one["log_level"] == "warning"]
    assert [one["uniqueid"] for one in warned] == [f"{NOW}.1"]


async def test_bells_that_tell_nothing_are_passed_over(url: str, calls: CallList) -> None:
    async with following_table(url, calls, BELL_ONLY) as followed:
        with capture_logs() as logs:
            followed.records.take({"Event": "Cdr", "UniqueID": "", "StartTime": "2026-11-23 10:00:00"})
            followed.records.take({"Event": "Cdr", "UniqueID": "x", "StartTime": "soon"})
        assert [one["event"] for one in logs] == ["cdr.unreadable"] * 2


# The database goes away


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that may be ended."""
    with server() as one:
        one.database.run("CREATE DATABASE asteriskcdrdb; USE asteriskcdrdb; " + FREEPBX.format(engine="InnoDB"))
        yield one


def sql(own: Server, statements: str) -> None:
    own.database.run("USE asteriskcdrdb; " + statements)


def outages(logs: list[Any]) -> list[str]:
    return [one["event"] for one in logs if one["event"] in {"cdr.source_away", "cdr.back", "cdr.store_away"}]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes less."""
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(following, "LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(cdr_table, "_ANSWER_S", 0.5)
    monkeypatch.setattr(cdr_table, "CONNECT_S", 1)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_server_that_is_killed_or_frozen(own: Server, calls: CallList, how: str) -> None:
    url = reader(own.database, "asteriskcdrdb")
    sql(own, insert([record(NOW, 1)]))
    with capture_logs() as logs:
        async with following_table(url, calls, BELL_ONLY) as followed:
            await followed.has(1)
            await followed.settled()
            await asyncio.to_thread(own.kill if how == "killed" else lambda: own.signal(signal.SIGSTOP))
            followed.records.take(event(record(NOW + 10, 2)))
            await until(lambda: "cdr.source_away" in outages(logs))
            for n in range(3, 8):
                followed.records.take(event(record(NOW + n, n)))
            await asyncio.to_thread(own.start if how == "killed" else lambda: own.signal(signal.SIGCONT))
            await until(lambda: "cdr.back" in outages(logs))
            # Two of which bells told, one of which none did.
            await asyncio.to_thread(sql, own, insert([record(NOW + 10, 2), record(NOW + 3, 3), record(NOW - 9000, 4)]))
            followed.records.connected({})
            await followed.has(1, 2, 3, 4)
    assert outages(logs) == ["cdr.source_away", "cdr.back"], "one line each"


async def test_a_stop_while_the_server_hangs(own: Server, calls: CallList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdr_table, "_ANSWER_S", 60.0)
    async with following_table(reader(own.database, "asteriskcdrdb"), calls, BELL_ONLY) as followed:
        await followed.settled()
        own.signal(signal.SIGSTOP)
        followed.records.take(event(record(NOW, 1)))
        await until(lambda: not followed.records._wake.is_set())
    own.signal(signal.SIGCONT)  # `following_table` has measured how long the stop took


async def test_no_connection_left(fresh: Fresh, url: str, calls: CallList) -> None:
    user = url.partition("//")[2].partition(":")[0]
    fresh.sql(f"ALTER USER '{user}'@'127.0.0.1' WITH MAX_USER_CONNECTIONS 1;" + insert([record(NOW, 1)]))
    other = CdrTable(url, "cdr", pbx="pbx", timezone=HERE)
    await other.shape()
    with capture_logs() as logs:
        async with following_table(url, calls, QUICK) as followed:
            await until(lambda: outages(logs) == ["cdr.source_away"])
            await other.close()
            await followed.has(1)
    assert outages(logs) == ["cdr.source_away", "cdr.back"]
    assert "max_user_connections" in next(one["reason"] for one in logs if one["event"] == "cdr.source_away")


async def test_a_server_that_is_made_read_only_is_read(own: Server, calls: CallList) -> None:
    sql(own, insert([record(NOW, 1)]) + "SET GLOBAL read_only = 1;")
    with capture_logs() as logs:
        async with following_table(reader(own.database, "asteriskcdrdb"), calls, QUICK) as followed:
            await followed.has(1)
    assert outages(logs) == []


async def test_the_list_s_own_database_goes_away(fresh: Fresh, url: str, tmp_path: Path) -> None:
    """Records are read again when it is back."""
    async with open_call_list(sqlite_url(tmp_path / "own.db"), HISTORY.rows, HERE) as calls:
        with capture_logs() as logs:
            async with following_table(url, calls, QUICK) as followed:
                await followed.settled()
                bring_back = refuse(calls)
                fresh.sql(insert([record(NOW, 1)]))
                followed.records.take(event(record(NOW, 1)))
                await until(lambda: outages(logs) == ["cdr.store_away"])
                bring_back()
                await followed.has(1)
        assert outages(logs) == ["cdr.store_away", "cdr.back"]


def refuse(calls: CallList) -> Callable[[], None]:
    """Have the list's file locked by another program, until what this returns is called."""
    other = sqlite3.connect(calls._database.name, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    def back() -> None:
        other.execute("ROLLBACK")
        other.close()

    return back


async def test_the_loop_is_never_held_up_for_long(fresh: Fresh, url: str, calls: CallList) -> None:
    """While thousands of records come, others have their turn: what a popup would wait, in turns of the loop."""
    insert_many(fresh, [record(NOW - 3000 + n % 600, n) for n in range(1, 4000)])
    turns = 0
    async with following_table(url, calls, BELL_ONLY) as followed:
        async with asyncio.timeout(60):
            while len(await known(calls)) < 3999:
                turns += 1
                await asyncio.sleep(0)
        await followed.settled()
    assert turns > 20

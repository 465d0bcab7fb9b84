"""The call list in a real SQLite file and in a real MariaDB: records in, lines out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Row, event
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.integration.conftest import Fresh
from tests.recorded import NUMBERS, history

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.history import CallRow, Page, Position
from crmbridge.store import call_pruning
from crmbridge.store.call_list import CallList, open_call_list
from crmbridge.store.schema import StoreError

BEGAN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
HISTORY = history(r"7\d\d", ["PJSIP/trunk"])


def record(call: int = 1, channel: str = "PJSIP/trunk-1", dstchannel: str = "PJSIP/777-2", **other: object) -> Cdr:
    values: dict[str, object] = {
        "pbx": "pbx",
        "linkedid": f"17954131{call:02}.1",
        "uniqueid": f"17954131{call:02}.1",
        "sequence": 1,
        "src": "033004799",
        "dst": "0723456777",
        "did": "",
        "start_at": BEGAN + timedelta(minutes=call),
        "duration_s": 5,
        "billsec_s": 5,
        "disposition": "ANSWERED",
        "recordingfile": "",
    }
    return Cdr(channel=channel, dstchannel=dstchannel, **(values | other))  # type: ignore[arg-type]  # a test's table


HERE = ZoneInfo("Asia/Jerusalem")


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.needs("mariadb"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    fresh = request.getfixturevalue("fresh")
    assert isinstance(fresh, Fresh)
    return fresh.url


@pytest.fixture
async def calls(url: str) -> AsyncIterator[CallList]:
    async with open_call_list(url, HISTORY.rows, HERE) as opened:
        yield opened


@pytest.fixture
async def other(url: str) -> AsyncIterator[CallList]:
    """The same list as another process has it, with connections of its own."""
    async with open_call_list(url, HISTORY.rows, HERE) as opened:
        yield opened


KEY = NUMBERS.same("033004799")


async def add(calls: CallList, one: Cdr) -> bool:
    return bool(await calls.add([one]))


async def all_of(calls: CallList, query: str) -> list[tuple[object, ...]]:
    """What a query finds; sorted."""

    async def work(connection: AsyncConnection) -> list[tuple[object, ...]]:
        return sorted(tuple(row) for row in await connection.exec_driver_sql(query))

    return await calls._database.read(work)


def shown(page: Page) -> list[tuple[str, int]]:
    return [(row.extension, row.talk_s) for row in page.rows]


async def test_a_call(calls: CallList) -> None:
    assert await add(calls, record(recordingfile="in-777.wav"))
    page = await calls.by_number(KEY)
    assert page.after is None
    assert page.rows == [
        CallRow(
            pbx="pbx",
            linkedid="1795413101.1",
            client_id="10",
            extension="777",
            number="033004799",
            number_key="+97233004799",
            started_at=BEGAN + timedelta(minutes=1),
            talk_s=5,
            filename="in-777.wav",
            incoming=True,
        )
    ]


async def test_what_is_added_survives_the_process(url: str) -> None:
    async with open_call_list(url, HISTORY.rows, HERE) as calls:
        await add(calls, record())
    async with open_call_list(url, HISTORY.rows, HERE) as again:
        assert shown(await again.by_number(KEY)) == [("777", 5)]
        assert not await add(again, record())


async def test_the_same_record_twice_is_one(calls: CallList) -> None:
    assert [await add(calls, record()), await add(calls, record())] == [True, False]
    assert shown(await calls.by_number(KEY)) == [("777", 5)]


async def test_the_same_record_at_the_same_instant(calls: CallList, other: CallList) -> None:
    added = await asyncio.gather(*(add(one, record()) for one in (calls, other) * 10))
    assert sorted(added) == [False] * 19 + [True]
    assert shown(await calls.by_number(KEY)) == [("777", 5)]


async def test_records_of_one_call_at_the_same_instant(calls: CallList, other: CallList) -> None:
    records = [record(dstchannel=f"PJSIP/7{n:02}-1", sequence=n) for n in range(20)]
    await asyncio.gather(*(add((calls, other)[n % 2], one) for n, one in enumerate(records)))
    assert len((await calls.by_number(KEY)).rows) == 20


async def test_a_pbx_that_tells_no_sequence_may_pair_the_same_channels_twice(calls: CallList) -> None:
    await add(calls, record(sequence=-1795413101))
    await add(calls, record(sequence=-1795413161, start_at=BEGAN + timedelta(minutes=2), billsec_s=7))
    assert shown(await calls.by_number(KEY)) == [("777", 12)]


async def test_a_call_whose_records_come_one_by_one(calls: CallList) -> None:
    await add(calls, record(channel="Local/777@q-1;2", uniqueid="1795413101.3", dstchannel="PJSIP/777-2"))
    assert shown(await calls.by_number(KEY)) == []
    await add(calls, record(dstchannel="Local/778@q-2;1", sequence=2, disposition="NO ANSWER"))
    assert shown(await calls.by_number(KEY)) == [("777", 5)]
    await add(calls, record(dstchannel="Local/777@q-1;1", sequence=3, recordingfile="q.wav"))
    assert [row.filename for row in (await calls.by_number(KEY)).rows] == ["q.wav"]


async def test_a_missed_call_that_turns_out_answered(calls: CallList) -> None:
    await add(calls, record(disposition="NO ANSWER", duration_s=0))
    assert shown(await calls.by_number(KEY)) == [("777", 0)]
    await add(calls, record(dstchannel="PJSIP/778-3", sequence=2))
    assert shown(await calls.by_number(KEY)) == [("778", 5)]


async def test_two_pbxes_may_have_the_same_ids(calls: CallList) -> None:
    assert await add(calls, record(pbx="haifa"))
    assert await add(calls, record(pbx="eilat"))
    assert {row.pbx for row in (await calls.by_number(KEY)).rows} == {"haifa", "eilat"}


async def test_filters(calls: CallList) -> None:
    await add(calls, record(1))
    await add(calls, record(2, dstchannel="PJSIP/778-2"))
    await add(calls, record(3, channel="PJSIP/777-1", dstchannel="PJSIP/trunk-2", src="777", dst="03-3004799"))
    await add(calls, record(4, src="0541234567"))

    async def minutes(**filters: object) -> list[int]:
        page = await calls.by_number(KEY, **filters)  # type: ignore[arg-type]  # a test's table
        return [round((row.started_at - BEGAN) / timedelta(minutes=1)) for row in page.rows]

    at = [BEGAN + timedelta(minutes=n) for n in range(5)]
    assert await minutes() == [3, 2, 1]
    assert await minutes(extension="777") == [3, 1]
    assert await minutes(incoming=True) == [2, 1]
    assert await minutes(incoming=False) == [3]
    assert await minutes(since_at=at[2]) == [3, 2]
    assert await minutes(until_at=at[2]) == [1]
    assert await minutes(since_at=at[1], until_at=at[3], extension="778") == [2]
    assert await minutes(limit=2) == [3, 2]


async def test_pages_while_calls_come_in_and_calls_at_the_same_second(calls: CallList) -> None:
    for n in range(10, 35):
        await add(calls, record(n, start_at=BEGAN + timedelta(seconds=n // 4)))
    seen: list[str] = []
    after = None
    for n in range(100):
        page = await calls.by_number(KEY, limit=4, after=after)
        seen += [row.linkedid for row in page.rows]
        await add(calls, record(n % 10, start_at=BEGAN + timedelta(hours=1 + n), uniqueid=f"x{n}", linkedid=f"x{n}"))
        # a line that is brought up to date stays where it is
        await add(calls, record(30, start_at=BEGAN + timedelta(seconds=30 // 4), sequence=50 + n, billsec_s=1))
        after = page.after
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 25


async def test_records_of_several_calls_at_once(calls: CallList) -> None:
    known = record(1)
    await add(calls, known)
    new = [record(2), record(1, dstchannel="PJSIP/778-3", sequence=2), record(3, pbx="eilat")]
    assert await calls.add([known, *new, new[0]]) == 3
    assert sorted(shown(await calls.by_number(KEY))) == [("777", 5)] * 3 + [("778", 5)]
    assert await calls.add([known, *new]) == 0
    assert await calls.add([]) == 0


async def test_the_clients_calls_are_told_apart(calls: CallList) -> None:
    lines = [line(n, client_id=str(10 + n % 3)) for n in range(9)]
    await calls.replace("pbx", by_call(lines))

    async def clients(*ids: str) -> list[str]:
        return [row.client_id for row in (await calls.by_number(KEY, client_ids=ids)).rows]

    assert await clients("10") == ["10"] * 3
    assert await clients("12", "11") == ["12", "11"] * 3
    assert len((await calls.by_number(KEY, client_ids=frozenset({"10", "11"}))).rows) == 6
    assert await clients() == []
    assert await clients("1' OR '1'='1") == []


# The bulk path


def line(call: int, **other: object) -> CallRow:
    values: dict[str, object] = {
        "pbx": "pbx",
        "linkedid": f"17954131{call:02}.1",
        "client_id": "10",
        "extension": "777",
        "number": "033004799",
        "number_key": KEY,
        "started_at": BEGAN + timedelta(minutes=call),
        "talk_s": 5,
        "filename": "",
        "incoming": True,
    }
    return CallRow(**(values | other))  # type: ignore[arg-type]  # a test's table


def by_call(lines: Sequence[CallRow]) -> dict[str, list[CallRow]]:
    calls: dict[str, list[CallRow]] = {}
    for one in lines:
        calls.setdefault(one.linkedid, []).append(one)
    return calls


async def test_lines_put_there_are_found_as_those_of_records_are(calls: CallList) -> None:
    await calls.add([record(1), record(2, billsec_s=7)])
    await calls.replace("pbx", by_call([line(3), line(4, number="03-3004799")]))
    assert (await calls.by_number(KEY)).rows == [line(4, number="03-3004799"), line(3), line(2, talk_s=7), line(1)]
    assert (await calls.by_number(KEY, limit=2)).rows == [line(4, number="03-3004799"), line(3)]


async def test_only_what_differs_is_written(calls: CallList, other: CallList) -> None:
    lines = [line(n, number=f"0330047{n:02}", number_key=f"+972330047{n:02}") for n in range(50)]
    assert await calls.replace("pbx", by_call(lines)) == 50
    assert await calls.replace("pbx", by_call(lines)) == 0
    assert await other.replace("pbx", by_call(lines)) == 0
    before = await all_of(calls, "SELECT * FROM calls")
    lines[7] = lines[7]._replace(talk_s=6)
    lines[8] = lines[8]._replace(started_at=BEGAN)
    gone: dict[str, list[CallRow]] = {lines[9].linkedid: []}
    assert await other.replace("pbx", by_call(lines[:9]) | gone) == 1 + 2 + 1
    after = await all_of(calls, "SELECT * FROM calls")
    assert len(after) == 49
    assert len(set(after) & set(before)) == 47


async def test_other_calls_and_other_pbxes_stay(calls: CallList) -> None:
    await calls.replace("haifa", by_call([line(1, pbx="haifa"), line(2, pbx="haifa")]))
    await calls.replace("eilat", by_call([line(1, pbx="eilat")]))
    await calls.replace("haifa", {line(1).linkedid: []})
    assert [(row.pbx, row.linkedid) for row in (await calls.by_number(KEY)).rows] == [
        ("haifa", line(2).linkedid),
        ("eilat", line(1).linkedid),
    ]


async def test_a_line_corrected_keeps_its_place(calls: CallList) -> None:
    await calls.add([record(1)])
    (before,) = await all_of(calls, "SELECT number_id, epoch_s, id FROM calls")
    await calls.replace("pbx", by_call([line(1, talk_s=99, filename="a.wav", client_id="11")]))
    assert await all_of(calls, "SELECT number_id, epoch_s, id FROM calls") == [before]
    assert (await calls.by_number(KEY)).rows == [line(1, talk_s=99, filename="a.wav", client_id="11")]


async def test_the_same_extension_and_number_twice_in_a_call(calls: CallList) -> None:
    twice = [line(1), line(1, talk_s=9)]
    await calls.replace("pbx", by_call(twice))
    assert sorted(shown(await calls.by_number(KEY))) == [("777", 5), ("777", 9)]
    assert await calls.replace("pbx", by_call(twice[::-1])) == 0


async def test_two_processes_write_the_same_calls_at_once(calls: CallList, other: CallList) -> None:
    """By both paths, over and over, each with other numbers that the dictionary lacks; every line comes out once."""
    each = {
        n: [
            record(n, start_at=BEGAN + timedelta(seconds=n), dstchannel=f"PJSIP/7{k:02}-1", sequence=k)
            for k in range(3)
        ]
        for n in range(40)
    }
    lines = {records[0].linkedid: HISTORY.rows(records) for records in each.values()}

    async def adding(to: CallList) -> None:
        for k in range(3):
            for records in each.values():
                await to.add([records[k]])

    async def replacing(to: CallList) -> None:
        for _ in range(10):
            await to.replace("pbx", lines)

    await asyncio.gather(adding(calls), adding(other), replacing(calls), replacing(other))
    rows = (await calls.by_number(KEY, limit=1000)).rows
    assert sorted(rows) == sorted(row for some in lines.values() for row in some)
    assert len(await all_of(calls, "SELECT id FROM calls")) == len(rows) == 120


async def test_text_of_any_language_and_hostile_text(calls: CallList) -> None:
    odd = "דנה 😀 ' OR 1=1 -- \\ \" %s ? ;"
    one = line(1, extension=odd, filename=odd, number=odd, number_key=odd, client_id=odd)
    await calls.replace("pbx", by_call([one]))
    assert (await calls.by_number(odd)).rows == [one]
    assert (await calls.by_number(odd.upper())).rows == []
    assert (await calls.by_number(odd, extension=odd, client_ids=[odd])).rows == [one]


async def test_what_is_too_long_is_cut_and_keeps_nothing_else_away(calls: CallList) -> None:
    long = line(1, extension="7" * 500, number="0" * 500, client_id="1" * 500, filename="f" * 500)
    assert await calls.replace("pbx", by_call([long, line(2)])) == 2
    (found,) = (await calls.by_number(KEY, extension="7" * 150)).rows
    assert (len(found.number), len(found.client_id), len(found.filename)) == (64, 150, 255)
    assert await calls.replace("pbx", by_call([long, line(2)])) == 0


async def test_the_time_that_others_read_is_the_pbxs(calls: CallList) -> None:
    first = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)  # 01:30 in Jerusalem, and once more an hour later
    lines = [line(n, started_at=first + timedelta(hours=n)) for n in range(2)]
    await calls.replace("pbx", by_call(lines))
    assert [str(time) for (time,) in await all_of(calls, "SELECT time FROM calls")] == ["2026-10-25 01:30:00"] * 2
    assert (await calls.by_number(KEY)).rows == lines[::-1]


# Records, progress


async def test_what_is_known(calls: CallList) -> None:
    records = [record(n) for n in range(5)] + [record(3, pbx="eilat")]
    await calls.add(records)
    at = [BEGAN + timedelta(minutes=n) for n in range(6)]
    assert await calls.known("pbx", at[0], at[5]) == {one.key for one in records[:5]}
    assert await calls.known("pbx", at[1], at[3]) == {records[1].key, records[2].key}
    assert await calls.known("eilat", at[0], at[5]) == {records[5].key}
    assert await calls.known("pbx", at[1] + timedelta(microseconds=1), at[2]) == set()
    assert await calls.known("pbx", at[1], at[1] + timedelta(microseconds=1)) == {records[1].key}


async def test_progress(calls: CallList, other: CallList) -> None:
    assert await calls.progress("pbx", "table") is None
    await calls.set_progress("pbx", "table", "2026-11-23 10:00:00")
    await calls.set_progress("pbx", "file", "1234")
    await other.set_progress("pbx", "table", "2026-11-23 11:00:00 ' ? %s")
    assert await calls.progress("pbx", "table") == "2026-11-23 11:00:00 ' ? %s"
    assert await calls.progress("eilat", "table") is None


# Retention


async def test_records_are_pruned_and_their_lines_stay(calls: CallList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_pruning, "STEP", 3)
    records = [record(n) for n in range(10)] + [record(3, pbx="eilat")]
    await calls.add(records)
    before_at = BEGAN + timedelta(minutes=8)
    assert [await calls.prune_records("pbx", before_at) for _ in range(4)] == [3, 3, 2, 0]
    assert await calls.known("pbx", BEGAN, BEGAN + timedelta(hours=1)) == {one.key for one in records[8:10]}
    assert len(await all_of(calls, "SELECT pbx FROM cdrs WHERE pbx = 'eilat'")) == 1
    assert len((await calls.by_number(KEY)).rows) == 11


async def test_calls_are_pruned_with_the_numbers_that_nobody_has_any_more(
    calls: CallList, other: CallList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_pruning, "STEP", 3)
    lines = [line(n, number=f"03300470{n % 8}", number_key=f"+9723300470{n % 8}") for n in range(10)]
    await calls.replace("pbx", by_call(lines))
    await other.replace("eilat", by_call([lines[0]._replace(pbx="eilat", linkedid="e", started_at=BEGAN)]))
    before_at = BEGAN + timedelta(minutes=8)
    assert [await calls.prune_calls(before_at) for _ in range(4)] == [3, 3, 3, 0]
    assert [number for (number,) in await all_of(calls, "SELECT number FROM numbers")] == ["033004700", "033004701"]
    # A number that was there before is written again, by whoever still took it for granted.
    assert await calls.replace("pbx", by_call(lines)) == 8
    assert (await calls.by_number("+97233004705")).rows == [lines[5]]
    assert await other.replace("eilat", by_call([lines[4]._replace(pbx="eilat", linkedid="e")])) == 1
    assert len((await calls.by_number("+97233004704")).rows) == 2


# How it is found


@pytest.mark.parametrize("which", [{}, {"client_ids": ["10", "11"], "extension": "777", "incoming": True}])
async def test_a_lookup_reads_one_range_of_an_index_in_order(
    calls: CallList, url: str, which: dict[str, object]
) -> None:
    await calls.replace(
        "pbx", {f"x{n}": [line(n, linkedid=f"x{n}", number=f"{n % 9}", number_key=f"{n % 9}")] for n in range(3000)}
    )
    since = {"since_at": BEGAN, "until_at": BEGAN + timedelta(days=1), "after": Position(1795413101 + 86400, 5)}
    ran: list[tuple[str, object]] = []

    def listen(*args: Any) -> None:  # noqa: ANN401  # SQLAlchemy's signature
        ran.append((args[2], args[3]))

    event.listen(calls._database._reading.sync_engine, "before_cursor_execute", listen)
    await calls.by_number("5", limit=10, **which, **since)  # type: ignore[arg-type]  # a test's table
    event.remove(calls._database._reading.sync_engine, "before_cursor_execute", listen)
    selects = [(sql, values) for sql, values in ran if "FROM" in sql]
    assert len(selects) == 2

    async def plan(connection: AsyncConnection) -> list[list[Row[Any]]]:
        explain = "EXPLAIN " if "mysql" in url else "EXPLAIN QUERY PLAN "
        return [list(await connection.exec_driver_sql(explain + sql, values)) for sql, values in selects]  # type: ignore[arg-type]

    numbers, lines = await calls._database.read(plan)
    if "sqlite" in url:
        assert [row.detail for row in numbers] == ["SEARCH numbers USING INDEX numbers_by_key (number_key=?)"]
        assert [row.detail for row in lines] == [
            "SEARCH calls USING PRIMARY KEY (number_id=? AND epoch_s>? AND epoch_s<?)"
        ]
    else:
        assert [(row.key, row.type) for row in numbers] == [("numbers_by_key", "ref")]
        assert [(row.key, row.type) for row in lines] == [("PRIMARY", "range")]
        assert "filesort" not in lines[0].Extra
        assert "temporary" not in lines[0].Extra


async def test_a_table_that_is_gone_is_explained_and_nothing_is_half_done(calls: CallList) -> None:
    async def drop(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("DROP TABLE calls")

    await add(calls, record(1))
    await calls._database.write(drop)
    with pytest.raises(StoreError, match="calls"):
        await calls.by_number(KEY)
    with pytest.raises(StoreError, match="calls"):
        await add(calls, record(2))
    linkedids = await all_of(calls, "SELECT linkedid FROM cdrs")
    assert linkedids == [(record(1).linkedid,)], "a record without its lines would never get them"

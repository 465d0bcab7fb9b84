"""The call list in a real SQLite file: records in, lines out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.history import CallRow, History, Page, is_extension, parties
from crmbridge.calls.numbers import Numbers
from crmbridge.store.call_list import SCHEMA, CallList
from crmbridge.store.engine import open_database, sqlite_url
from crmbridge.store.schema import StoreError

BEGAN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
ENDPOINTS = Endpoints(extensions=r"7\d\d", trunks=["PJSIP/trunk"])
NUMBERS = Numbers(region="IL", form="national", anonymous="anonymous")
HISTORY = History(
    party=parties(ENDPOINTS),
    is_extension=is_extension(ENDPOINTS),
    number=NUMBERS.caller,
    key=NUMBERS.same,
    client=Clients("10").of_call,
)


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


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = await open_database(sqlite_url(tmp_path / "calls.db"), [SCHEMA])
    yield engine
    await engine.dispose()


@pytest.fixture
def calls(engine: AsyncEngine) -> CallList:
    return CallList(engine, HISTORY.rows)


KEY = NUMBERS.same("033004799")


def shown(page: Page) -> list[tuple[str, int]]:
    return [(row.extension, row.talk_s) for row in page.rows]


async def test_a_call(calls: CallList) -> None:
    assert await calls.add_cdr(record(recordingfile="in-777.wav"))
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


async def test_what_is_added_survives_the_process(calls: CallList, engine: AsyncEngine) -> None:
    await calls.add_cdr(record())
    again = await open_database(engine.url, [SCHEMA])
    assert shown(await CallList(again, HISTORY.rows).by_number(KEY)) == [("777", 5)]
    assert not await CallList(again, HISTORY.rows).add_cdr(record())
    await again.dispose()


async def test_the_same_record_twice_is_one(calls: CallList) -> None:
    assert [await calls.add_cdr(record()), await calls.add_cdr(record())] == [True, False]
    assert shown(await calls.by_number(KEY)) == [("777", 5)]


async def test_the_same_record_at_the_same_instant(calls: CallList, engine: AsyncEngine) -> None:
    other = CallList(engine, HISTORY.rows)  # with a lock of its own, as another process would have
    added = await asyncio.gather(*(one.add_cdr(record()) for one in (calls, other) * 10))
    assert sorted(added) == [False] * 19 + [True]
    assert shown(await calls.by_number(KEY)) == [("777", 5)]


async def test_records_of_one_call_at_the_same_instant(calls: CallList, engine: AsyncEngine) -> None:
    other = CallList(engine, HISTORY.rows)
    records = [record(dstchannel=f"PJSIP/7{n:02}-1", sequence=n) for n in range(20)]
    await asyncio.gather(*((calls, other)[n % 2].add_cdr(one) for n, one in enumerate(records)))
    assert len((await calls.by_number(KEY)).rows) == 20


async def test_a_pbx_that_tells_no_sequence_may_pair_the_same_channels_twice(calls: CallList) -> None:
    await calls.add_cdr(record(sequence=-1795413101))
    await calls.add_cdr(record(sequence=-1795413161, start_at=BEGAN + timedelta(minutes=2), billsec_s=7))
    assert shown(await calls.by_number(KEY)) == [("777", 12)]


async def test_a_call_whose_records_come_one_by_one(calls: CallList) -> None:
    await calls.add_cdr(record(channel="Local/777@q-1;2", uniqueid="1795413101.3", dstchannel="PJSIP/777-2"))
    assert shown(await calls.by_number(KEY)) == []
    await calls.add_cdr(record(dstchannel="Local/778@q-2;1", sequence=2, disposition="NO ANSWER"))
    assert shown(await calls.by_number(KEY)) == [("777", 5)]
    await calls.add_cdr(record(dstchannel="Local/777@q-1;1", sequence=3, recordingfile="q.wav"))
    assert [row.filename for row in (await calls.by_number(KEY)).rows] == ["q.wav"]


async def test_a_missed_call_that_turns_out_answered(calls: CallList) -> None:
    await calls.add_cdr(record(disposition="NO ANSWER"))
    assert shown(await calls.by_number(KEY)) == [("777", 0)]
    await calls.add_cdr(record(dstchannel="PJSIP/778-3", sequence=2))
    assert shown(await calls.by_number(KEY)) == [("778", 5)]


async def test_two_pbxes_may_have_the_same_ids(calls: CallList) -> None:
    assert await calls.add_cdr(record(pbx="haifa"))
    assert await calls.add_cdr(record(pbx="eilat"))
    assert {row.pbx for row in (await calls.by_number(KEY)).rows} == {"haifa", "eilat"}


async def test_filters(calls: CallList) -> None:
    await calls.add_cdr(record(1))
    await calls.add_cdr(record(2, dstchannel="PJSIP/778-2"))
    await calls.add_cdr(record(3, channel="PJSIP/777-1", dstchannel="PJSIP/trunk-2", src="777", dst="03-3004799"))
    await calls.add_cdr(record(4, src="0541234567"))

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
        await calls.add_cdr(record(n, start_at=BEGAN + timedelta(seconds=n // 4)))
    seen: list[str] = []
    after = None
    for n in range(100):
        page = await calls.by_number(KEY, limit=4, after=after)
        seen += [row.linkedid for row in page.rows]
        await calls.add_cdr(record(n % 10, start_at=BEGAN + timedelta(hours=1 + n), uniqueid=f"x{n}", linkedid=f"x{n}"))
        # a line that is brought up to date stays where it is
        await calls.add_cdr(record(30, start_at=BEGAN + timedelta(seconds=30 // 4), sequence=50 + n, billsec_s=1))
        after = page.after
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 25


async def test_a_lookup_reads_the_index_and_nothing_else(calls: CallList, engine: AsyncEngine) -> None:
    await calls.add_cdr(record())
    async with engine.connect() as connection:
        plan = await connection.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT * FROM calls WHERE number_key = 'x' AND started_at <= 'y' "
                "AND (started_at < 'y' OR id < 5) ORDER BY started_at DESC, id DESC LIMIT 101"
            )
        )
        steps = [row.detail for row in plan]
    assert steps == ["SEARCH calls USING INDEX calls_by_number (number_key=? AND started_at<?)"]


async def test_a_database_that_is_gone_is_explained(calls: CallList, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE calls"))
    with pytest.raises(StoreError, match="call list's database"):
        await calls.by_number(KEY)
    with pytest.raises(StoreError, match="call list's database"):
        await calls.add_cdr(record())
    async with engine.connect() as connection:
        kept = await connection.scalar(select(func.count()).select_from(text("cdrs")))
    assert kept == 0, "a record without its lines would never get them"

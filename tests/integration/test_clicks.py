"""The trail of clicks: kept on a real disk, within bounds, and shown by the installed command."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.clicks import Asked, News, Outcome, Side
from crmbridge.calls.dialing import Code, Result
from crmbridge.clicks import MOST_OTHERS_PER_MINUTE, Clicks
from crmbridge.store import clicks as click_store
from crmbridge.store.clicks import ClickStore, Which, open_clicks

LIMIT_S = 20
COMMAND = str(Path(sys.executable).with_name("crmbridge"))
# The tests begin minutes after this: as long as a click takes here, nobody must lose patience with it.
AT = datetime.now(UTC).replace(microsecond=0)
CLICK = Asked(
    click_id="crm-1.0",
    at=AT,
    address="203.0.113.7",
    user="crm",
    client_id="10",
    extension="777",
    number="+972 3 300 4799",
    dialed="033004799",
    outcome=Outcome.IN_PROGRESS,
    pbx="haifa",
)
REFUSED = replace(CLICK, dialed=None, outcome=Outcome.REFUSED, code="number_not_allowed", reason="no")


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[ClickStore]:
    async with asyncio.timeout(LIMIT_S), open_clicks(folder / "clicks.db") as opened:
        yield opened


@asynccontextmanager
async def running(opened: ClickStore) -> AsyncIterator[Clicks]:
    clicks = Clicks(store=opened, calls={"haifa": ClickCalls(longest_ring_s=86_400)})
    await clicks.recall()
    task = asyncio.create_task(clicks.run())
    try:
        yield clicks
    finally:
        clicks.stop()
        await task


def newchannel(click_id: str = CLICK.click_id, state: str = "0") -> dict[str, str]:
    return {"Event": "Newchannel", "Uniqueid": click_id, "Linkedid": click_id, "ChannelState": state}


def hangup(click_id: str = CLICK.click_id) -> dict[str, str]:
    return {"Event": "Hangup", "Uniqueid": click_id, "Linkedid": click_id, "Cause": "16"}


def counted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


async def test_a_click_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async with store(tmp_path) as opened:
        async with running(opened) as clicks:
            await clicks.accepted(CLICK)
            (first,) = await opened.listing()
            assert first.asked == CLICK
            assert clicks.in_progress == 1
            clicks.settled(CLICK.click_id, Result())
            clicks.take("haifa", newchannel(state="6"), AT + timedelta(seconds=3))
            clicks.take("haifa", hangup(), AT + timedelta(seconds=4))
            assert clicks.in_progress == 0
        (last,) = await opened.listing()
    assert last.news == News(CLICK.click_id, AT + timedelta(seconds=4), Outcome.NOT_DIALED, Side.ANSWERED, cause=16)
    assert counted(clicks.codes()) == {"accepted": 1}
    assert counted(clicks.outcomes()) == {"not_dialed": 1}
    assert clicks.codes()["too_many"] == clicks.outcomes()["answered"] == 0, (
        "from the start, so that a rise can be told"
    )


async def test_the_log_has_a_line_for_each_step(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with store(tmp_path) as opened, running(opened) as clicks:
            await clicks.accepted(CLICK)
            clicks.take("haifa", newchannel(state="6"), AT)
            clicks.take("haifa", hangup(), AT)
    lines = [(line["event"], line.get("state", line.get("outcome"))) for line in logs]
    assert lines == [("click.phone", "answered"), ("click.ended", "not_dialed")]
    assert {line["click"] for line in logs} == {CLICK.click_id}


@pytest.mark.parametrize(
    ("code", "outcome", "in_progress"),
    [(Code.REFUSED, Outcome.NOT_PLACED, 0), (Code.UNKNOWN, Outcome.IN_PROGRESS, 1)],
)
async def test_what_the_pbx_did_not_take(tmp_path: Path, code: Code, outcome: Outcome, in_progress: int) -> None:
    async with store(tmp_path) as opened:
        async with running(opened) as clicks:
            await clicks.accepted(CLICK)
            clicks.settled(CLICK.click_id, Result(code, "why"))
            assert clicks.in_progress == in_progress
        (one,) = await opened.listing()
    assert (one.news.outcome, one.news.code, one.news.reason) == (outcome, code.value, "why")
    assert counted(clicks.codes()) == {code.value: 1}


async def test_an_end_keeps_the_code_that_came_before_it(tmp_path: Path) -> None:
    async with store(tmp_path) as opened:
        async with running(opened) as clicks:
            await clicks.accepted(CLICK)
            clicks.take("haifa", newchannel(state="6"), AT)
            clicks.settled(CLICK.click_id, Result(Code.UNKNOWN, "why"))
            clicks.take("haifa", hangup(), AT)
        (one,) = await opened.listing()
    assert (one.news.outcome, one.news.code, one.news.phone) == (Outcome.NOT_DIALED, Code.UNKNOWN.value, Side.ANSWERED)


async def test_a_click_of_before_a_restart_is_followed_or_unknown(tmp_path: Path) -> None:
    other = replace(CLICK, click_id="crm-2.0")
    async with store(tmp_path) as opened:
        async with running(opened) as before:
            await before.accepted(CLICK)
            await before.accepted(other)
        async with running(opened) as after:
            assert after.in_progress == 2
            listed = {**newchannel(state="6"), "Event": "CoreShowChannel", "ActionID": "a"}
            now = datetime.now(UTC)
            after.take("haifa", listed, now)
            after.take("haifa", {"Event": "CoreShowChannelsComplete", "ActionID": "a", "ListItems": "1"}, now)
            assert after.in_progress == 1
            after.take("haifa", hangup(), now)
        ends = {one.asked.click_id: one.news.outcome for one in await opened.listing()}
    assert ends == {CLICK.click_id: Outcome.NOT_DIALED, other.click_id: Outcome.UNKNOWN}


async def test_repeated_and_refused_clicks_are_listed_beside_the_one_that_was_placed(tmp_path: Path) -> None:
    async with store(tmp_path) as opened:
        async with running(opened) as clicks:
            await clicks.accepted(CLICK)
            clicks.refused(replace(CLICK, outcome=Outcome.REPEATED))
            clicks.refused(replace(REFUSED, click_id="crm-3.0"))
            clicks.take("haifa", newchannel(state="6"), AT)
            clicks.take("haifa", hangup(), AT)
        listed = await opened.listing()
    assert [one.news.outcome for one in listed] == [Outcome.REFUSED, Outcome.REPEATED, Outcome.NOT_DIALED]
    assert listed[0].news.code == "number_not_allowed"
    assert counted(clicks.codes()) == {"repeated": 1, "number_not_allowed": 1}


async def test_a_flood_of_refused_clicks_is_counted_and_not_stored(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with store(tmp_path) as opened:
            async with running(opened) as clicks:
                for number in range(10 * MOST_OTHERS_PER_MINUTE):
                    clicks.refused(replace(REFUSED, click_id=f"crm-{number}.0"))
                await clicks.accepted(CLICK)
                clicks.refused(replace(REFUSED, click_id="crm-later.0", at=AT + timedelta(minutes=1)))
            listed = await opened.listing(limit=10_000)
    assert len(listed) == MOST_OTHERS_PER_MINUTE + 2
    assert counted(clicks.codes()) == {"number_not_allowed": 10 * MOST_OTHERS_PER_MINUTE + 1}
    assert [line["not_stored"] for line in logs if line["event"] == "click.flood"] == [9 * MOST_OTHERS_PER_MINUTE]


async def test_what_is_kept_is_bounded_and_refused_clicks_push_out_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click_store, "MOST_OTHERS", 3)
    monkeypatch.setattr(click_store, "MOST_PLACED", 2)
    async with store(tmp_path) as opened:
        await opened.write([replace(CLICK, click_id="old", at=AT - timedelta(days=181))])
        await opened.write([replace(REFUSED, click_id=f"r{number}") for number in range(9)])
        await opened.write([replace(CLICK, click_id=f"p{number}") for number in range(4)])
        pruned = [await opened.prune(AT - timedelta(days=180), limit=4) for _ in range(4)]
        left = [one.asked.click_id for one in await opened.listing()]
    assert sum(pruned) == 9
    assert max(pruned) <= 4
    assert left == ["p3", "p2", "r8", "r7", "r6"]


async def test_an_end_that_is_known_stays(tmp_path: Path) -> None:
    async with store(tmp_path) as opened:
        await opened.write([replace(CLICK, click_id="a"), replace(CLICK, click_id="b")])
        await opened.write([News("a", AT, Outcome.BUSY, Side.ANSWERED, Side.FAILED, cause=17)])
        assert [one.news.outcome for one in await opened.listing()] == [Outcome.IN_PROGRESS, Outcome.BUSY]
        await opened.write([News("a", AT, Outcome.UNKNOWN)])
        assert (await opened.listing(Which(click_id="a")))[0].news.outcome is Outcome.BUSY


async def test_hostile_values_are_harmless(tmp_path: Path) -> None:
    nasty = replace(REFUSED, number="\x1b[2J\r\n\u202e1'; DROP TABLE clicks;--" + "9" * 5000, reason="\ud800")
    async with store(tmp_path) as opened:
        await opened.write([nasty])
        (one,) = await opened.listing()
    assert one.asked.number.startswith(r"\x1b[2J\r\n\u202e1'; DROP")
    assert len(one.asked.number) < 300
    assert one.asked.reason == r"\ud800"


async def test_a_damaged_file_is_set_aside_and_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "clicks.db").write_bytes(b"no database at all" * 1000)
    async with store(tmp_path) as opened:
        await opened.write([CLICK])
        assert [one.asked for one in await opened.listing()] == [CLICK]
    assert len(set_aside(tmp_path)) == 1


def set_aside(folder: Path) -> list[Path]:
    return list(folder.glob("clicks.db.damaged-*"))


# The command


async def command(folder: Path, *arguments: str) -> tuple[int, str]:
    config = folder / "config.toml"
    config.write_text(
        f"""
        [crm]
        url = "http://127.0.0.1:1/webservice.php"
        client_id = 10
        [ami]
        username = "crmbridge"
        secret = "s3cret"
        [http]
        username = "crm"
        password = "http-s3cret"
        [store]
        state_dir = "{folder}"
        """
    )
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        "--config",
        str(config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def listed(folder: Path, *filters: str) -> list[dict[str, Any]]:
    code, output = await command(folder, "clicks", "--json", *filters)
    assert code == 0, output
    rows: list[dict[str, Any]] = json.loads(output)
    return rows


async def test_the_command_lists_them_newest_first_and_by_each_filter(tmp_path: Path) -> None:
    noon = datetime(2026, 11, 23, 12).astimezone(UTC)
    async with store(tmp_path) as opened:
        end = News(CLICK.click_id, noon, Outcome.ANSWERED, Side.ANSWERED, Side.ANSWERED, talk_s=7)
        await opened.write([replace(CLICK, at=noon), end])
        later = replace(REFUSED, click_id="crm-2.0", at=noon + timedelta(days=1), extension="778", client_id="11")
        await opened.write([later])
    newest, oldest = await listed(tmp_path)
    assert (newest["click"], oldest["click"]) == ("crm-2.0", "crm-1.0")
    assert newest["code"] == "number_not_allowed"
    assert (oldest["outcome"], oldest["talk"], oldest["phone"], oldest["dialed"]) == (
        "answered",
        7,
        "answered",
        "033004799",
    )
    assert (oldest["address"], oldest["user"], oldest["number"]) == ("203.0.113.7", "crm", "+972 3 300 4799")
    for filters in (
        ["--ext", "777"],
        ["--number", "033004799"],
        ["--client", "10"],
        ["--outcome", "answered"],
        ["--click", "crm-1.0"],
        ["--until", "2026-11-24 00:00"],
    ):
        assert [one["click"] for one in await listed(tmp_path, *filters)] == ["crm-1.0"], filters
    assert [one["click"] for one in await listed(tmp_path, "--since", "2026-11-24", "--limit", "1")] == ["crm-2.0"]
    code, table = await command(tmp_path, "clicks")
    assert code == 0
    assert "answered" in table
    assert "crm:203.0.113.7" in table.replace("\n", "")


async def test_without_a_daemon_ever_having_run_the_command_says_so(tmp_path: Path) -> None:
    code, output = await command(tmp_path, "clicks")
    assert code == 74
    assert "clicks.db" in output

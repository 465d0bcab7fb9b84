"""`crmbridge sync`: the history of a real MariaDB, or of files, into a real call list."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from tests.integration.cdr_tables import FREEPBX, HERE, HISTORY, KEY, insert, reader, record
from tests.integration.conftest import Fresh

from crmbridge import sync
from crmbridge.calls.cdr import Cdr
from crmbridge.calls.cdr_csv import OURS, from_line
from crmbridge.calls.gathering import calls_of
from crmbridge.calls.history import CallRow
from crmbridge.pbx.cdr_file import CdrFiles
from crmbridge.pbx.cdr_table import CdrTable, TooSlowError
from crmbridge.pbx.pace import Pace
from crmbridge.store.call_list import CallList, open_call_list
from crmbridge.store.engine import sqlite_url
from crmbridge.sync import Done, Sync
from crmbridge.sync_sources import FileHistory, TableHistory

BEGIN = 1_792_700_000
"""Two days before the clock in Jerusalem was set back."""
DAY = 86400
NOW = BEGIN + 10 * DAY


def history(seed: int, calls: int = 120, days: int = 6) -> list[Cdr]:
    """Calls of several records: long ones, over midnight, through the hour that comes twice, with gaps, with ids of
    their own."""
    chance = random.Random(seed)
    records: list[Cdr] = []
    for n in range(calls):
        begun = BEGIN + chance.randrange(days * DAY)
        linkedid = f"{begun}.{n}" if chance.random() < 0.9 else f"ticket-{n}"
        at = begun
        for m in range(chance.randrange(1, 5)):
            duration = chance.choice([5, 300, 4000, 30_000])
            phone = f"PJSIP/77{chance.randrange(4)}-{m:08x}"
            one = record(at, n * 10 + m, linkedid=linkedid, uniqueid=f"{at}.{n}", dstchannel=phone)
            records.append(one._replace(duration_s=duration, billsec_s=duration - 1))
            at += chance.choice([0, 1, duration, duration + 60, duration + 4000])
    return records


def expected(records: Iterable[Cdr]) -> list[CallRow]:
    return sorted(row for call in calls_of(records).values() for row in HISTORY.rows(call))


async def listed(calls: CallList) -> list[CallRow]:
    rows: list[CallRow] = []
    page = await calls.by_number(KEY, limit=500)
    rows += page.rows
    while page.after:
        page = await calls.by_number(KEY, limit=500, after=page.after)
        rows += page.rows
    return sorted(rows)


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[CallList]:
    async with open_call_list(sqlite_url(tmp_path / "calls.db"), HISTORY.rows, HERE) as opened:
        yield opened


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def past(fresh: Fresh, stack: AsyncExitStack) -> TableHistory:
    """Of a FreePBX's table."""
    fresh.sql(FREEPBX.format(engine="InnoDB"))
    table = CdrTable(reader(fresh.server, fresh.name), "cdr", pbx="pbx", timezone=HERE)
    stack.push_async_callback(table.close)
    return TableHistory(table)


def write(fresh: Fresh, records: list[Cdr]) -> None:
    for start in range(0, len(records), 300):
        fresh.sql(insert(records[start : start + 300]))


async def synced(
    past: TableHistory | FileHistory,
    calls: CallList,
    *,
    now: int = NOW,
    since: int | None = None,
    again: bool = False,
    stop_after: int | None = None,
) -> Done:
    """`stop_after`: stop after so many pieces."""
    stop, seen = asyncio.Event(), 0

    def show(done: Done) -> None:
        nonlocal seen
        del done
        seen += 1
        if seen == stop_after:
            stop.set()

    one = Sync(pbx="pbx", history=past, rows=HISTORY.rows, store=calls, now=now, show=show)
    return await one.run(stop, since=since, again=again)


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize("seed", range(3))
async def test_every_call_once_and_whole(
    fresh: Fresh, past: TableHistory, calls: CallList, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(sync, "BATCH", 7)
    records = history(seed)
    write(fresh, random.Random(seed).sample(records, len(records)))
    done = await synced(past, calls)
    assert await listed(calls) == expected(records)
    assert (done.records, done.cut, done.stopped) == (len(records), 0, False)
    done = await synced(past, calls, again=True)
    assert (done.lines, done.records) == (0, len(records)), "twice changes nothing"


class Fixed(Pace):
    """Ranges of one length."""

    def __init__(self, span_s: int) -> None:
        super().__init__(1000)
        self.span_s = span_s

    def took(self, rows: int, seconds: float) -> float:
        del rows, seconds
        return 0.0


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize(("span_s", "pieces"), [(1800, 60), (7200, 20)])
async def test_stopped_again_and_again_it_comes_to_the_same(
    fresh: Fresh, past: TableHistory, calls: CallList, monkeypatch: pytest.MonkeyPatch, span_s: int, pieces: int
) -> None:
    monkeypatch.setattr(sync, "BATCH", 5)
    monkeypatch.setattr(past, "_pace", Fixed(span_s))
    records = history(pieces, calls=60)
    write(fresh, records)
    runs = 0
    while True:
        done = await synced(past, calls, stop_after=pieces)
        runs += 1
        assert runs < 200
        if not done.stopped:
            break
    assert runs > 2
    assert await listed(calls) == expected(records)


@pytest.mark.needs("mariadb")
async def test_what_ended_within_a_day_is_taken_up_record_by_record(
    fresh: Fresh, past: TableHistory, calls: CallList
) -> None:
    """So that what the daemon hears later joins it."""
    old, ending = record(NOW - 3 * DAY, 1), record(NOW - 2 * DAY, 2)._replace(duration_s=DAY + 3600)
    new = record(NOW - 600, 3)
    write(fresh, [old, ending, new])
    done = await synced(past, calls)
    assert (done.lines, done.added) == (1, 2)
    later = record(NOW - 300, 4, begun=NOW - 600, linkedid=new.linkedid, dstchannel="PJSIP/778-1")
    await calls.add([later])
    assert await listed(calls) == expected([old, ending, new, later])


@pytest.mark.needs("mariadb")
async def test_beside_the_daemon(fresh: Fresh, past: TableHistory, calls: CallList) -> None:
    """What it has taken up already is not doubled."""
    records = history(5)
    write(fresh, records)
    await calls.add([one for one in records if one.start_at.timestamp() > BEGIN + 4 * DAY])
    await asyncio.gather(synced(past, calls), calls.add(records[:50]))
    assert await listed(calls) == expected(records)


@pytest.mark.needs("mariadb")
async def test_a_table_that_was_trimmed_takes_nothing_away(fresh: Fresh, past: TableHistory, calls: CallList) -> None:
    records = history(7)
    write(fresh, records)
    await synced(past, calls)
    middle = datetime.fromtimestamp(BEGIN + 3 * DAY, HERE).strftime("%Y-%m-%d %H:%M:%S")
    fresh.sql(f"DELETE FROM cdr WHERE calldate < '{middle}'")
    done = await synced(past, calls, again=True)
    assert await listed(calls) == expected(records)
    assert done.cut > 0


@pytest.mark.needs("mariadb")
async def test_since(fresh: Fresh, past: TableHistory, calls: CallList) -> None:
    """From then on; a call that began before is whole, and what is left out the next run brings."""
    records = history(8)
    write(fresh, records)
    since = BEGIN + 3 * DAY
    await synced(past, calls, since=since)
    whole = {one.linkedid for one in records if one.start_at.timestamp() >= since}
    assert await listed(calls) == expected(one for one in records if one.linkedid in whole)
    await synced(past, calls)
    assert await listed(calls) == expected(records)


@pytest.mark.needs("mariadb")
async def test_a_later_run_brings_what_came_since(fresh: Fresh, past: TableHistory, calls: CallList) -> None:
    records = history(9)
    first = [one for one in records if one.start_at.timestamp() + one.duration_s < BEGIN + 3 * DAY]
    write(fresh, first)
    await synced(past, calls, now=BEGIN + 3 * DAY)
    write(fresh, [one for one in records if one not in first])
    done = await synced(past, calls)
    assert await listed(calls) == expected(records)
    assert done.records < len(records)


@pytest.mark.needs("mariadb")
async def test_an_empty_table(past: TableHistory, calls: CallList) -> None:
    assert await synced(past, calls) == Done()


@pytest.mark.needs("mariadb")
async def test_ranges_that_take_too_long_are_read_in_parts(
    fresh: Fresh, past: TableHistory, calls: CallList, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = history(10, calls=40)
    write(fresh, records)
    read = past._table.read

    async def slow(since_s: int, until_s: int, linkedids: Iterable[str] = ()) -> list[Cdr]:
        if until_s - since_s > 5000:
            raise TooSlowError("too slow")
        return await read(since_s, until_s, list(linkedids))

    monkeypatch.setattr(past._table, "read", slow)
    await synced(past, calls)
    assert await listed(calls) == expected(records)


# Files


def line(one: Cdr) -> str:
    """As our cdr_custom.conf has it written."""
    texts = (OURS, one.linkedid, one.uniqueid)
    more = (one.channel, one.dstchannel, one.src, one.dst, one.did)
    quoted = [f'"{text}"' for text in texts], [f'"{text}"' for text in more]
    start = f"{int(one.start_at.timestamp())}.123456"
    numbers = [start, str(one.duration_s), str(one.billsec_s), f'"{one.disposition}"', f'"{one.recordingfile}"']
    return ",".join([*quoted[0], str(one.sequence), *quoted[1], *numbers]) + "\n"


def by_end(records: list[Cdr]) -> list[Cdr]:
    """In the order in which Asterisk writes them."""
    return sorted(records, key=lambda one: one.start_at.timestamp() + one.duration_s)


def files(folder: Path) -> FileHistory:
    return FileHistory(CdrFiles(folder / "crmbridge.csv", from_line("pbx", HERE)))


async def test_a_file_and_what_it_was_called_before(tmp_path: Path, calls: CallList) -> None:
    records = by_end(history(11))
    third = len(records) // 3
    texts = ["".join(map(line, records[n : n + third])) for n in (0, third, 2 * third)]
    texts[2] += "".join(map(line, records[3 * third :]))
    (tmp_path / "crmbridge.csv.2.gz").write_bytes(gzip.compress(texts[0].encode()))
    (tmp_path / "crmbridge.csv-20261123").write_text(texts[1] + "what is this?\n")
    (tmp_path / "crmbridge.csv").write_text(texts[2])
    done = await synced(files(tmp_path), calls)
    assert await listed(calls) == expected(records)
    assert done.records == len(records)
    done = await synced(files(tmp_path), calls, again=True)
    assert done.lines == 0


async def test_a_file_stopped_again_and_again(tmp_path: Path, calls: CallList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BATCH", 5)
    records = by_end(history(12))
    (tmp_path / "crmbridge.csv").write_text("".join(map(line, records)))
    past = files(tmp_path)
    whole_part = past._files.part
    monkeypatch.setattr(past._files, "part", lambda *args, **named: whole_part(*args, **{**named, "size": 4000}))
    runs = 0
    while (await synced(past, calls, stop_after=runs + 3)).stopped:
        runs += 1
        assert runs < 100
    assert runs > 2
    assert await listed(calls) == expected(records)


async def test_a_file_whose_begin_is_gone_takes_nothing_away(tmp_path: Path, calls: CallList) -> None:
    begun = NOW - 5 * DAY
    first, last = record(begun, 1), record(begun + 600, 2, begun=begun, linkedid=f"{begun}.1", channel="PJSIP/778-1")
    others = [record(begun + 500, 3)]
    (tmp_path / "crmbridge.csv").write_text("".join(map(line, [first, *others, last])))
    await synced(files(tmp_path), calls)
    before = await listed(calls)
    (tmp_path / "crmbridge.csv").write_text("".join(map(line, [*others, last])))
    done = await synced(files(tmp_path), calls, again=True)
    assert (await listed(calls), done.cut) == (before, 1)


# The command


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Path]:
    def written(source: str) -> Path:
        file = tmp_path / "config.toml"
        file.write_text(
            '[crm]\nurl = "https://crm.example/webservice.php"\nclient_id = "10"\n'
            '[ami]\nusername = "x"\nsecret = "y"\n[http]\nusername = "u"\npassword = "p"\n'
            f'[pbx]\ntrunks = ["PJSIP/trunk"]\n[store]\nstate_dir = "{tmp_path}"\n'
            f'[cdr]\nsource = "{source}"\ntimezone = "Asia/Jerusalem"\n'
        )
        return file

    return written


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("crmbridge")), *arguments]


def test_the_command_says_what_it_did(tmp_path: Path, settings: Callable[[str], Path]) -> None:
    records = by_end(history(13))
    (tmp_path / "crmbridge.csv").write_text("".join(map(line, records)))
    config = str(settings(f"{tmp_path}/crmbridge.csv"))
    done = subprocess.run(command("sync", "-c", config, "--json"), check=True, capture_output=True, timeout=60)
    told = json.loads(done.stdout)
    assert (told["records"], told["calls"]) == (len(records), len(calls_of(records)))
    done = subprocess.run(command("sync", "-c", config), check=True, capture_output=True, timeout=60)
    assert b"0 lines were new" in done.stdout


def test_the_command_refuses_what_has_no_history(tmp_path: Path, settings: Callable[[str], Path]) -> None:
    done = subprocess.run(
        command("sync", "-c", str(settings("ami"))), check=False, capture_output=True, timeout=60, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "cdr.source is ami" in done.stderr
    done = subprocess.run(
        command("sync", "-c", str(settings(f"{tmp_path}/none.csv"))),
        check=False,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode == 69
    assert "none.csv is not there" in done.stderr


@pytest.mark.needs("mariadb")
def test_an_interrupt_ends_it_cleanly_and_the_next_run_goes_on(fresh: Fresh, settings: Callable[[str], Path]) -> None:
    fresh.sql(FREEPBX.format(engine="InnoDB"))
    fresh.sql(
        "INSERT INTO cdr (calldate, src, dst, channel, dstchannel, duration, billsec, disposition, uniqueid, linkedid)"
        " SELECT FROM_UNIXTIME(1700000000 + seq * 20), '033004799', '777', 'PJSIP/trunk-1', 'PJSIP/777-1', 9, 9,"
        " 'ANSWERED', CONCAT(1700000000 + seq * 20, '.1'), CONCAT(1700000000 + seq * 20, '.1') FROM seq_1_to_40000"
    )
    config = str(settings(reader(fresh.server, fresh.name)))
    process = subprocess.Popen(command("sync", "-c", config, "--json"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        database = Path(config).with_name("calls.db")
        wal = database.with_name("calls.db-wal")
        while not wal.exists() or wal.stat().st_size < 500_000:
            assert process.poll() is None
            signal.sigtimedwait([], 0.02)
        process.send_signal(signal.SIGINT)
        told = json.loads(process.stdout.read())
        assert (process.wait(10), told["stopped"]) == (130, True)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    rest = subprocess.run(command("sync", "-c", config, "--json"), check=True, capture_output=True, timeout=120)
    more = json.loads(rest.stdout)
    assert not more["stopped"]
    assert told["records"] + more["records"] < 40_000 + 20_000, "it went on, and did not begin anew"
    assert told["lines"] + more["lines"] == 40_000


@pytest.mark.needs("mariadb")
async def test_after_a_wrong_time_zone_again_puts_all_times_right(
    fresh: Fresh, past: TableHistory, calls: CallList, stack: AsyncExitStack
) -> None:
    """As docs/troubleshooting.md advises; also for calls of the last day, whose records are kept."""
    records = [*history(11), record(NOW - 600, 3), record(NOW - DAY // 2, 4)]
    write(fresh, records)
    table = CdrTable(reader(fresh.server, fresh.name), "cdr", pbx="pbx", timezone=ZoneInfo("America/New_York"))
    stack.push_async_callback(table.close)
    await synced(TableHistory(table), calls)
    assert await listed(calls) != expected(records)
    await synced(past, calls, again=True)
    assert await listed(calls) == expected(records)


@pytest.mark.needs("mariadb")
async def test_after_a_change_of_clients_again_makes_all_lines_anew(
    fresh: Fresh, past: TableHistory, calls: CallList, tmp_path: Path
) -> None:
    """As docs/call-records.md advises; also for calls of the last day, whose records are there as they must be."""

    def rows(records: Iterable[Cdr]) -> list[CallRow]:
        return [row._replace(client_id="11") for row in HISTORY.rows(records)]

    write(fresh, [record(NOW - 3 * DAY, 1), record(NOW - 600, 2)])
    await synced(past, calls)
    async with open_call_list(sqlite_url(tmp_path / "calls.db"), rows, HERE) as changed:
        one = Sync(pbx="pbx", history=past, rows=rows, store=changed, now=NOW)
        await one.run(asyncio.Event(), again=True)
    assert [row.client_id for row in await listed(calls)] == ["11", "11"]

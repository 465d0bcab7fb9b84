"""Following a file of call records as it grows and is rotated, into a real call list."""

# ruff: noqa: ASYNC240  # files of a few lines
from __future__ import annotations

import asyncio
import errno
import gzip
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest
from structlog.testing import capture_logs
from tests.integration.cdr_tables import HERE, HISTORY, KEY, record, until
from tests.integration.test_sync import line

from crmbridge import following
from crmbridge.calls.cdr import Cdr
from crmbridge.calls.cdr_csv import from_line
from crmbridge.file_records import FileRecords
from crmbridge.pbx import cdr_file
from crmbridge.pbx.cdr_file import CdrFiles
from crmbridge.pbx.cdr_table import SourceError
from crmbridge.store.call_list import CallList, open_call_list
from crmbridge.store.engine import sqlite_url

NOW = 1_795_413_000
DAY = 86400


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[CallList]:
    async with open_call_list(sqlite_url(tmp_path / "calls.db"), HISTORY.rows, HERE) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "cdr-custom"
    folder.mkdir()
    return folder / "crmbridge.csv"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes less."""
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(following, "LONGEST_PAUSE_S", 0.05)


class Followed:
    def __init__(self, records: FileRecords, calls: CallList) -> None:
        self.records = records
        self._calls = calls

    async def has(self, *numbers: int) -> None:
        """Wait until the list has just these, each once."""
        wanted = sorted(f"in-{n}.wav" for n in numbers)
        async with asyncio.timeout(20):
            while True:
                page = await self._calls.by_number(KEY, limit=1000)
                lines = sorted(row.filename for row in page.rows)
                if lines == wanted:
                    return
                assert set(lines) <= set(wanted), lines
                await asyncio.sleep(0.01)


@asynccontextmanager
async def following_file(path: Path, calls: CallList, look_s: float = 0.02, now: int = NOW) -> AsyncIterator[Followed]:
    records = FileRecords(
        pbx="pbx",
        files=CdrFiles(path, from_line("pbx", HERE)),
        store=calls,
        look_s=look_s,
        now=lambda: datetime.fromtimestamp(now, UTC),
    )
    task = asyncio.create_task(records.run())
    try:
        yield Followed(records, calls)
        assert not task.done()
    finally:
        records.stop()
        await task


def append(path: Path, *records: Cdr) -> None:
    with path.open("a") as file:
        file.write("".join(map(line, records)))


async def test_what_is_added_comes_in_once(path: Path, calls: CallList) -> None:
    append(path, record(NOW, 1))
    async with following_file(path, calls) as followed:
        await followed.has(1)
        append(path, record(NOW, 2), record(NOW, 3))
        await followed.has(1, 2, 3)
    append(path, record(NOW + 5 * DAY, 4))
    with capture_logs() as logs:
        async with following_file(path, calls, now=NOW + 6 * DAY) as followed:
            await followed.has(1, 2, 3, 4)
    assert [(one["event"], one["records"]) for one in logs] == [("cdr.stored", 1)], "it goes on where it was"


async def test_a_bell_makes_it_look_at_once(path: Path, calls: CallList) -> None:
    append(path, record(NOW, 1))
    async with following_file(path, calls, look_s=3600) as followed:
        await followed.has(1)
        append(path, record(NOW, 2))
        followed.records.take({"Event": "Cdr"})
        await followed.has(1, 2)


async def test_half_a_line_is_waited_for(path: Path, calls: CallList) -> None:
    whole = line(record(NOW, 2, src="0330047\n99"))  # a line break in a value, too
    files = CdrFiles(path, from_line("pbx", HERE))
    append(path, record(NOW, 1))
    place = files.part(path, files.beginning(path)).place
    for n in (10, whole.index("\n") + 1, len(whole) - 1):
        path.write_text(line(record(NOW, 1)) + whole[:n])
        part = files.read(place)
        assert (part.records, part.place, part.more) == ([], place, False)
    async with following_file(path, calls) as followed:
        await followed.has(1)
        with path.open("a") as file:
            file.write("\n")
        await until(lambda: followed.records._place is not None and followed.records._place.line == 3)
    assert [one.src for one in files.read(place).records] == ["033004799"]


def renamed(path: Path) -> Path:
    return path.rename(path.with_name("crmbridge.csv.1"))


def dated(path: Path) -> Path:
    return path.rename(path.with_name("crmbridge.csv-20261123"))


def copied(path: Path) -> Path:
    copy = path.with_name("crmbridge.csv.1")
    shutil.copy2(path, copy)
    os.truncate(path, 0)
    return copy


def compressed(path: Path) -> Path:
    packed = path.with_name("crmbridge.csv.1.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


@pytest.mark.parametrize("rotate", [renamed, dated, copied, compressed])
@pytest.mark.parametrize("running", [True, False])
async def test_rotated(path: Path, calls: CallList, rotate: Callable[[Path], Path], running: bool) -> None:
    append(path, record(NOW, 1))
    async with following_file(path, calls) as followed:
        await followed.has(1)
        if running:
            append(path, record(NOW, 2))
            rotate(path)
            append(path, record(NOW, 3))
            await followed.has(1, 2, 3)
    if not running:
        append(path, record(NOW, 2))
        rotate(path)
        append(path, record(NOW, 3))
        async with following_file(path, calls) as followed:
            await followed.has(1, 2, 3)


async def test_rotated_several_times_while_nobody_looked(path: Path, calls: CallList) -> None:
    append(path, record(NOW, 1))
    async with following_file(path, calls) as followed:
        await followed.has(1)
    append(path, record(NOW, 2))
    os.utime(path, (NOW, NOW))
    path.rename(path.with_name("crmbridge.csv.3"))
    append(path, record(NOW, 3))
    path.with_name("crmbridge.csv.2.gz").write_bytes(gzip.compress(path.read_bytes()))
    os.utime(path.with_name("crmbridge.csv.2.gz"), (NOW + 1, NOW + 1))
    path.unlink()
    append(path, record(NOW, 4))
    os.utime(path, (NOW + 2, NOW + 2))
    renamed(path)
    append(path, record(NOW, 5))
    async with following_file(path, calls) as followed:
        await followed.has(1, 2, 3, 4, 5)


async def test_renamed_and_not_there_anew_until_the_next_call(path: Path, calls: CallList) -> None:
    append(path, record(NOW, 1))
    with capture_logs() as logs:
        async with following_file(path, calls) as followed:
            await followed.has(1)
            old = renamed(path)
            append(old, record(NOW, 2))
            await followed.has(1, 2)
            append(path, record(NOW, 3))
            await followed.has(1, 2, 3)
    assert "cdr.source_away" not in {one["event"] for one in logs}


@pytest.mark.parametrize("longer", [True, False])
async def test_a_file_that_is_replaced_is_read_from_its_begin(path: Path, calls: CallList, longer: bool) -> None:
    append(path, record(NOW, 1), record(NOW, 2))
    with capture_logs() as logs:
        async with following_file(path, calls) as followed:
            await followed.has(1, 2)
            others = [record(NOW, n) for n in ((3, 4, 5) if longer else (3,))]
            path.write_text("".join(map(line, others)))  # the same inode
            await followed.has(1, 2, *(one.sequence for one in others))
    assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["cdr.file_replaced"]


async def test_truncated_and_restored_nothing_comes_twice(path: Path, calls: CallList) -> None:
    append(path, *(record(NOW, n) for n in range(1, 5)))
    text = path.read_text()
    async with following_file(path, calls) as followed:
        await followed.has(1, 2, 3, 4)
        os.truncate(path, 0)
        append(path, record(NOW, 5))
        await followed.has(1, 2, 3, 4, 5)
        path.write_text(text + line(record(NOW, 6)))
        await followed.has(1, 2, 3, 4, 5, 6)


async def test_wrong_lines_are_named_and_passed_over(path: Path, calls: CallList) -> None:
    append(path, record(NOW, 1))
    with path.open("ab") as file:
        file.write(b"what is this?\n\xff\xfe\x00\n\n")
    append(path, record(NOW, 2))
    with capture_logs() as logs:
        async with following_file(path, calls) as followed:
            await followed.has(1, 2)
    assert [one["line"] for one in logs if one["event"] == "cdr.wrong_line"] == [2, 3]


async def test_a_file_that_is_not_there_yet(path: Path, calls: CallList) -> None:
    with capture_logs() as logs:
        async with following_file(path, calls) as followed:
            await until(lambda: "cdr.source_away" in {one["event"] for one in logs})
            append(path, record(NOW, 1))
            await followed.has(1)
    assert [one["event"] for one in logs if one["event"] in {"cdr.source_away", "cdr.back"}] == [
        "cdr.source_away",
        "cdr.back",
    ]


async def test_the_first_start_goes_back_a_day_in_a_large_file(
    path: Path, calls: CallList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to the byte, but far from its begin; `crmbridge sync` reads all of it."""
    monkeypatch.setattr(cdr_file, "_NEAR", 2000)
    append(path, *(record(NOW - (1000 - n) * 1000, n) for n in range(1, 1000)))
    with capture_logs() as logs:
        async with following_file(path, calls) as followed:
            end = path.stat().st_size
            await until(lambda: followed.records._place is not None and followed.records._place.offset == end)
    page = await calls.by_number(KEY, limit=1000)
    assert page.rows[0].filename == "in-999.wav"
    assert 86 <= len(page.rows) <= 120
    assert "crmbridge sync" in next(one["hint"] for one in logs if one["event"] == "cdr.follows")


async def test_a_long_file_comes_in_parts(path: Path) -> None:
    files = CdrFiles(path, from_line("pbx", HERE))
    append(path, *(record(NOW - n, n, src="0" * 140) for n in range(1, 60)))
    found, place, parts = [], files.beginning(path), 0
    while True:
        part = files.part(path, place, size=500)  # smaller than some records
        found += [one.sequence for one in part.records]
        place, parts = part.place, parts + 1
        if not part.more:
            break
    assert found == list(range(1, 60))
    assert parts > 5
    assert place.line == 59


def test_what_may_not_be_read_says_what_to_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, record(NOW, 1))

    def refused(file: Path) -> IO[bytes]:  # root, who runs tests, may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(cdr_file, "_opened", refused)
    with pytest.raises(SourceError, match="give it the group"):
        CdrFiles(path, from_line("pbx", HERE)).span()

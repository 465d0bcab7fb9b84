"""An outbox whose file is damaged: set aside whole, begun anew, and what can be read goes on."""

# ruff: noqa: ASYNC240  # the files are small, and what is shown is what is in them
from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.integration.test_outbox import AT, ATTEMPT, disconnect, ring, stored_again

from crmbridge.calls.events import State
from crmbridge.store import recovery
from crmbridge.store.engine import DamagedError, open_sqlite
from crmbridge.store.outbox import open_outbox
from crmbridge.store.outbox_sql import Which
from crmbridge.store.outbox_tables import SCHEMA
from crmbridge.store.salvage import read
from crmbridge.store.schema import StoreError

CALLS = 400
"""Callbacks in a file: some 50 pages."""
PAGE = 4096
HEADER = 100
"""SQLite notes there that a file is in WAL mode, be it only looked at."""


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """An outbox that was written back whole: one confirmed callback, all others queued."""
    file = tmp_path / "outbox.db"
    async with open_outbox(file) as outbox:
        added = await outbox.add([ring(f"c{n}") for n in range(CALLS)])
        await outbox.record(added[0].id, ATTEMPT, State.CONFIRMED)
    assert not file.with_name("outbox.db-wal").exists()
    return file


def overwrite(file: Path, at: int, length: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(b"\xa5" * length)


def cut(file: Path, share: float) -> None:
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * share))


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE callbacks (something TEXT)")
        connection.execute("INSERT INTO callbacks VALUES ('else')")
        connection.commit()


def half_a_table(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP INDEX callbacks_linkedid")
        connection.execute("ALTER TABLE callbacks DROP COLUMN linkedid")
        connection.commit()


def set_aside_of(file: Path) -> list[Path]:
    return sorted(file.parent.glob("outbox.db.damaged-*Z"))


async def started(file: Path) -> tuple[list[str], Mapping[str, Any]]:
    """What still waits after a start on this file, and what was said about the damage."""
    with capture_logs() as logs:
        async with open_outbox(file) as outbox:
            waiting = [each.event.call for each in await outbox.waiting()]
            (new,) = await outbox.add([ring("new")])
            assert (await outbox.waiting())[-1] == new
            assert await outbox.record(new.id, ATTEMPT, State.CONFIRMED)
    (said,) = [each for each in logs if each["log_level"] == "error"]
    return waiting, said


DAMAGES: dict[str, tuple[Callable[[Path], object], int]] = {
    "all of it overwritten": (lambda file: overwrite(file, 0, file.stat().st_size), 0),
    "its first page overwritten": (lambda file: overwrite(file, 0, PAGE), 0),
    "its schema overwritten": (lambda file: overwrite(file, 100, PAGE - 100), 0),
    "text in its place": (lambda file: file.write_text("not a database " * 500), 0),
    "cut within its first page": (lambda file: cut(file, 0.001), 0),
    "half of it cut off": (lambda file: cut(file, 0.5), 1),
    "its last page cut off": (lambda file: cut(file, 0.999), 1),
    "pages in the middle overwritten": (lambda file: overwrite(file, 20 * PAGE, 3 * PAGE), CALLS // 2),
    "one page overwritten": (lambda file: overwrite(file, 12 * PAGE, PAGE), CALLS // 2),
    "another program's database": (foreign, 0),
    "a column lost": (half_a_table, 0),
}
"""What happens to the file, and how many of its callbacks can be read at least."""


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_file_is_set_aside_whole_and_what_can_be_read_goes_on(file: Path, name: str) -> None:
    damage, readable = DAMAGES[name]
    damage(file)
    before = file.read_bytes()
    waiting, said = await started(file)
    (aside,) = set_aside_of(file)
    assert re.fullmatch(r"outbox\.db\.damaged-\d{8}T\d{6}Z", aside.name)
    assert aside.read_bytes()[HEADER:] == before[HEADER:], "nothing of it is changed"
    assert set(waiting) <= {f"c{n}" for n in range(1, CALLS)}
    assert waiting == sorted(waiting, key=lambda call: int(call[1:])), "in the order of their ids"
    assert len(waiting) >= readable
    assert said["event"] == "store.damaged_file_set_aside"
    assert said["set_aside"] == str(aside)
    assert "dmesg" in said["hint"]
    assert said["salvaged"].get("callbacks", 0) >= len(waiting)
    async with open_outbox(file) as outbox:
        assert [each.event.call for each in await outbox.waiting()] == waiting, "and it is a sound file now"
    assert set_aside_of(file) == [aside]


async def test_what_was_confirmed_is_not_told_again_after_a_salvage(file: Path) -> None:
    overwrite(file, file.stat().st_size - 3 * PAGE, 3 * PAGE)
    await started(file)
    async with open_outbox(file) as outbox:
        assert await outbox.known("main", ["c0"]) == {ring("c0").key}
        assert await outbox.add([ring("c0")]) == []
        (listed,) = await outbox.listing(Which(call="c0"))
        assert listed.delivery.state is State.CONFIRMED
        assert listed.last == ATTEMPT


async def test_numbers_go_on_above_those_of_a_damaged_file(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DELETE FROM callbacks WHERE id > 10")
        connection.execute("DROP INDEX callbacks_linkedid")
        connection.execute("ALTER TABLE callbacks DROP COLUMN linkedid")
        connection.commit()
    await started(file)
    async with open_outbox(file) as outbox:
        (more,) = await outbox.add([ring("more")])
        assert more.id == CALLS + 2, "`new` had the number before"


def as_left_by_a_kill(source: Path, target: Path) -> None:
    """The files of an outbox that is still open, as a power cut leaves them."""
    target.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(source.with_name(source.name + suffix), target.with_name(target.name + suffix))


async def test_half_a_write_ahead_log_costs_only_what_was_in_its_other_half(tmp_path: Path) -> None:
    left = tmp_path / "left" / "outbox.db"
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        for n in range(50):
            await outbox.add([ring(f"c{n}")])
        as_left_by_a_kill(tmp_path / "outbox.db", left)
    cut(left.with_name("outbox.db-wal"), 0.5)
    async with open_outbox(left) as outbox:
        waiting = [each.event.call for each in await outbox.waiting()]
    assert 10 < len(waiting) < 50
    assert waiting == [f"c{n}" for n in range(len(waiting))]
    assert set_aside_of(left) == [], "that is no damage: SQLite knows which of it is whole"


async def test_a_write_ahead_log_without_its_file_is_kept(tmp_path: Path) -> None:
    left = tmp_path / "left" / "outbox.db"
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        await outbox.add([ring("c1")])
        as_left_by_a_kill(tmp_path / "outbox.db", left)
    cut(left, 0)
    wal = left.with_name("outbox.db-wal").read_bytes()
    await started(left)
    (aside,) = set_aside_of(left)
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == wal


async def test_what_is_in_the_write_ahead_log_of_a_damaged_file_is_salvaged_too(file: Path, tmp_path: Path) -> None:
    left = tmp_path / "left" / "outbox.db"
    async with open_outbox(file) as outbox:
        await outbox.add([ring("logged")])
        as_left_by_a_kill(file, left)
    overwrite(left, 20 * PAGE, PAGE)
    waiting, _ = await started(left)
    assert len(set_aside_of(left)) == 1
    assert waiting[-1] == "logged"


async def test_rows_that_cannot_be_are_left_out(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE callbacks SET state = 'qu\x01ued' WHERE id = 2")
        connection.execute("UPDATE callbacks SET at = 'yesterday' WHERE id = 3")
        connection.execute("UPDATE callbacks SET number = x'ff00' WHERE id = 4")
        connection.execute("UPDATE callbacks SET attempts = 'many' WHERE id = 5")
        connection.commit()
    found = read(file, [SCHEMA])
    ids = [row[found.columns["callbacks"].index("id")] for row in found.rows["callbacks"]]
    assert ids == [1, *range(6, CALLS + 1)]


async def test_a_newer_file_is_a_downgrade_and_no_damage(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE schema_versions SET version = 99, works_with = 99")
        connection.commit()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"newer crmbridge \(outbox version 99.*upgrade this bridge"):
        async with open_outbox(file):
            pass
    assert file.read_bytes() == before
    assert set_aside_of(file) == []


async def test_a_command_beside_the_daemon_moves_nothing(file: Path) -> None:
    overwrite(file, 0, PAGE)
    with pytest.raises(StoreError, match="no SQLite database"):
        async with open_outbox(file, sole=False):
            pass
    assert set_aside_of(file) == []


async def test_a_disk_that_damages_file_after_file_is_not_filled(file: Path) -> None:
    for n in range(recovery.MOST_ASIDE):
        file.with_name(f"outbox.db.damaged-20240101T0000{n:02}Z").touch()
    overwrite(file, 0, PAGE)
    with pytest.raises(StoreError, match="10 damaged ones lie beside it already"):
        async with open_outbox(file):
            pass
    assert file.exists()


async def test_a_process_killed_while_it_sets_a_file_aside_finds_what_was_salvaged(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite(file, 12 * PAGE, PAGE)
    whole = recovery.set_aside

    def killed(path: Path) -> Path:
        whole(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recovery, "set_aside", killed)
        with pytest.raises(KeyboardInterrupt):
            recovery.begin_anew(open_sqlite(file, [SCHEMA]), [SCHEMA], DamagedError("it is damaged"))
    assert not file.exists()
    async with open_outbox(file) as outbox:
        assert len(await outbox.waiting()) > CALLS // 2
    assert [each.name for each in file.parent.iterdir() if each.name.startswith("outbox.db.new")] == []


async def test_a_new_file_that_was_half_built_is_built_again(file: Path) -> None:
    overwrite(file, 12 * PAGE, PAGE)
    file.with_name("outbox.db.new").write_text("half a file")
    waiting, _ = await started(file)
    assert len(waiting) > CALLS // 2


async def test_damage_found_while_running_is_mended_while_callbacks_go_on(file: Path) -> None:
    with capture_logs() as logs:
        async with open_outbox(file, disk_retry_s=0.05) as outbox:
            waiting = await outbox.waiting()
            await disconnect(outbox)  # what SQLite holds in memory would hide the damage
            overwrite(file, 12 * PAGE, 5 * PAGE)
            overwrite(file, file.stat().st_size - 3 * PAGE, 3 * PAGE)
            now = AT + timedelta(hours=1)
            told = [await outbox.add([ring(f"c{n}", at=now)]) for n in range(CALLS, CALLS + 50)]
            assert all(len(each) == 1 for each in told), "each goes on, stored or not"
            assert await outbox.add([ring(f"c{CALLS}")]) == [], "and once only"
            await outbox.record(told[0][0].id, ATTEMPT, State.CONFIRMED)
            await outbox.record(waiting[0].id, ATTEMPT, State.CONFIRMED)
            await stored_again(outbox)
            assert not outbox.disk_refuses
            after = {each.event.call for each in await outbox.waiting()}
            assert {f"c{n}" for n in range(CALLS + 1, CALLS + 50)} <= after
            assert f"c{CALLS}" not in after
            assert waiting[0].event.call not in after, "confirmed meanwhile"
            assert len(after) > CALLS // 2, "salvaged"
            assert await outbox.add([each.event for (each,) in told]) == []
    assert len(set_aside_of(file)) == 1
    events = [each["event"] for each in logs if each["log_level"] in {"error", "warning"}]
    assert events == ["store.disk_refuses", "store.damaged_file_set_aside", "store.disk_back"]


async def test_damage_that_only_a_reader_meets_is_mended_too(file: Path) -> None:
    async with open_outbox(file, disk_retry_s=0.05) as outbox:
        await disconnect(outbox)
        overwrite(file, 0, PAGE)
        with capture_logs() as logs:
            assert await outbox.changes() is None
            assert await outbox.known("main", ["c1"]) == set()
            await stored_again(outbox)
        assert "store.damaged_file_set_aside" in {each["event"] for each in logs}
        assert await outbox.changes() is None
        assert len(await outbox.add([ring("more")])) == 1

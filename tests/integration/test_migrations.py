"""Databases of every version there ever was open, and one that was being upgraded when the power went is usable.

`schemas/COMPONENT-VERSION.sql` is a database with some rows as that version left it. Whoever adds an upgrade adds the
dump of the version that it begins at.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.integration import migrating
from tests.integration.test_bridge import ANSWER, LIMIT_S, RING, configure, daemon, get, targets, trace
from tests.integration.test_call_list import HERE, HISTORY, KEY, record
from tests.integration.test_outbox import AT, ATTEMPT, ring

from crmbridge.calls.clicks import Outcome
from crmbridge.calls.events import CallEvent, Kind, State
from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.store import call_tables, clicks, outbox_tables
from crmbridge.store.call_list import open_call_list
from crmbridge.store.engine import open_sqlite, sqlite_url
from crmbridge.store.outbox import open_outbox
from crmbridge.store.outbox_sql import Which
from crmbridge.store.schema import Schema, StoreError

DUMPS = Path(__file__).parent / "schemas"
FILES = {"outbox.db": outbox_tables.SCHEMA, "calls.db": call_tables.SCHEMA, "clicks.db": clicks.SCHEMA}
SCHEMAS = {schema.component: schema for schema in FILES.values()}
EVERY = [(component, version) for component, schema in SCHEMAS.items() for version in range(1, schema.version + 1)]


def restored(component: str, version: int, file: Path) -> Path:
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((DUMPS / f"{component}-{version}.sql").read_text(encoding="utf-8"))
    return file


def structure(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """Tables with their columns, indexes with theirs."""
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        return {
            name: sorted(row[1:] for row in connection.execute(f"PRAGMA {kind}_xinfo('{name}')"))
            for kind, name in found
        }


def rows(file: Path) -> dict[str, int]:
    with closing(sqlite3.connect(file)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


@pytest.mark.parametrize(("component", "version"), EVERY)
def test_a_database_of_every_version_becomes_what_a_new_one_is(component: str, version: int, tmp_path: Path) -> None:
    schema = SCHEMAS[component]
    old, new = restored(component, version, tmp_path / "old.db"), tmp_path / "new.db"
    before = rows(old)
    for file in (old, new):
        open_sqlite(file, [schema], look_through=True).dispose()
    assert structure(old) == structure(new)
    assert {name: rows(old)[name] for name in before} == before
    open_sqlite(old, [schema]).dispose()  # and again


@pytest.mark.parametrize("version", range(1, outbox_tables.SCHEMA.version + 1))
async def test_an_outbox_of_every_version_works(version: int, tmp_path: Path) -> None:
    async with open_outbox(restored("outbox", version, tmp_path / "outbox.db")) as outbox:
        waiting = await outbox.waiting()
        assert [(each.id, each.event.extension, each.event.number) for each in waiting] == [
            (2, "777", "033004799"),
            (3, "777", "033004799"),
        ]
        assert [each.delivery.id for each in await outbox.listing(Which(state=State.CONFIRMED))] == [1]
        assert [each.delivery.id for each in await outbox.listing(Which(dropped=True))] == [4]
        (new,) = await outbox.add([ring("new")])
        assert new.id == 5
        assert await outbox.record(2, ATTEMPT, State.CONFIRMED)
        assert await outbox.prune(AT, most_bytes=1) == 3, "pruned, though it was not made for shrinking"
        assert [each.id for each in await outbox.waiting()] == [3, 5]


@pytest.mark.parametrize("version", range(1, call_tables.SCHEMA.version + 1))
async def test_a_call_list_of_every_version_works(version: int, tmp_path: Path) -> None:
    file = restored("call_list", version, tmp_path / "calls.db")
    async with open_call_list(sqlite_url(file), HISTORY.rows, HERE) as calls:
        (line,) = (await calls.by_number("972033004799")).rows
        began = datetime(2026, 11, 23, 8, tzinfo=UTC)
        assert (line.extension, line.number, line.started_at, line.talk_s) == ("777", "033004799", began, 7)
        (key,) = await calls.known("pbx", began, began + timedelta(seconds=1))
        # The next record of this call makes its line anew; number and client are those of today's settings.
        linkedid = line.linkedid
        more = record(linkedid=linkedid, uniqueid=linkedid, sequence=2, dstchannel="PJSIP/778-2", start_at=began)
        assert await calls.add([more._replace(dstchannel=key[4], sequence=key[3]), more]) == 1
        lines = (await calls.by_number(KEY)).rows
        assert sorted((one.extension, one.talk_s, one.client_id) for one in lines) == [
            ("777", 7, "10"),
            ("778", 5, "10"),
        ]
        assert (await calls.by_number("972033004799")).rows == []


@pytest.mark.parametrize("moment", migrating.MOMENTS)
async def test_a_process_killed_in_the_middle_of_an_upgrade_leaves_a_usable_file(moment: str, tmp_path: Path) -> None:
    file = tmp_path / "things.db"
    migrating.fill(file)
    process = await asyncio.create_subprocess_exec(sys.executable, migrating.__file__, str(file), moment)
    async with asyncio.timeout(LIMIT_S):
        assert await process.wait() == -9
    versions = {"before the commit": 1, "after the commit": 3}
    assert migrating.found(file) == (versions.get(moment, 1), migrating.ROWS), "all of it or nothing"
    open_sqlite(file, [migrating.schema()], look_through=True).dispose()
    assert migrating.found(file) == (3, migrating.ROWS)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT sum(doubled), sum(tripled) FROM things").fetchone() == migrating.SUMS
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "things.db"
    migrating.fill(file)
    broken = Schema("things", migrating.tables(), (migrating.double, migrating.double))
    with pytest.raises(StoreError, match="duplicate column"):
        open_sqlite(file, [broken])
    assert migrating.found(file) == (1, migrating.ROWS)


async def test_a_bridge_that_is_taken_back_goes_on_with_what_the_newer_one_has_made(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    now = datetime.now(UTC)
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        await outbox.add([CallEvent(Kind.ANSWER, "pbx", "1", "778", "033004700", "10", now, "1", "x")])
    newer = {tmp_path / name: migrating.next_version(schema) for name, schema in FILES.items()}
    for file, schema in newer.items():
        open_sqlite(file, [schema], look_through=True).dispose()
    before = {file: structure(file) for file in newer}

    async with daemon(await configure(tmp_path, pbx, crm)) as bridge:
        await bridge.logged("ami.connected")
        told = await bridge.logged("store.newer_schema", times=3)
        assert {(one["component"], one["version"] - one["known"]) for one in told} == {
            ("outbox", 1),
            ("call_list", 1),
            ("clicks", 1),
        }
        assert len(await targets(crm, 1)) == 1, "what waited"
        port = await bridge.port()
        await get(port, "/dialer/sodialer.php:6560?sExt=777&sNumber=0529876543&ClientId=10")
        await bridge.logged("click.ended")
        await pbx.play(trace("01_did_to_ext_answered"), speed=10)
        assert (await targets(crm, 3))[1:] == [RING, ANSWER]
        await bridge.logged("cdr.stored", times=2)
        _, listed = await get(port, "/calls?number=%2B97233004799")
        assert [(one["ext"], one["incoming"]) for one in listed["result"]] == [("777", True)]

    for file, schema in newer.items():
        open_sqlite(file, [schema], look_through=True).dispose()  # and the newer one once more
        assert structure(file) == before[file]
        assert version_of(file) == (schema.version, FILES[file.name].works_with)
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        assert await outbox.waiting() == []
    async with clicks.open_clicks(tmp_path / "clicks.db") as trail:
        assert [one.news.outcome for one in await trail.listing()] == [Outcome.ANSWERED]
    assert rows(tmp_path / "outbox.db")["callbacks"] == 3


def version_of(file: Path) -> tuple[int, int]:
    """Its version, and the oldest program's that can use it."""
    with closing(sqlite3.connect(file)) as connection:
        ((version, works_with),) = connection.execute("SELECT version, works_with FROM schema_versions").fetchall()
    return version, works_with


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [("outbox.db", "callbacks", "kind"), ("calls.db", "cdrs", "dst"), ("clicks.db", "clicks", "outcome")],
)
def test_a_file_in_which_something_was_taken_away_is_refused_and_left_alone(
    name: str, table: str, column: str, tmp_path: Path
) -> None:
    ours, last = FILES[name], migrating.last_version(FILES[name], table, column)
    open_sqlite(tmp_path / name, [migrating.next_version(ours)]).dispose()
    open_sqlite(tmp_path / name, [last]).dispose()
    before = (tmp_path / name).read_bytes()
    for older in (ours, migrating.next_version(ours)):
        with pytest.raises(
            StoreError, match=rf"version {last.version}, this one knows up to {older.version}\): upgrade"
        ):
            open_sqlite(tmp_path / name, [older])
    assert (tmp_path / name).read_bytes() == before

"""The outbox on a real SQLite file: nothing twice, nothing lost, on through a disk that refuses."""

# ruff: noqa: ASYNC240  # how large a file is, takes no time to ask
from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import warnings
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event as sa_event
from structlog.testing import capture_logs

from crmbridge.calls.events import Attempt, CallEvent, Kind, State
from crmbridge.store.outbox import Outbox, open_outbox
from crmbridge.store.outbox_sql import Which
from crmbridge.store.schema import StoreError

AT = datetime(2024, 1, 2, 8, 0, tzinfo=UTC)
MB = 2**20
ATTEMPT = Attempt(AT, 0.25, 500, "HTTP 500: oops")


def ring(call: str = "c1", extension: str = "777", **changes: object) -> CallEvent:
    event = CallEvent(
        kind=Kind.RING,
        pbx="main",
        call=call,
        extension=extension,
        number="033004799",
        client_id="10",
        at=AT,
        linkedid=call,
        uniqueid=f"{call}.phone",
    )
    return replace(event, **changes)  # type: ignore[arg-type]  # the fields' types differ


def answer(call: str = "c1", extension: str = "777") -> CallEvent:
    return ring(call, extension, kind=Kind.ANSWER)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


async def test_what_was_added_is_there_after_a_restart_in_order(file: Path) -> None:
    events = [ring("c1"), ring("c1", "778"), answer("c1"), ring("c2", number="דנה\0\r\n")]
    async with open_outbox(file) as outbox:
        added = await outbox.add(events)
        assert [each.event for each in added] == events
    async with open_outbox(file) as outbox:
        assert await outbox.waiting() == added
        assert await outbox.events(Which(), 3) == events[:0:-1]
        assert await outbox.events(Which(call="c1"), 2) == events[2:0:-1]
        assert await outbox.events(Which(since=AT + timedelta(seconds=1)), 3) == []


async def test_it_is_on_disk_when_add_returns(file: Path) -> None:
    async with open_outbox(file) as outbox:
        await outbox.add([ring()])
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as other:
            assert other.execute("SELECT extension, kind FROM callbacks").fetchall() == [("777", "incomingCall")]
        other.close()


async def test_a_process_killed_the_hard_way_leaves_what_add_returned(file: Path) -> None:
    script = (
        "import asyncio, os, sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from crmbridge.calls.events import CallEvent, Kind\n"
        "from crmbridge.store.outbox import open_outbox\n"
        "async def main():\n"
        "    async with open_outbox(Path(sys.argv[1])) as outbox:\n"
        "        for n in range(20):\n"
        "            at = datetime(2024, 1, 2, tzinfo=UTC)\n"
        "            await outbox.add([CallEvent(Kind.RING, 'main', f'c{n}', '777', '03', '10', at, 'l', 'u')])\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(file))
    async with asyncio.timeout(60):
        assert await process.wait() == -9
    async with open_outbox(file) as outbox:
        assert [each.event.call for each in await outbox.waiting()] == [f"c{n}" for n in range(20)]


async def test_the_same_fact_is_stored_once(file: Path) -> None:
    async with open_outbox(file) as outbox:
        first = await outbox.add([ring(), ring(number="other"), answer()])
        assert [each.event.kind for each in first] == [Kind.RING, Kind.ANSWER]
        assert await outbox.add([ring(), answer()]) == []
        other_pbx = await outbox.add([ring(pbx="second")])
        assert [each.event.pbx for each in other_pbx] == ["second"]
        both = await asyncio.gather(*(outbox.add([ring("c9")]) for _ in range(20)))
        assert sum(len(each) for each in both) == 1
        assert len(await outbox.waiting()) == 4


async def test_no_events_no_transaction(file: Path) -> None:
    async with open_outbox(file) as outbox:
        assert await outbox.add([]) == []


async def test_a_badly_decoded_name_is_stored_and_harms_no_other(file: Path) -> None:
    async with open_outbox(file) as outbox:
        added = await asyncio.gather(
            outbox.add([ring("c1", "\ud83d")]), outbox.add([ring("c2")]), outbox.add([ring("c1", "\ud83d")])
        )
        assert [len(each) for each in added] == [1, 1, 0]
        assert await outbox.known("main", ["c1"]) == {("main", "c1", "?", "incomingCall")}


async def test_a_burst_costs_few_transactions(file: Path) -> None:
    async with open_outbox(file) as outbox:
        commits = 0

        def count(_: object) -> None:
            nonlocal commits
            commits += 1

        sa_event.listen(outbox._engine, "commit", count)
        await asyncio.gather(*(outbox.add([ring(f"c{n}")]) for n in range(200)))
        assert commits < 5
        assert [each.event.call for each in await outbox.waiting()] == [f"c{n}" for n in range(200)]


async def test_a_write_that_cannot_be_done_does_not_take_its_neighbours_with_it(file: Path) -> None:
    async with open_outbox(file) as outbox:
        naive = datetime(2024, 1, 2)  # noqa: DTZ001 (that is what is wrong with it)
        results = await asyncio.gather(
            outbox.add([ring("c1")]),
            outbox.add([ring("c2", at=naive)]),
            outbox.add([ring("c3")]),
            return_exceptions=True,
        )
        assert [type(each) for each in results][1] is not list
        assert [each.event.call for each in await outbox.waiting()] == ["c1", "c3"]


async def test_attempts_and_outcomes(file: Path) -> None:
    async with open_outbox(file) as outbox:
        (one, two) = await outbox.add([ring("c1"), ring("c2")])
        later = AT + timedelta(seconds=30)
        assert await outbox.record(one.id, ATTEMPT, State.QUEUED, later)
        assert await outbox.waiting() == [replace(one, attempts=1, next_attempt_at=later), two]
        fine = Attempt(later, 0.1, 200, 'HTTP 200: {"success":true}')
        assert await outbox.record(one.id, fine, State.CONFIRMED)
        assert await outbox.waiting() == [two]
        assert await outbox.attempts(one.id) == [ATTEMPT, fine]
        (listed,) = await outbox.listing(Which(state=State.CONFIRMED))
        assert listed.last == fine
        assert listed.delivery.attempts == 2
        assert listed.delivery.next_attempt_at is None
        assert await outbox.counts() == {
            State.QUEUED: 1,
            State.CONFIRMED: 1,
            State.REFUSED: 0,
            State.EXPIRED: 0,
            State.BY_PEER: 0,
        }
        assert not await outbox.record(999, ATTEMPT, State.QUEUED, later), "there is none of that number"


async def test_expiry_takes_queued_ones_only(file: Path) -> None:
    async with open_outbox(file) as outbox:
        one, two, three = await outbox.add([ring("c1"), ring("c2"), ring("c3")])
        await outbox.record(one.id, ATTEMPT, State.REFUSED)
        await outbox.expire([one.id, two.id])
        assert await outbox.waiting() == [three]
        assert (await outbox.counts())[State.REFUSED] == 1


async def test_known_tells_what_was_told_for_these_calls(file: Path) -> None:
    async with open_outbox(file) as outbox:
        added = await outbox.add([ring("c1"), answer("c1"), ring("c2"), ring("c3"), ring("c1", pbx="second")])
        await outbox.record(added[0].id, ATTEMPT, State.CONFIRMED)
        assert await outbox.known("main", ["c1", "c3", "c4"]) == {
            ring("c1").key,
            answer("c1").key,
            ring("c3").key,
        }
        assert await outbox.known("main", [f"x{n}" for n in range(3000)]) == set()
        assert await outbox.known("main", []) == set()


async def test_listing_narrows_down(file: Path) -> None:
    async with open_outbox(file) as outbox:
        await outbox.add(
            [
                ring("c1", "777", at=AT),
                ring("c2", "778", at=AT + timedelta(minutes=1), number="0501234567"),
                ring("c3", "777", at=AT + timedelta(minutes=2), linkedid="c2"),
            ]
        )

        async def calls(which: Which, limit: int = 100) -> list[str]:
            return [each.delivery.event.call for each in await outbox.listing(which, limit)]

        assert await calls(Which()) == ["c3", "c2", "c1"]
        assert await calls(Which(), limit=2) == ["c3", "c2"]
        assert await calls(Which(extension="777")) == ["c3", "c1"]
        assert await calls(Which(number="0501234567")) == ["c2"]
        assert await calls(Which(call="c2")) == ["c3", "c2"]
        assert await calls(Which(since=AT + timedelta(minutes=1))) == ["c3", "c2"]
        assert await calls(Which(until=AT + timedelta(minutes=1))) == ["c1"]
        assert await calls(Which(state=State.REFUSED)) == []


async def test_retry_by_hand_is_seen_by_the_daemon_and_gives_a_new_life(file: Path) -> None:
    now = AT + timedelta(hours=5)
    async with open_outbox(file) as outbox, open_outbox(file, sole=False) as command:
        one, two = await outbox.add([ring("c1"), ring("c2")])
        await outbox.record(one.id, ATTEMPT, State.REFUSED)
        await outbox.record(two.id, ATTEMPT, State.CONFIRMED)
        assert await outbox.changes() is None
        assert await command.retry(one.id, now)
        assert not await command.retry(one.id, now), "it is queued already"
        assert not await command.retry(two.id, now), "the CRM has it"
        assert not await command.retry(999, now)
        assert await outbox.changes() == [replace(one, requeued_at=now)]
        assert await outbox.changes() is None


async def test_drop_by_hand_ends_it_but_its_key_stays_known(file: Path) -> None:
    async with open_outbox(file) as outbox, open_outbox(file, sole=False) as command:
        one, two = await outbox.add([ring("c1"), ring("c2")])
        assert await command.drop(one.id, AT)
        assert not await command.drop(one.id, AT)
        assert await outbox.changes() == [two]
        assert not await outbox.record(one.id, ATTEMPT, State.QUEUED, AT), "it was under way when it was dropped"
        assert [each.delivery.id for each in await outbox.listing()] == [two.id]
        assert [each.delivery.id for each in await outbox.listing(Which(dropped=True))] == [one.id]
        assert await outbox.add([ring("c1")]) == []
        assert await command.retry(one.id, AT)
        assert [each.id for each in await outbox.waiting()] == [one.id, two.id]


async def test_what_the_crm_confirmed_stands_though_dropped_meanwhile(file: Path) -> None:
    async with open_outbox(file) as outbox:
        (one,) = await outbox.add([ring()])
        await outbox.drop(one.id, AT)
        assert await outbox.record(one.id, ATTEMPT, State.CONFIRMED)
        (listed,) = await outbox.listing(Which(dropped=True))
        assert listed.delivery.state is State.CONFIRMED


async def test_pruning_goes_in_steps_and_spares_what_waits(file: Path) -> None:
    async with open_outbox(file) as outbox:
        added = await outbox.add([ring(f"c{n}", at=AT + timedelta(seconds=n)) for n in range(10)])
        for each in added[:7]:
            await outbox.record(each.id, ATTEMPT, State.CONFIRMED)
        before = AT + timedelta(seconds=5)
        assert [await outbox.prune(before, limit=3) for _ in range(3)] == [3, 2, 0]
        assert len(await outbox.listing()) == 5
        assert await outbox.attempts(added[0].id) == []
    async with open_outbox(file) as outbox:
        (more,) = await outbox.add([ring("later")])
        assert more.id > max(each.id for each in added)


async def confirmed(outbox: Outbox, first: int, count: int) -> None:
    """Callbacks that the CRM has taken, each with an attempt, of some 800 bytes in all."""
    numbers = range(first, first + count)
    added = await outbox.add([ring(f"c{n}", number="9" * 300, at=AT + timedelta(seconds=n)) for n in numbers])
    await asyncio.gather(*(outbox.record(each.id, ATTEMPT, State.CONFIRMED) for each in added))


async def pruned(outbox: Outbox, most_bytes: int) -> int:
    total = 0
    while step := await outbox.prune(AT, most_bytes):
        total += step
    return total


async def test_the_file_stays_below_its_limit_and_what_waits_is_never_pruned(file: Path) -> None:
    async with open_outbox(file) as outbox:
        waiting = await outbox.add([ring(f"old{n}") for n in range(20)])
        sizes = []
        for batch in range(10):
            await confirmed(outbox, batch * 60, 60)
            await pruned(outbox, MB // 4)
            sizes.append(file.stat().st_size)
        assert max(sizes) <= MB // 4
        assert await outbox.waiting() == waiting
        kept = [each.delivery.event.call for each in await outbox.listing(Which(state=State.CONFIRMED), 10_000)]
        assert 100 < len(kept) < 600
        assert kept == [f"c{n}" for n in reversed(range(600 - len(kept), 600))], "the newest are kept"
    assert file.stat().st_size <= MB // 4
    with closing(sqlite3.connect(file)) as connection:
        (attempts,) = connection.execute("SELECT count(*) FROM attempts").fetchone()
    assert attempts == len(kept)


async def test_a_file_that_may_be_smaller_from_now_on_shrinks(file: Path) -> None:
    async with open_outbox(file) as outbox:
        await confirmed(outbox, 0, 1000)
    before = file.stat().st_size
    async with open_outbox(file) as outbox:
        assert await pruned(outbox, before) > 0, "it was full to more than nine tenths"
        while await outbox.prune(AT, before // 4, limit=50):
            pass
    assert file.stat().st_size <= before // 4


async def test_a_file_that_holds_only_what_waits_is_named_once_when_it_is_too_large(file: Path) -> None:
    with capture_logs() as logs:
        async with open_outbox(file) as outbox:
            added = await outbox.add([ring(f"c{n}") for n in range(1000)])
            assert [await outbox.prune(AT, 1000) for _ in range(3)] == [0, 0, 0]
            assert await outbox.waiting() == added
    assert [each["event"] for each in logs] == ["outbox.too_large"]


async def test_numbers_are_never_given_twice(file: Path) -> None:
    async with open_outbox(file) as outbox:
        added = await outbox.add([ring("c1"), ring("c2")])
        for each in added:
            await outbox.record(each.id, ATTEMPT, State.CONFIRMED)
        await outbox.prune(AT + timedelta(days=1))
    async with open_outbox(file) as outbox:
        assert [each.id for each in await outbox.add([ring("c3")])] == [added[1].id + 1]


async def test_a_second_daemon_is_kept_away(file: Path) -> None:
    async with open_outbox(file):
        with pytest.raises(StoreError, match="in use by another crmbridge"):
            async with open_outbox(file):
                pass


class Disk:
    """Makes the outbox's own SQLite refuse, by SQLite's own means."""

    def __init__(self, outbox: Outbox, pragma: str) -> None:
        self.pragma = pragma
        self.refuses = False
        self.outbox = outbox
        sa_event.listen(outbox._engine, "connect", self._on_connect)

    def _on_connect(self, connection: object, _: object) -> None:
        if self.refuses:
            cursor = connection.cursor()  # type: ignore[attr-defined]  # a DBAPI connection
            cursor.execute(self.pragma)
            cursor.close()

    async def refuse(self) -> None:
        self.refuses = True
        await self.outbox._journal.write(lambda connection: connection.exec_driver_sql(self.pragma))

    def mend(self) -> None:
        self.refuses = False


async def disconnect(outbox: Outbox) -> None:
    """Have what it writes next go over another connection."""
    await outbox._journal._in_thread(outbox._journal._disconnect)


async def stored_again(outbox: Outbox) -> None:
    """Return when what was kept is written, and the disk is well again."""
    journal = outbox._journal
    async with asyncio.timeout(20):
        while journal.backlog or journal.broken or journal.hangs:
            await journal._rests.wait()
            if journal._worker:
                await journal._worker


@pytest.mark.parametrize(
    ("pragma", "words"),
    [("PRAGMA max_page_count = 1", "the disk is full"), ("PRAGMA query_only = ON", "cannot be written")],
)
async def test_callbacks_go_on_through_a_disk_that_refuses(file: Path, pragma: str, words: str) -> None:
    long = "9" * 5000  # so that a page does not suffice
    with capture_logs() as logs:
        async with open_outbox(file, disk_retry_s=0.05) as outbox:
            disk = Disk(outbox, pragma)
            (before,) = await outbox.add([ring("c0")])
            await disk.refuse()
            added = await outbox.add([ring("c1", number=long), ring("c2", number=long)])
            assert [each.event.call for each in added] == ["c1", "c2"]
            assert await outbox.add([ring("c2"), ring("c3", number=long)]) != []
            assert await outbox.add([ring("c3")]) == [], "remembered, though not stored"
            assert await outbox.record(added[0].id, ATTEMPT, State.CONFIRMED)
            assert await outbox.known("main", ["c0", "c2", "c9"]) == {ring("c0").key, ring("c2").key}
            states = [outbox.disk_refuses]
            assert await outbox.changes() is None
            with pytest.raises(StoreError, match="nothing was changed"):
                await outbox.drop(before.id, AT)
            disk.mend()
            await stored_again(outbox)
            assert [*states, outbox.disk_refuses] == [True, False]
            assert [each.event.call for each in await outbox.waiting()] == ["c0", "c2", "c3"]
            assert await outbox.attempts(added[0].id) == [ATTEMPT]
            assert await outbox.add([ring("c3")]) == [], "by now it is stored"
            assert outbox.unstored == 0
    told = [each for each in logs if each["log_level"] in {"error", "warning"}]
    assert [each["event"] for each in told] == ["store.disk_refuses", "store.disk_back"]
    assert words in told[0]["reason"]


async def test_reading_while_the_disk_is_tried_again_leaves_no_connection_behind(file: Path) -> None:
    async with open_outbox(file, disk_retry_s=0.001) as outbox:
        disk = Disk(outbox, "PRAGMA query_only = ON")
        await disk.refuse()
        await outbox.add([ring("c1")])
        for _ in range(100):
            assert await outbox.known("main", ["c1"]) == {ring("c1").key}
        disk.mend()
        await stored_again(outbox)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(each.message) for each in caught] == []


async def test_what_a_disk_refuses_to_the_end_is_named(file: Path) -> None:
    with capture_logs() as logs:
        async with open_outbox(file) as outbox:
            await Disk(outbox, "PRAGMA query_only = ON").refuse()
            await outbox.add([ring("c1")])
    assert logs[-1]["event"] == "store.writes_lost"
    assert logs[-1]["writes"] == 1


async def test_a_file_damaged_while_running_and_replaced_by_an_administrator(file: Path) -> None:
    async with open_outbox(file, disk_retry_s=0.05) as outbox:
        await outbox.add([ring(f"c{n}") for n in range(50)])
        await disconnect(outbox)  # what SQLite holds in memory would hide the damage
        damaged(file)
        added = await outbox.add([ring("new")])
        assert [each.event.call for each in added] == ["new"]
        assert outbox.disk_refuses
        assert await outbox.known("main", ["new", "c1"]) >= {ring("new").key}
        move_away(file)
        await stored_again(outbox)
        assert [each.event.call for each in await outbox.waiting()] == ["new"]


def move_away(file: Path) -> None:
    file.rename(file.with_suffix(".damaged"))


def damaged(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    file.write_bytes(content)


async def test_a_caller_that_is_cancelled_takes_nothing_back(file: Path) -> None:
    async with open_outbox(file) as outbox:
        add, later = outbox.add([ring("c1")]), outbox.add([ring("c2")])
        add.cancel()
        await later
        assert [each.event.call for each in await outbox.waiting()] == ["c1", "c2"]

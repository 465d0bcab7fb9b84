"""Two bridges on one PBX: each callback is told once, whatever becomes of one of them."""

from __future__ import annotations

import asyncio
import base64
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random

import aiohttp
import pytest
from tests.asterisk.lab import mariadb
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import ANSWER, LIMIT_S, RING, Daemon, daemon, get, output, trace, write

from crmbridge.calls.claims import of_callback
from crmbridge.crm.callback import idempotency_key
from crmbridge.demo.receiver import Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.store.outbox import open_outbox
from crmbridge.store.outbox_sql import Which

pytestmark = pytest.mark.needs("mariadb")

CALL = "01_did_to_ext_answered"
CREDENTIALS = {"Authorization": f"Basic {base64.b64encode(b'crm:http-s3cret').decode()}"}


def configured(folder: Path, name: str, pbx: SimulatedPbx, url: str, database: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    more = f'url = "{database}"\n[claims]\nbridge = "{name}"\n[log]\nlevel = "debug"'
    return write(folder / name, ami_port=pbx.port, url=url, more=more)


@asynccontextmanager
async def started(folder: Path, name: str, pbx: SimulatedPbx, url: str, database: str) -> AsyncIterator[Daemon]:
    async with daemon(configured(folder, name, pbx, url, database)) as bridge:
        await bridge.logged("ami.connected")
        yield bridge


@asynccontextmanager
async def pair(folder: Path, pbx: SimulatedPbx, database: str, *urls: str) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Two bridges, `one` and `two`; with one address of the CRM, or one for each."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(started(folder, "one", pbx, urls[0], database))
        two = await stack.enter_async_context(started(folder, "two", pbx, urls[-1], database))
        yield one, two


def ended(*bridges: Daemon) -> int:
    """How many callbacks have come to their end in these bridges."""
    events = {"crm.confirmed", "crm.told_by_peer", "crm.refused", "crm.expired"}
    return sum(line["event"] in events for bridge in bridges for line in bridge.lines)


async def all_ended(count: int, *bridges: Daemon) -> None:
    for bridge in bridges:
        await bridge.until(lambda bridge=bridge: ended(bridge) >= count)  # type: ignore[misc]


def told(*crms: Receiver) -> Counter[str]:
    """How often each callback was told."""
    return Counter(each.idempotency_key for crm in crms for each in crm.received)


def states(folder: Path, name: str) -> Counter[str]:
    with closing(sqlite3.connect(folder / name / "outbox.db")) as file:
        return Counter(state for (state,) in file.execute("SELECT state FROM callbacks"))


async def test_each_callback_is_told_once_by_one_of_two(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    async with pair(tmp_path, pbx, fresh.url, await crm.start()) as bridges:
        await asyncio.gather(*(pbx.play(trace(CALL), speed=10) for _ in range(20)))
        await all_ended(40, *bridges)
    assert sorted(told(crm).values()) == [1] * 40
    assert Counter(crm.targets) == {RING: 20, ANSWER: 20}
    one, two = states(tmp_path, "one"), states(tmp_path, "two")
    assert one + two == {"confirmed": 40, "told_by_peer": 40}
    assert one["confirmed"] == two["told_by_peer"]


async def test_a_thousand_equal_clicks_on_both_bridges_at_once_are_one_call(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    path = "/dialer/sodialer.php?sExt=777&sNumber=0529876543&ClientId=10"

    async def click(session: aiohttp.ClientSession, port: int) -> int:
        async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status

    async with pair(tmp_path, pbx, fresh.url, await crm.start()) as bridges:
        ports = [await bridge.port() for bridge in bridges]
        connector = aiohttp.TCPConnector(limit_per_host=50)
        async with aiohttp.ClientSession(connector=connector, headers=CREDENTIALS) as session:
            answers = await asyncio.gather(*(click(session, ports[n % 2]) for n in range(1000)))
        assert Counter(answers) == {200: 1000}
        assert len(pbx.originated) == 1
        placed = [len(bridge._of("dialer.placed")) for bridge in bridges]
        assert sorted(placed) == [0, 1]
        assert sum(len(bridge._of("dialer.repeated")) for bridge in bridges) == 999
        assert (await get(ports[0], path))[0] == (await get(ports[1], path))[0] == 200
        await bridges[placed.index(1)].logged("click.ended")
    assert len(pbx.originated) == 1
    assert crm.received == [], "a click is told to nobody"


async def until(happened: Callable[[], bool], crm: Receiver) -> None:
    """Wait for what the CRM's requests bring about."""
    async with asyncio.timeout(LIMIT_S):
        for number in count(len(crm.received) + 1):
            if happened():
                return
            await crm.wait_for(number)


async def facts(folder: Path, *names: str) -> set[str]:
    """The Idempotency-Keys of all that these bridges know of."""
    found: set[str] = set()
    for name in names:
        async with open_outbox(folder / name / "outbox.db", sole=False) as outbox:
            found |= {idempotency_key(event) for event in await outbox.events(Which(), 1000)}
    return found


async def test_one_that_is_killed_loses_nothing_and_the_other_takes_over(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    """Killed at any moment, with requests under way: what the CRM had answered only to the dead may come again."""
    url, chance, calls = await crm.start(), Random(9), 0
    for _ in range(3):
        async with AsyncExitStack() as stack:
            names = chance.sample(["one", "two"], 2)
            dying, living = [
                await stack.enter_async_context(started(tmp_path, name, pbx, url, fresh.url)) for name in names
            ]
            (start,) = await living.logged("bridge.started")
            playing = [asyncio.create_task(pbx.play(trace(CALL), speed=chance.uniform(2, 20))) for _ in range(20)]
            seen = len(crm.received) + chance.randint(1, 30)
            async with asyncio.timeout(LIMIT_S):
                await crm.wait_for(seen)
            dying.process.send_signal(signal.SIGKILL)
            killed_at = datetime.now(UTC)
            await asyncio.gather(*playing)
            calls += 20
            await all_ended(start["waiting"] + 40, living)
            taken = [line for line in living.lines if line["event"] == "crm.taken_over"]
            late_s = [(datetime.fromisoformat(line["timestamp"]) - killed_at).total_seconds() for line in taken]
            print(f"taken over after the kill: {sorted(round(one, 2) for one in late_s)} s")
    all_told = told(crm)
    assert all_told.keys() == await facts(tmp_path, "one", "two")
    assert len(all_told) == 2 * calls
    doubled = {key: times for key, times in all_told.items() if times > 1}
    print(f"doubled: {len(doubled)}")
    assert len(doubled) <= 3 * 8, "no more than were under way when one was killed"


async def test_what_a_frozen_bridge_holds_is_taken_over_and_it_sends_nothing_late(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    hold = asyncio.Event()
    crm.script(Reply(hold=hold))
    async with pair(tmp_path, pbx, fresh.url, await crm.start()) as bridges:
        await pbx.play(trace(CALL), speed=10)
        await until(lambda: len(crm.received) == 1, crm)
        await asyncio.gather(*(bridge.logged("call.answered") for bridge in bridges))
        # Who doesn't send finds that the other does.
        await asyncio.wait(
            [asyncio.create_task(bridge.logged("crm.held_by_peer")) for bridge in bridges],
            return_when=asyncio.FIRST_COMPLETED,
        )
        frozen, other = sorted(bridges, key=lambda bridge: len(bridge._of("crm.held_by_peer")))
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            (taken,) = await other.logged("crm.taken_over")
            await other.logged("crm.confirmed", times=2)
            hold.set()
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        await all_ended(2, *bridges)
        assert taken["bridge"] in {"one", "two"}
    assert sorted(told(crm).values()) == [1, 2], "the one that was under way came again, with the same key"
    assert Counter(crm.targets) == {RING: 2, ANSWER: 1}


async def test_a_crm_that_refuses_one_bridge_hears_it_from_the_other(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    async with Receiver() as refusing:
        refusing.default = Reply(status=500)
        async with pair(tmp_path, pbx, fresh.url, await refusing.start(), await crm.start()) as bridges:
            await asyncio.gather(*(pbx.play(trace(CALL), speed=10) for _ in range(5)))
            await all_ended(10, *bridges)
    assert Counter(crm.targets) == {RING: 5, ANSWER: 5}
    assert states(tmp_path, "one") == {"told_by_peer": 10}
    assert states(tmp_path, "two") == {"confirmed": 10}
    code, listed = await output("outbox", "list", "--config", str(tmp_path / "one" / "config.toml"), "--json")
    assert code == 0
    assert "confirmed by the CRM, which was told by two" in listed


async def test_without_the_database_nothing_is_lost_and_doubles_have_one_key(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    with mariadb.server() as server:
        server.database.run("CREATE DATABASE shared")
        url = f"mysql+asyncmy://root@127.0.0.1:{server.database.port}/shared"
        async with pair(tmp_path, pbx, url, await crm.start()) as bridges:
            await pbx.play(trace(CALL), speed=10)
            await all_ended(2, *bridges)
            first = set(told(crm))
            assert sorted(told(crm).values()) == [1, 1]
            await asyncio.to_thread(server.kill)
            await asyncio.gather(*(pbx.play(trace(CALL), speed=10) for _ in range(5)))
            await all_ended(12, *bridges)
            assert len(told(crm)) == 12
            assert max(told(crm).values()) <= 2
            for bridge in bridges:
                (unreachable,) = await bridge.logged("claims.unreachable")
                assert "is not there" in unreachable["reason"]
                status, answer = await get(await bridge.port(), "/readyz")
                assert (status, answer["success"]) == (200, True)
                assert "claims" in answer["reasons"][0]
            await asyncio.to_thread(server.start)
            for bridge in bridges:
                await bridge.logged("claims.reachable")
            before = told(crm)
            await asyncio.gather(*(pbx.play(trace(CALL), speed=10) for _ in range(5)))
            await all_ended(22, *bridges)
            assert sorted((told(crm) - before).values()) == [1] * 10, "claimed again"
        marked = server.database.run("SELECT claim FROM shared.claims WHERE told = 'confirmed'").split()[1:]
        # This server keeps its last second in memory: what it knew when it was killed may be gone.
        assert set(told(crm)) - first <= set(marked), "what was told without it is put down, too"


async def test_a_bridge_with_a_new_outbox_beside_one_that_told_all_repeats_nothing(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    url = await crm.start()
    async with started(tmp_path, "one", pbx, url, fresh.url) as one:
        await asyncio.gather(*(pbx.play(trace(CALL), speed=10) for _ in range(5)))
        await all_ended(10, one)
    async with open_outbox(tmp_path / "one" / "outbox.db", sole=False) as outbox:
        events = await outbox.events(Which(), 100)
    (tmp_path / "two").mkdir()
    async with open_outbox(tmp_path / "two" / "outbox.db") as outbox:
        await outbox.add(events)
    async with started(tmp_path, "two", pbx, url, fresh.url) as two:
        await all_ended(10, two)
        assert len(crm.received) == 10
        config = str(tmp_path / "two" / "config.toml")
        # By hand it is sent all the same.
        assert (await output("outbox", "retry", "1", "--config", config))[0] == 0
        await two.logged("crm.confirmed")
    assert len(crm.received) == 11
    assert states(tmp_path, "two") == {"told_by_peer": 9, "confirmed": 1}
    assert set(told(crm)) == {of_callback(event.key) for event in events}

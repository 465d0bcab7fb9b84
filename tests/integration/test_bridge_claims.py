"""Two bridges on one PBX: each callback is told once, whichever of them is killed, stopped or without a line to the CRM."""

from __future__ import annotations

import asyncio
import base64
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import ANSWER, LIMIT_S, RING, Daemon, daemon, get, output, targets, trace, write

from crmbridge.demo.receiver import Manner, Receiver, Reply
from crmbridge.demo.simulated_pbx import SimulatedPbx

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

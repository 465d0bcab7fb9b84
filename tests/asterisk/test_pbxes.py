"""Asterisk 16 and 22 on one bridge at once, each in a network of its own, with phones of the same numbers.

The bridge is in 16's network, and reaches 22's manager by a port there that leads into 22's network.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.asterisk.conftest import Lab
from tests.asterisk.lab import bridge as lab_bridge
from tests.asterisk.lab.bridge import ANSWER, COMMAND, CRM, RING, Bridge, ask, started
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import AMI, SECRET, SIP, USER, Pbx
from tests.asterisk.lab.phone import Phone, Plan

from crmbridge.demo.receiver import Receiver

pytestmark = pytest.mark.needs("asterisk")

LIMIT_S = 60
FAR = ("127.0.0.22", 5038)
PICK_UP = Plan(ring=None, after_s=0)
CLIENTS = {"16": "10", "22": "20"}


class Line:
    """A TCP port in one network that leads to one in another; it can be cut, and then leads nowhere."""

    def __init__(self, far: Network, to: tuple[str, int]) -> None:
        self._far, self._to = far, to
        self._writers: set[asyncio.StreamWriter] = set()
        self._whole = True

    def cut(self) -> None:
        """Cut all connections; further ones end at once."""
        self._whole = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Lead on from now on."""
        self._whole = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one connection on."""
        if not self._whole:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(sock=self._far.connected(self._to))
        self._writers |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        self._writers -= {writer, back}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def line(near: Network, far: Network) -> AsyncIterator[Line]:
    """From FAR, near, to the manager that is far."""
    made = Line(far, AMI)
    server = await asyncio.start_server(made.serve, sock=near.bound(FAR))
    try:
        yield made
    finally:
        made.cut()
        server.close()


@pytest.fixture
def pbxes(lab: Lab) -> dict[str, Pbx]:
    """A running Asterisk of each version, without calls."""
    return {version: lab.pbx(version) for version in CLIENTS}


def configured(folder: Path) -> Path:
    entries = "".join(
        f"""
        [[pbxes]]
        client_id = "{CLIENTS[version]}"
        [pbxes.ami]
        host = "{host}"
        port = {port}
        username = "{USER}"
        secret = "{SECRET}"
        [pbxes.pbx]
        name = "asterisk-{version}"
        """
        for version, (host, port) in {"16": AMI, "22": FAR}.items()
    )
    return lab_bridge.configured(folder, pbxes=entries)


async def phones(stack: AsyncExitStack, pbx: Pbx) -> tuple[Phone, Phone]:
    """777, who picks up, and the line to the outside."""
    agent = await stack.enter_async_context(Phone(pbx.network, "127.0.0.77", "777", pbx=SIP))
    trunk = await stack.enter_async_context(Phone(pbx.network, "127.0.0.2", "trunk", pbx=SIP))
    agent.plan = PICK_UP
    return agent, trunk


async def a_call(agent: Phone, trunk: Phone, times: int = 1) -> None:
    """033004799 calls 777, who answers; they hear one another, and the caller hangs up."""
    caller = trunk.dial("0723456777", caller="033004799")
    ringing = await agent.called(times)
    await ringing.until_answered()
    await asyncio.gather(ringing.audio.until_hears(caller.audio), caller.audio.until_hears(ringing.audio))
    await caller.hang_up()
    await ringing.until_over()


def logged(running: Bridge, event: str) -> list[dict[str, Any]]:
    return [one for one in map(json.loads, running.lines) if one["event"] == event]


def last_state(running: Bridge, pbx: str, device: str) -> str | None:
    """What the bridge has heard last of a device there."""
    told = [one for one in logged(running, "phones.state") if (one["pbx"], one["device"]) == (pbx, device)]
    return told[-1]["state"] if told else None


def of(version: str) -> list[str]:
    return [one.replace("ClientId=10", f"ClientId={CLIENTS[version]}") for one in (RING, ANSWER)]


async def test_two_asterisks_on_one_bridge(pbxes: dict[str, Pbx], tmp_path: Path) -> None:
    near, far = pbxes["16"].network, pbxes["22"].network
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
        crm = await stack.enter_async_context(Receiver())
        await crm.start(sock=near.bound(CRM))
        wire = await stack.enter_async_context(line(near, far))
        both = {version: await phones(stack, pbx) for version, pbx in pbxes.items()}
        config = configured(tmp_path)
        async with started(near.command(COMMAND, "run", "--config", str(config))) as running:
            await running.logged("ami.connected", times=2)
            await asyncio.gather(*(a_call(*pair) for pair in both.values()))
            await crm.wait_for(4)
            for version in pbxes:
                assert [one for one in crm.targets if one in of(version)] == of(version)
            await running.logged("cdr.stored", times=2)
            for client in CLIENTS.values():
                _, answer = await ask(near, f"/calls?number=033004799&ClientId={client}")
                assert [call["ext"] for call in answer["result"]] == ["777"]
            # A click of 22's client rings 777 there, and not the 777 of the other.
            await running.until(lambda: last_state(running, "asterisk-22", "PJSIP/777") == "NOT_INUSE")
            path = "/dialer/sodialer.php?sExt=777&sNumber=0521111111&ClientId=20"
            assert await ask(near, path) == (200, {"success": True, "result": []})
            (agent, trunk), (stranger, _) = both["22"], both["16"]
            clicked = await agent.called(2)
            await clicked.until_answered()
            dialed = await trunk.called(2)
            assert dialed.dialed == "0521111111"
            await clicked.hang_up()
            await dialed.until_over()
            assert len(stranger.calls) == 1
            # With 22 gone, 16's call is told, and what 22 did meanwhile is in its lists when it is back.
            wire.cut()
            await running.logged("ami.lost")
            status, answer = await ask(near, "/readyz")
            assert (status, len(answer["reasons"])) == (200, 1)
            assert "asterisk-22" in answer["reasons"][0]
            await a_call(*both["16"], times=2)
            await crm.wait_for(6)
            assert crm.targets[4:] == of("16")
            wire.mend()
            await running.logged("ami.connected", times=3)
            await a_call(*both["22"], times=3)
            await crm.wait_for(8)
            assert crm.targets[6:] == of("22")
        assert running.process.returncode == 0
        assert [one["pbx"] for one in logged(running, "ami.lost")] == ["asterisk-22"]
        rings = {(one["pbx"], one["client_id"]) for one in logged(running, "call.rings")}
        assert rings == {("asterisk-16", "10"), ("asterisk-22", "20")}
        assert not [one for one in map(json.loads, running.lines) if one["level"] in {"error", "critical"}]


async def test_check_tries_both(pbxes: dict[str, Pbx], tmp_path: Path) -> None:
    near, far = pbxes["16"].network, pbxes["22"].network
    async with asyncio.timeout(LIMIT_S), Receiver() as crm, line(near, far):
        await crm.start(sock=near.bound(CRM))
        process = await asyncio.create_subprocess_exec(
            *near.command(COMMAND, "check", "--json", "--config", str(configured(tmp_path))),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    links = {link["link"]: link for link in json.loads(output)}
    assert [name for name, link in links.items() if not link["ok"]] == [], output.decode()
    for version in pbxes:
        assert links[f"asterisk-{version}: Asterisk"]["found"].startswith(f"version {version}.")

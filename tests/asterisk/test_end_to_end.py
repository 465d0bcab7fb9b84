"""The whole path: a real Asterisk, the bridge as it is installed and run, and a receiver that plays the CRM.

Bridge and receiver are in the PBX's network. SIPp is the caller and the phone of the call that comes in; for the click
our own phones are there, which know what rang when.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.asterisk.lab import sipp
from tests.asterisk.lab.changes import Changes
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import AMI, SECRET, SIP, USER, Pbx
from tests.asterisk.lab.phone import Phone

from crmbridge.demo.receiver import Receiver

pytestmark = pytest.mark.needs("asterisk", "sipp")

LIMIT_S = 30
COMMAND = str(Path(sys.executable).with_name("crmbridge"))
CRM = ("127.0.0.3", 8080)
HTTP = ("127.0.0.1", 6560)
PASSWORD = "lab-password-of-the-crm"
RING = "/webservice.php?operation=incomingCall&sExt=777&sNumber=033004799&ClientId=10"
ANSWER = "/webservice.php?operation=incomingCallAnswered&sExt=777&sNumber=033004799&ClientId=10"
CLICK = "/dialer/sodialer.php:6560?sExt=777&sNumber=0521111111&ClientId=10"


class Bridge:
    """A running `crmbridge run`, and what it logs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._changes = Changes()

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            self._changes.notify()
        self._changes.notify()

    def count(self, event: str) -> int:
        return sum(json.loads(line)["event"] == event for line in self.lines if line.startswith("{"))

    async def logged(self, event: str, times: int = 1) -> None:
        """Wait until it has logged an event so often."""
        await self._changes.until(lambda: self.count(event) >= times or self.process.returncode is not None)
        assert self.count(event) >= times, "".join(self.lines)


@asynccontextmanager
async def bridge(network: Network, folder: Path) -> AsyncIterator[Bridge]:
    """The bridge, connected and listening; ended as systemd would."""
    config = folder / "config.toml"
    config.write_text(
        f"""
        [crm]
        url = "http://{CRM[0]}:{CRM[1]}/webservice.php"
        client_id = 10
        [ami]
        host = "{AMI[0]}"
        port = {AMI[1]}
        username = "{USER}"
        secret = "{SECRET}"
        [http]
        listen = "{HTTP[0]}:{HTTP[1]}"
        username = "crm"
        password = "{PASSWORD}"
        [store]
        state_dir = "{folder}"
        [log]
        level = "debug"
        format = "json"
        """
    )
    process = await asyncio.create_subprocess_exec(
        *network.command(COMMAND, "run", "--config", str(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Bridge(process)
    reading = asyncio.create_task(running.read())
    try:
        await running.logged("ami.connected")
        await running.logged("http.listening")
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


@pytest.fixture
async def crm(pbx: Pbx) -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        await receiver.start(sock=pbx.network.bound(CRM))
        yield receiver


async def ask(network: Network, path: str) -> tuple[int, Any]:
    """The CRM's question, from within the PBX's network."""
    connector = aiohttp.TCPConnector(socket_factory=lambda address: network.new_socket(address[0], address[1]))
    headers = {"Authorization": f"Basic {base64.b64encode(f'crm:{PASSWORD}'.encode()).decode()}"}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.get(f"http://{HTTP[0]}:{HTTP[1]}{path}") as answer,
    ):
        return answer.status, await answer.json()


async def a_call_comes_in(network: Network, folder: Path) -> None:
    """033004799 calls the number of 777, which rings and answers; then the caller hangs up."""
    async with (
        sipp.answering(network, "127.0.0.77", ring_s=0.5, folder=folder) as phone,
        sipp.calling(network, "0723456777", caller="033004799", talk_s=1.2, folder=folder) as caller,
    ):
        await asyncio.gather(caller.done(), phone.done())


async def a_click(network: Network) -> None:
    """The CRM asks for a call of 777 with 0521111111: 777 rings, and only when it was answered the trunk is called."""
    async with (
        Phone(network, "127.0.0.77", "777", pbx=SIP) as agent,
        Phone(network, "127.0.0.2", "trunk", pbx=SIP) as trunk,
    ):
        assert await ask(network, CLICK) == (200, {"success": True, "result": []})
        ringing = await agent.called()
        await ringing.until_ringing()
        assert not trunk.calls
        await ringing.until_answered()
        customer = await trunk.called()
        assert customer.dialed == "0521111111"
        await asyncio.gather(ringing.audio.until_hears(customer.audio), customer.audio.until_hears(ringing.audio))
        await asyncio.sleep(1.2)  # they talk: the call list counts whole seconds
        await ringing.hang_up()
        await customer.until_over()
        assert len(agent.calls) == len(trunk.calls) == 1


async def listed(network: Network, number: str) -> list[tuple[str, str, bool]]:
    status, answer = await ask(network, f"/calls?number={number}")
    assert (status, answer["success"]) == (200, True)
    assert all(call["duration"] >= 1 for call in answer["result"])
    return [(call["ext"], call["number"], call["incoming"]) for call in answer["result"]]


async def test_a_call_rings_and_the_crm_hears_it_and_a_click_dials(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    network = pbx.network
    async with asyncio.timeout(LIMIT_S), bridge(network, tmp_path) as running:
        await a_call_comes_in(network, tmp_path)
        await crm.wait_for(2)
        assert crm.targets == [RING, ANSWER]
        await running.logged("cdr.stored")
        await a_click(network)
        await running.logged("cdr.stored", times=2)
        assert await listed(network, "033004799") == [("777", "033004799", True)]
        assert await listed(network, "0521111111") == [("777", "0521111111", False)]
    assert running.process.returncode == 0
    assert crm.targets == [RING, ANSWER]  # whatever else was to be sent has been sent: the bridge has ended
    assert SECRET not in "".join(running.lines)
    assert PASSWORD not in "".join(running.lines)

"""The whole path: a real Asterisk, the bridge as it is installed and run, and a receiver that plays the CRM.

Bridge and receiver are in the PBX's network. SIPp is the caller and the phone of the call that comes in; for the click
our own phones are there, which know what rang when.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from tests.asterisk.lab import sipp
from tests.asterisk.lab.bridge import ANSWER, COMMAND, PASSWORD, RING, ask, bridge, configured
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import SECRET, SIP, Pbx
from tests.asterisk.lab.phone import NO_ANSWER, Phone, Plan

from crmbridge.demo.receiver import Receiver

pytestmark = pytest.mark.needs("asterisk", "sipp")

LIMIT_S = 30
PICK_UP = Plan(ring=None, after_s=0)
CLICK = "/dialer/sodialer.php:6560?sExt=777&sNumber=0521111111&ClientId=10"


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


async def test_check_finds_every_link_in_order(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *pbx.network.command(COMMAND, "check", "--json", "--config", str(configured(tmp_path))),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    links = json.loads(output)
    assert [link["link"] for link in links if not link["ok"]] == [], output.decode()
    assert {"AMI", "AMI rights", "CRM"} <= {link["link"] for link in links}
    assert crm.targets == ["/webservice.php"]


@pytest.mark.parametrize("answered", ["while it is away", "when it is back"])
async def test_a_bridge_that_dies_during_a_call_tells_the_rest_of_it_once(
    pbx: Pbx, crm: Receiver, tmp_path: Path, answered: str
) -> None:
    async with (
        asyncio.timeout(LIMIT_S),
        Phone(pbx.network, "127.0.0.77", "777", pbx=SIP) as agent,
        Phone(pbx.network, "127.0.0.2", "trunk", pbx=SIP) as trunk,
    ):
        agent.plan = NO_ANSWER  # until it is told to
        async with bridge(pbx.network, tmp_path) as first:
            customer = trunk.dial("0723456777", caller="033004799")
            ringing = await agent.called()
            await ringing.until_ringing()
            await crm.wait_for(1)
            await first.logged("crm.confirmed")
            first.process.send_signal(signal.SIGKILL)
            await first.process.wait()
        if answered == "while it is away":
            await ringing.follow(PICK_UP)
            await ringing.audio.until_hears(customer.audio)
        async with bridge(pbx.network, tmp_path) as second:
            if answered == "when it is back":
                await ringing.follow(PICK_UP)
            await crm.wait_for(2)
            await second.logged("crm.confirmed")
            await customer.hang_up()
            await ringing.until_over()
            await second.logged("cdr.stored")
        assert crm.targets == [RING, ANSWER]

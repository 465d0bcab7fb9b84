"""What befalls an AMI session on a live Asterisk: restarts, reloads, slow boots, a network that swallows everything.

After each the bridge is there again by itself, takes the calls as they are, and tells nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.bridge import ANSWER, CRM, RING, Bridge, bridge
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import SIP, Pbx
from tests.asterisk.lab.phone import NO_ANSWER, Call, Phone, Plan

from crmbridge.demo.receiver import Receiver

pytestmark = pytest.mark.needs("asterisk")

LIMIT_S = 50
PICK_UP = Plan(ring=None, after_s=0)
DID, CALLER, SECOND = "0723456777", "033004799", "0521111111"
RING_2, ANSWER_2 = RING.replace(CALLER, SECOND), ANSWER.replace(CALLER, SECOND)


@dataclass
class Scene:
    """A bridge, the CRM, a phone and the trunk, around a PBX that may come and go."""

    network: Network
    bridge: Bridge
    crm: Receiver
    agent: Phone
    trunk: Phone

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.bridge.lines if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def rings(self, caller: str = CALLER) -> tuple[Call, Call]:
        """Somebody calls, and the phone rings until it is told otherwise: the caller's end, and the phone's."""
        self.agent.plan = NO_ANSWER
        before = len(self.agent.calls)
        customer = self.trunk.dial(DID, caller=caller)
        ringing = await self.agent.called(before + 1)
        await ringing.until_ringing()
        return customer, ringing

    async def told(self, *targets: str) -> None:
        """The CRM has heard just this."""
        await self.crm.wait_for(len(targets))
        await self.bridge.logged("crm.confirmed", times=len(targets))
        assert self.crm.targets == list(targets)

    async def a_whole_call(self, caller: str) -> None:
        """Rings, is answered, and ends."""
        customer, ringing = await self.rings(caller)
        await ringing.follow(PICK_UP)
        await ringing.audio.until_hears(customer.audio)
        await customer.hang_up()
        await ringing.until_over()


@asynccontextmanager
async def scene(network: Network, folder: Path) -> AsyncIterator[Scene]:
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
        crm = await stack.enter_async_context(Receiver())
        await crm.start(sock=network.bound(CRM))
        agent = await stack.enter_async_context(Phone(network, "127.0.0.77", "777", pbx=SIP))
        trunk = await stack.enter_async_context(Phone(network, "127.0.0.2", "trunk", pbx=SIP))
        running = await stack.enter_async_context(bridge(network, folder))
        yield Scene(network, running, crm, agent, trunk)
    assert running.process.returncode == 0


@pytest.fixture
def own_pbx(root: tuple[str, Path]) -> Iterator[Pbx]:
    """An Asterisk that a test may do anything to."""
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network) as pbx:
        yield pbx


async def test_a_restart_of_asterisk(own_pbx: Pbx, tmp_path: Path) -> None:
    """The calls die with it; the next one is told, and the old ones are not told again."""
    async with scene(own_pbx.network, tmp_path) as there:
        await there.rings()
        await there.told(RING)
        own_pbx.cli("core restart now")
        await there.bridge.logged("ami.connected", times=2)
        own_pbx.cli("core waitfullybooted")
        await there.a_whole_call(SECOND)
        await there.told(RING, RING_2, ANSWER_2)
    (stops,) = there.logged("ami.asterisk_stops")
    assert stops["restart"] == "True"


async def test_asterisk_ends_and_another_one_is_started(root: tuple[str, Path], tmp_path: Path) -> None:
    version, path = root
    with Network() as network:
        async with AsyncExitStack() as stack:
            with lab_pbx.running(version, path, network) as first:
                there = await stack.enter_async_context(scene(network, tmp_path))
                await there.rings()
                await there.told(RING)
                with suppress(subprocess.CalledProcessError):  # who says so in there may be ended with it
                    first.cli("core stop now")
                await there.bridge.logged("ami.lost")
            await there.bridge.logged("ami.unreachable")
            with lab_pbx.running(version, path, network):
                await there.bridge.logged("ami.connected", times=2)
                await there.a_whole_call(SECOND)
                await there.told(RING, RING_2, ANSWER_2)
                await stack.aclose()
    # Told to stop now, a busy Asterisk may be gone before it has said so.
    assert [stops["restart"] for stops in there.logged("ami.asterisk_stops")] in ([], ["False"])
    assert "does Asterisk run" in there.logged("ami.unreachable")[0]["error"]


async def test_a_reload_of_the_manager_in_the_middle_of_a_call(own_pbx: Pbx, tmp_path: Path) -> None:
    """Sessions stay, calls too; only the hints are read anew."""
    async with scene(own_pbx.network, tmp_path) as there:
        customer, ringing = await there.rings()
        await there.told(RING)
        for module in ("manager", "pbx_config.so"):
            own_pbx.cli(f"module reload {module}")
        await there.bridge.logged("ami.asterisk_reloaded", times=2)
        await ringing.follow(PICK_UP)
        await ringing.audio.until_hears(customer.audio)
        await customer.hang_up()
        await ringing.until_over()
        await there.told(RING, ANSWER)
        assert there.bridge.count("ami.connected") == 1
        assert not there.logged("ami.list_incomplete")


async def test_a_login_long_before_asterisk_has_booted(own_pbx: Pbx, tmp_path: Path) -> None:
    """AMI lets us in while modules are still being loaded; when all are there, everything is looked at again."""
    root = Path(f"/proc/{own_pbx.pid}/root")
    os.mkfifo(root / "etc/asterisk/gate")
    options = (root / "etc/asterisk/asterisk.conf").read_text()
    own_pbx.configure("asterisk.conf", options.replace("[options]", "[options]\nexecincludes = yes"))
    # Whoever reads this file waits until somebody writes into the gate.
    parking = (root / "etc/asterisk/res_parking.conf").read_text()
    own_pbx.configure("res_parking.conf", f"#exec /bin/cat /etc/asterisk/gate\n{parking}")
    async with scene(own_pbx.network, tmp_path) as there:
        own_pbx.cli("core restart now")
        await there.bridge.logged("ami.connected", times=2)
        await there.bridge.logged("ami.no_fully_booted")
        (root / "etc/asterisk/gate").write_text("; open\n")
        own_pbx.cli("core waitfullybooted")
        await there.a_whole_call(SECOND)
        await there.told(RING_2, ANSWER_2)
        assert there.bridge.count("ami.connected") == 2


async def test_a_network_that_swallows_everything(own_pbx: Pbx, tmp_path: Path) -> None:
    """Nothing ends such a connection but ourselves; afterwards the call is told on from where it is."""
    network = own_pbx.network
    async with scene(network, tmp_path) as there:
        customer, ringing = await there.rings()
        await there.told(RING)
        network.run("ip", "link", "set", "lo", "down")
        await there.bridge.logged("ami.silent")
        network.run("ip", "link", "set", "lo", "up")
        await there.bridge.logged("ami.connected", times=2)
        await ringing.follow(PICK_UP)
        await ringing.audio.until_hears(customer.audio)
        await customer.hang_up()
        await ringing.until_over()
        await there.told(RING, ANSWER)

"""The same click on both bridges at once, again and again."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.asterisk.lab import sipp
from tests.asterisk.lab.ami import Ami, Frame
from tests.asterisk.lab.site import PBXES, Site

AT_ONCE = 50
"""Requests on their way to each bridge."""
EXTENSION, NUMBER = "778", "0331234567"
PHONE, TRUNK = "127.0.0.78", "127.0.0.2"
LIMIT_S = 60


async def at_once(site: Site, amis: dict[str, Ami], times: int) -> tuple[int, Counter[int]]:
    """Half of them to each bridge; how many calls were placed on all PBXes, and how the requests were answered."""
    name, (_, _, client) = next(iter(PBXES.items()))
    path = f"/dialer/sodialer.php?sExt={EXTENSION}&sNumber={NUMBER}&ClientId={client}"
    network = site.pbxes[name].network
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="crmbridge-clicks.")))
        for address in (PHONE, TRUNK):
            await stack.enter_async_context(sipp.answering(network, address, ring_s=0.5, folder=folder, calls=times))
        turns = {host.machine.address: asyncio.Semaphore(AT_ONCE) for host in site.hosts}

        async def click(address: str) -> int:
            async with turns[address]:
                status, _ = await site.ask(address, path)
            return status

        answers = await asyncio.gather(*(click(address) for _ in range(times // len(turns)) for address in turns))
        talking = await amis[name].until(lambda frame: frame.get("Event") == "BridgeEnter" and _is_placed(frame))
        site.pbxes[name].cli(f"channel request hangup {talking['Channel']}")
    placed = sum(_is_placed(frame) for ami in amis.values() for frame in ami.events("Newchannel"))
    return placed, Counter(answers)


def _is_placed(frame: Frame) -> bool:
    """Whether it is the first channel of a call that no caller began: the phone of who clicked."""
    return frame["Channel"].startswith(f"PJSIP/{EXTENSION}-") and frame["Uniqueid"] == frame["Linkedid"]

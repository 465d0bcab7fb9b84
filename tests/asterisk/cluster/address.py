"""keepalived on both bridges' machines, with the files of docs/scale, and how long nobody answers at their address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tests.asterisk.cluster.told import Spell
from tests.asterisk.lab.site import SCALE, Host, Site

ADDRESS = "10.77.0.10"
ASKED_EACH_S = 0.1
PATIENCE_S = 0.5
NOTED_S = 1.0
"""A machine that is busy for a moment answers late."""
COMES_WITHIN_S = 30


@dataclass
class Watch:
    """When the address answered, on the event loop's clock."""

    answered: list[float] = field(default_factory=list)

    def into(self, spells: Iterable[Spell], began: float) -> None:
        """Note for each spell the longest time without an answer that ended in it."""
        gaps = [(later - began, later - one) for one, later in zip(self.answered, self.answered[1:], strict=False)]
        ordered = sorted(spells, key=lambda spell: spell.began)
        ends = [*(spell.began for spell in ordered[1:]), float("inf")]
        for spell, end in zip(ordered, ends, strict=True):
            own = [gap for at, gap in gaps if spell.began <= at < end and gap > NOTED_S]
            spell.silent_s = max(own, default=0.0)


@asynccontextmanager
async def shared_address(site: Site, folder: Path) -> AsyncIterator[Watch]:
    """keepalived runs on both, and the CRM asks at the address all the time."""
    watch = Watch()
    async with AsyncExitStack() as stack:
        for host in site.hosts:
            await stack.enter_async_context(_keepalived(host, folder))
        asking = asyncio.create_task(_ask(site, watch))
        try:
            async with asyncio.timeout(COMES_WITHIN_S):
                while not watch.answered:  # noqa: ASYNC110  # nobody tells when an address comes
                    await asyncio.sleep(ASKED_EACH_S)
            yield watch
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking


async def _ask(site: Site, watch: Watch) -> None:
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                status, _ = await site.ask(ADDRESS, "/healthz")
            if status == 200:
                watch.answered.append(asyncio.get_running_loop().time())
        await asyncio.sleep(ASKED_EACH_S)


@asynccontextmanager
async def _keepalived(host: Host, folder: Path) -> AsyncIterator[None]:
    name = host.machine.name
    config = SCALE / f"{name.replace('bridge', 'keepalived')}.conf"
    files = [f"--pid={folder / name}.pid", f"--vrrp_pid={folder / name}.vrrp.pid"]
    command = ["keepalived", "--dont-fork", "--vrrp", "--log-console", "--no-syslog", f"--use-file={config}", *files]
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *host.machine.network.command(*command), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

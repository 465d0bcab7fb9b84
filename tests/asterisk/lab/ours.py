"""The bridge's own AMI session, made in this process, with a PBX in a network of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from tests.asterisk.lab.changes import Changes
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import AMI, SECRET, USER

from crmbridge.pbx.ami import Address, Ami, Timing
from crmbridge.pbx.connection import Connection
from crmbridge.pbx.visit import visit
from crmbridge.pbx.wire import Frame


@dataclass(frozen=True)
class InNetwork(Address):
    """An address inside a network of the lab."""

    network: Network | None = None

    async def connect(self, factory: Callable[[], Connection]) -> Connection:
        assert self.network is not None
        tls = self.context() if self.tls else None
        _, connection = await asyncio.get_running_loop().create_connection(
            factory,
            sock=self.network.connected((self.host, self.port)),
            ssl=tls,
            server_hostname=self.host if tls else None,
        )
        return connection


class Heard:
    """What the session hands on."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._changes = Changes()

    def take(self, frame: Frame, at: datetime) -> None:
        del at
        self.frames.append(frame)
        self._changes.notify()

    async def until(self, event: str, times: int = 1) -> None:
        """Wait until an event has come so often."""
        await self._changes.until(lambda: sum(frame["Event"] == event for frame in self.frames) >= times)


def our_ami(
    address: Address, heard: Heard, *, username: str = USER, secret: str = SECRET, timing: Timing | None = None
) -> Ami:
    """A session that is not begun yet."""
    wanted = ["Newchannel", "Hangup", "CoreShowChannel", "CoreShowChannelsComplete"]
    return Ami(address=address, username=username, secret=secret, wanted=wanted, on_frame=heard.take, timing=timing)


async def tried(address: Address, *, username: str = USER, secret: str = SECRET, timing: Timing | None = None) -> None:
    """Log in once and out again, as `crmbridge check` does. Raises what that raises."""
    async with visit(address, username, secret, timing):
        pass


def inside(network: Network, *, port: int = AMI[1], tls: bool = False) -> InNetwork:
    """Where the PBX's manager listens."""
    return InNetwork(AMI[0], port, tls=tls, network=network)


@asynccontextmanager
async def held(ami: Ami) -> AsyncIterator[Ami]:
    """Hold the session, or try to."""
    task = asyncio.create_task(ami.run())
    try:
        yield ami
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

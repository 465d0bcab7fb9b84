"""A session on the Manager Interface that keeps every byte as it came, and when it came.

Of its own on purpose: what the bridge makes of AMI is judged by what this one saw.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from tests.asterisk.lab import pbx
from tests.asterisk.lab.changes import Changes
from tests.asterisk.lab.pbx import Pbx

Frame = dict[str, str]


class Ami(asyncio.Protocol):
    """A logged-in session."""

    def __init__(self) -> None:
        self.raw = bytearray()
        """All bytes since the banner."""
        self.timing: list[tuple[int, float]] = []
        """For each piece as it was read: the offset of its first byte, seconds since the connection was made."""
        self.frames: list[Frame] = []
        self._cut = 0
        self._ids = itertools.count(1)
        self._changes = Changes()
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self.ended: float | None = None
        """When the connection was lost."""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.timing.append((len(self.raw), round(self._loop.time() - self.began, 4)))
        self.raw += data
        self.frames += self._whole_frames()
        self._changes.notify()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.ended = self._loop.time()
        self._changes.notify()

    async def lost(self) -> None:
        """Wait until the connection is gone."""
        await self._changes.until(lambda: self.ended is not None)

    def _whole_frames(self) -> Iterator[Frame]:
        while (end := self.raw.find(b"\r\n\r\n", self._cut)) >= 0:
            lines = self.raw[self._cut : end].decode(errors="replace").split("\r\n")
            self._cut = end + 4
            yield {name: value for name, _, value in (line.partition(": ") for line in lines)}

    async def action(self, name: str, **headers: str) -> Frame:
        """Send an action and wait for its answer, whatever it is."""
        action_id = f"lab-{next(self._ids)}"
        lines = [f"Action: {name}", f"ActionID: {action_id}", *(f"{key}: {value}" for key, value in headers.items())]
        self._transport.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        return await self.until(lambda frame: frame.get("ActionID") == action_id and "Response" in frame)

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Wait for a frame, or take the first that has come already."""
        await self._changes.until(lambda: any(map(wanted, self.frames)))
        return next(frame for frame in self.frames if wanted(frame))

    def events(self, name: str) -> list[Frame]:
        """The events of a name that have come."""
        return [frame for frame in self.frames if frame.get("Event") == name]

    def channels(self) -> list[str]:
        """The channels that were seen to come and are not gone, by the names that they came with."""
        # Of a channel that was going when we came, only the Hangup is seen.
        gone = {frame["Uniqueid"] for frame in self.events("Hangup")}
        return [frame["Channel"] for frame in self.events("Newchannel") if frame["Uniqueid"] not in gone]

    async def until_no_channels(self) -> None:
        """Wait until each channel that was seen to come is gone."""
        await self._changes.until(lambda: not self.channels())

    async def until_still(self, for_s: float) -> None:
        """Wait until nothing has come for so long."""
        pieces = -1
        while pieces != len(self.timing):
            pieces = len(self.timing)
            await asyncio.sleep(for_s)

    def close(self) -> None:
        self._transport.abort()


class RefusedError(Exception):
    """Asterisk does not let this user in."""


@asynccontextmanager
async def session(where: Pbx, username: str = pbx.RECORDER, secret: str = pbx.RECORDER_SECRET) -> AsyncIterator[Ami]:
    """A session, logged in, with Asterisk fully booted. Raises RefusedError."""
    connected = where.network.connected(pbx.AMI)
    _, ami = await asyncio.get_running_loop().create_connection(Ami, sock=connected)
    try:
        answer = await ami.action("Login", Username=username, Secret=secret, Events="on")
        if answer["Response"] != "Success":
            raise RefusedError(answer["Message"])
        await ami.until(lambda frame: frame.get("Event") == "FullyBooted")
        yield ami
    finally:
        ami.close()

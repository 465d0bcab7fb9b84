"""A TCP relay between the bridge and Asterisk that can cut, freeze and slow what passes.

Needs no packet filter. A cut is a reset on both sides (SO_LINGER 0). Frozen means that nothing is passed on in either
direction, neither bytes nor an end: to both sides it looks as if all packets were dropped. It notes what was given to
the bridge and when, so that the judge knows what the bridge could see.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.asterisk.faults.judge import Interval, Sight
from tests.asterisk.lab.changes import Changes
from tests.asterisk.lab.network import Network

TRICKLE_BYTES, TRICKLE_EVERY_S = 32, 0.01
"""Some 3 kB a second, where five calls a second make Asterisk say more than ten times as much."""
_LIST_COMPLETE = b"Event: CoreShowChannelsComplete"
_LINGER_0 = struct.pack("ii", 1, 0)


class _Pipe:
    """One direction of a link: what has come and is not passed on yet."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.ended = False
        self.changed = asyncio.Event()

    def put(self, at: float, data: bytes) -> None:
        self.waiting.append((at, data))
        self.changed.set()

    def end(self) -> None:
        self.ended = True
        self.changed.set()


class _Link:
    """A connection of the bridge, and the one to Asterisk that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket, now: float) -> None:
        self.client, self.server = client, server
        self.to_bridge, self.to_asterisk = _Pipe(), _Pipe()
        self.listed_at: float | None = None
        """When Asterisk had listed its channels, and the bridge was given all of the list."""
        self.given_until = now
        """Whatever Asterisk said up to then was given to the bridge."""
        self.tasks: list[asyncio.Task[None]] = []
        self.last = b""


class Relay:
    """Use `relaying`."""

    def __init__(self, network: Network, target: tuple[str, int]) -> None:
        self._network, self._target = network, target
        self._loop = asyncio.get_running_loop()
        self._links: set[_Link] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._slow = False
        self._windows: list[Interval] = []
        self._handed: list[Interval] = []
        self._changes = Changes()
        self.connections = 0

    async def linked(self) -> None:
        """Wait until the bridge is connected."""
        await self._changes.until(lambda: bool(self._links))

    async def listed(self) -> None:
        """Wait until the bridge is connected and was given the list of channels."""
        await self._changes.until(lambda: any(link.listed_at is not None for link in self._links))

    def reset(self) -> None:
        """End all connections with RST, on both sides; what is on its way is lost."""
        for link in list(self._links):
            self._finish(link, reset=True)

    def freeze(self) -> None:
        """Pass nothing on."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on what has come meanwhile, and what comes."""
        self._flowing.set()

    def trickle(self, slow: bool) -> None:
        """Pass on a few bytes at a time, or again all at once."""
        self._slow = slow

    def sight(self, began: float) -> Sight:
        """What the bridge could see, in seconds since `began`. Live connections count up to now."""
        windows = self._windows + [window for link in self._links if (window := self._window(link))]
        return Sight(
            sorted((start - began, end - began) for start, end in windows),
            sorted((said - began, given - began) for said, given in self._handed),
        )

    async def serve(self, listener: socket.socket) -> None:
        """Take connections until cancelled."""
        while True:
            client, _ = await self._loop.sock_accept(listener)
            self.connections += 1
            try:
                server = self._network.connected(self._target)
            except OSError:
                client.close()
                continue
            link = _Link(client, server, self._loop.time())
            self._links.add(link)
            link.tasks = [
                asyncio.create_task(work)
                for work in (
                    self._receive(link, server, link.to_bridge),
                    self._receive(link, client, link.to_asterisk),
                    self._forward(link, link.to_bridge, client),
                    self._forward(link, link.to_asterisk, server),
                )
            ]
            self._changes.notify()

    def close(self) -> None:
        """End all connections."""
        for link in list(self._links):
            self._finish(link)

    async def _receive(self, link: _Link, source: socket.socket, pipe: _Pipe) -> None:
        with suppress(OSError):
            while data := await self._loop.sock_recv(source, 1 << 16):
                pipe.put(self._loop.time(), data)
        pipe.end()
        if source is link.client:
            self._note(link)  # nobody is there any more to be given anything
            link.tasks[2].cancel()

    async def _forward(self, link: _Link, pipe: _Pipe, sink: socket.socket) -> None:
        with suppress(OSError):
            while await self._more(pipe):
                at, data = pipe.waiting[0]
                await self._flowing.wait()
                if self._slow and len(data) > TRICKLE_BYTES:
                    await self._loop.sock_sendall(sink, data[:TRICKLE_BYTES])
                    pipe.waiting[0] = (at, data[TRICKLE_BYTES:])
                    self._passed(link, pipe, data[:TRICKLE_BYTES], None)
                    await asyncio.sleep(TRICKLE_EVERY_S)
                else:
                    await self._loop.sock_sendall(sink, data)
                    pipe.waiting.popleft()
                    self._passed(link, pipe, data, at)
            await self._flowing.wait()
        self._finish(link)

    async def _more(self, pipe: _Pipe) -> bool:
        while not pipe.waiting and not pipe.ended:
            pipe.changed.clear()
            await pipe.changed.wait()
        return bool(pipe.waiting)

    def _passed(self, link: _Link, pipe: _Pipe, data: bytes, whole_since: float | None) -> None:
        if pipe is not link.to_bridge:
            return
        if link.listed_at is None and _LIST_COMPLETE in link.last + data:
            link.listed_at = whole_since or self._loop.time()
            self._changes.notify()
        link.last = data[-len(_LIST_COMPLETE) :] if len(data) >= len(_LIST_COMPLETE) else (link.last + data)[-64:]
        if whole_since is not None:
            self._handed.append((whole_since, self._loop.time()))

    def _note(self, link: _Link) -> None:
        window = self._window(link)
        if window:
            self._windows.append(window)
        link.listed_at = None

    def _window(self, link: _Link) -> Interval | None:
        if link.listed_at is None:
            return None
        return link.listed_at, link.to_bridge.waiting[0][0] if link.to_bridge.waiting else self._loop.time()

    def _finish(self, link: _Link, *, reset: bool = False) -> None:
        if link not in self._links:
            return
        self._links.discard(link)
        self._note(link)
        current = asyncio.current_task()
        for task in link.tasks:
            if task is not current:
                task.cancel()
        for end in (link.client, link.server):
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            end.close()


@asynccontextmanager
async def relaying(network: Network, listen: tuple[str, int], target: tuple[str, int]) -> AsyncIterator[Relay]:
    """A relay that listens in a network and leads to an address there."""
    relay = Relay(network, target)
    with network.bound(listen) as listener:
        serving = asyncio.create_task(relay.serve(listener))
        try:
            yield relay
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            relay.close()

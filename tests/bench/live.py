"""Rings of a live Asterisk (root, the lab): the same clock as for simulated ones, with a relay in between.

The relay hands on each piece that Asterisk sends as it comes, notes when the bridge's socket has it, and only then
looks what it holds, with a reader and a tracker of its own: what a piece makes a tracker tell is what is timed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.asterisk.lab import pbx, sipp
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.rootfs import root_filesystem
from tests.bench.contenders import Ours
from tests.bench.rig import SETTLE_S, Crm, Rig, daemon, settings, target

from crmbridge.calls.events import Kind

VERSION = "22"
RATES = {1: 15, 10: 100, 50: 500}
"""Calls a second, and how many."""
RING_S, TALK_S = 0.5, 0.5
PHONE, EXTENSION, DID = "127.0.0.77", "777", "0723456777"
_CRM, _RELAY = ("127.0.0.3", 8080), ("127.0.0.1", 5039)


class _Relay:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._ours = Ours()
        self.sent: dict[bytes, float] = {}
        self._loop = asyncio.get_running_loop()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of the bridge."""
        from_pbx, to_pbx = await asyncio.open_connection(sock=self._network.connected(pbx.AMI))
        # When the bridge goes, so does the other half, and with it the loop below.
        back = asyncio.create_task(_pass_on(reader, to_pbx))
        try:
            while data := await from_pbx.read(1 << 16):
                writer.write(data)
                self._note(data, self._loop.time())
        except (ConnectionError, asyncio.CancelledError):
            pass  # the end: asyncio 3.11 would tell of it
        finally:
            back.cancel()
            writer.close()
            to_pbx.close()

    def _note(self, data: bytes, at: float) -> None:
        for frame in self._ours.reader.feed(data):
            for told in self._ours.tracker.handle(frame, datetime.now(UTC)):
                self.sent[target(told.kind.value, told.extension, told.number)] = at


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)


async def measured() -> dict[int, dict[str, float]]:
    """By calls a second. Raises PartError, SippFailedError, PbxError."""
    with (
        root_filesystem(VERSION) as root,
        Network() as network,
        pbx.running(VERSION, root, network),
        TemporaryDirectory(prefix="crmbridge-bench.") as folder,
    ):
        async with _bridged(network, Path(folder)) as one:
            return {rate: await _at(one, network, Path(folder), rate, count) for rate, count in RATES.items()}


@asynccontextmanager
async def _bridged(network: Network, folder: Path) -> AsyncIterator[Rig]:
    relay = _Relay(network)
    config, port = settings(folder, _RELAY, crm=_CRM, user=pbx.USER, secret=pbx.SECRET)
    server = await asyncio.start_server(relay.serve, sock=network.bound(_RELAY))
    async with server, Crm(network.bound(_CRM)) as crm, daemon(config, network.command()) as process:
        one = Rig([], crm, process, port)
        one.sent = relay.sent
        async with asyncio.timeout(SETTLE_S):
            await _listed(network, port)
        yield one


async def _listed(network: Network, port: int) -> None:
    """Wait until the bridge says that it is ready."""
    while True:
        with network.new_socket() as asking:
            try:
                await asyncio.get_running_loop().sock_connect(asking, ("127.0.0.1", port))
                await asyncio.get_running_loop().sock_sendall(asking, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                if b" 200 " in await asyncio.get_running_loop().sock_recv(asking, 1000):
                    return
            except OSError:
                pass
        await asyncio.sleep(0.1)


async def _at(one: Rig, network: Network, folder: Path, rate: int, count: int) -> dict[str, float]:
    callers = [f"03{rate:02d}{number:05d}" for number in range(count)]
    began = one.cpu_s()
    async with (
        sipp.answering(network, PHONE, ring_s=RING_S, folder=folder, calls=count) as phone,
        sipp.calling_often(network, DID, callers=callers, per_s=rate, talk_s=TALK_S, folder=folder) as people,
    ):
        await asyncio.gather(people.done(), phone.done())
    await one.until_told()
    used_s = one.cpu_s() - began
    rings, answers = ([target(kind.value, EXTENSION, caller) for caller in callers] for kind in Kind)
    return one.figures(rings, answers, used_s)

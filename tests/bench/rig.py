"""The daemon as it is installed, between a PBX and a CRM that cost next to nothing, and what it tells the CRM when.

Both are in this process, so that one clock times what is sent and what arrives. What the PBX sends are recorded calls
(`busy`), made before anything is timed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

from tests.asterisk.lab.mariadb import free_port
from tests.bench.bridge import COMMAND, PASSWORD, PartError
from tests.bench.busy import Template
from tests.bench.contenders import EXTENSIONS, Ours

from crmbridge.demo.receiver import SUCCESS
from crmbridge.demo.simulated_pbx import SimulatedPbx

SETTLE_S = 60.0
"""How long the last callbacks may take."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_NEVER = datetime.min.replace(tzinfo=UTC)
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") / 1024


class Crm:
    """Answers each request at once, and notes when it came."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        """`sock`: bound already, in place of a port of its own."""
        self._sock = sock or socket.create_server(("127.0.0.1", 0))
        self.at: dict[bytes, float] = {}
        """When each target was asked for first, on the loop's clock."""
        self.requests = 0
        self.port = 0
        self._wanted = 0
        self._all_here = asyncio.Event()
        self._server: asyncio.Server

    async def __aenter__(self) -> Crm:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Request(self), sock=self._sock)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def take(self, target: bytes, at: float) -> None:
        self.requests += 1
        self.at.setdefault(target, at)
        if len(self.at) >= self._wanted:
            self._all_here.set()

    async def until(self, count: int, within_s: float = SETTLE_S) -> None:
        """Wait until so many different targets were asked for. Raises TimeoutError."""
        self._wanted = count
        self._all_here.clear()
        if len(self.at) < count:
            async with asyncio.timeout(within_s):
                await self._all_here.wait()


class _Request(asyncio.Protocol):
    _ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(SUCCESS),
        SUCCESS,
    )

    def __init__(self, crm: Crm) -> None:
        self._crm = crm
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        at = self._loop.time()
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._ANSWER)
            self._crm.take(request[4 : request.index(b" ", 4)], at)


def target(operation: str, extension: str, number: str) -> bytes:
    """What the CRM is asked for."""
    return f"/webservice.php?operation={operation}&sExt={extension}&sNumber={number}&ClientId=10".encode()


@dataclass(frozen=True)
class Burst:
    """Frames that come together, and what the CRM must be told when the last of them has come."""

    raw: bytes
    targets: tuple[bytes, ...]


def bursts(frames: Sequence[bytes]) -> list[Burst]:
    """A call: up to what makes its phones ring, up to the answer, and the rest."""
    both, found, begun = Ours(), [], 0
    for end, frame in enumerate(frames, 1):
        told = [event for one in both.reader.feed(frame) for event in both.tracker.handle(one, _NEVER)]
        if told or end == len(frames):
            targets = tuple(target(event.kind.value, event.extension, event.number) for event in told)
            found.append(Burst(b"".join(frames[begun:end]), targets))
            begun = end
    return found


def calls(template: Template, first: int, count: int) -> list[list[Burst]]:
    """So many calls of a kind."""
    return [bursts(template.call(number)) for number in range(first, first + count)]


class Rig:
    """A running daemon, its PBXes and its CRM."""

    def __init__(
        self, pbxes: Sequence[SimulatedPbx], crm: Crm, process: asyncio.subprocess.Process, http_port: int
    ) -> None:
        self.pbxes, self.crm, self.http_port = pbxes, crm, http_port
        self._process = process
        self._loop = asyncio.get_running_loop()
        self.sent: dict[bytes, float] = {}
        """When the event was sent that each target tells of: its last byte was on the socket then."""

    def send(self, burst: Burst, number: int = 0) -> None:
        """Have a PBX say this: the first, or another by its number; beyond the last it begins anew."""
        for writer in self.pbxes[number % len(self.pbxes)]._writers:
            writer.write(burst.raw)
        if burst.targets:
            self.sent.update(dict.fromkeys(burst.targets, self._loop.time()))

    async def until_told(self) -> None:
        """Wait until the CRM was told all that was sent. Raises PartError."""
        try:
            await self.crm.until(len(self.crm.at.keys() | self.sent.keys()))
        except TimeoutError:
            missing = self.sent.keys() - self.crm.at.keys()
            raise PartError(f"{len(missing)} callbacks never came, such as {next(iter(missing)).decode()}") from None

    def took_ms(self, targets: Sequence[bytes]) -> list[float]:
        """From the event's last byte to the CRM."""
        return [(self.crm.at[one] - self.sent[one]) * 1000 for one in targets]

    def figures(self, rings: Sequence[bytes], answers: Sequence[bytes], cpu_s: float) -> dict[str, float]:
        """Of calls, each with a ring: medians and 99th percentiles, and processor time a call."""
        ring, answer = median_and_p99(self.took_ms(rings)), median_and_p99(self.took_ms(answers))
        return {
            "ring_ms": ring[0],
            "ring_p99_ms": ring[1],
            "answer_ms": answer[0],
            "answer_p99_ms": answer[1],
            "cpu_ms": cpu_s / len(rings) * 1000,
        }

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        """Processor time of the daemon so far, all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def memory_kb(self) -> float:
        """Of the daemon, in RAM."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_KB


@asynccontextmanager
async def rig(folder: Path, *, more: str = "", pbxes: int = 1) -> AsyncIterator[Rig]:
    """The daemon, logged in at its PBXes. `more`: settings besides."""
    async with simulated(pbxes) as their, Crm() as crm:
        amis = [("127.0.0.1", pbx.port) for pbx in their]
        config, port = settings(folder, *amis, crm=("127.0.0.1", crm.port), more=more)
        async with daemon(config) as process:
            async with asyncio.timeout(SETTLE_S):
                for pbx in their:
                    await pbx.logged_in()
            yield Rig(their, crm, process, port)


@asynccontextmanager
async def simulated(count: int) -> AsyncIterator[list[SimulatedPbx]]:
    """So many PBXes."""
    pbxes = [SimulatedPbx(username="bench", secret=PASSWORD) for _ in range(count)]
    async with AsyncExitStack() as stack:
        for pbx in pbxes:
            await pbx.start()
            stack.push_async_callback(pbx.stop)
        yield pbxes


@asynccontextmanager
async def daemon(config: Path, prefix: Sequence[str] = ()) -> AsyncIterator[asyncio.subprocess.Process]:
    """`crmbridge run` from its start to its end. Raises PartError where it did not end well."""
    log = config.parent / "run.err"
    with log.open("wb") as err:
        # Its own end, should ours come first.
        command = ["setpriv", "--pdeathsig", "TERM", "--", *prefix, COMMAND, "run", "--config", str(config)]
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stderr=err)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
    if process.returncode:
        raise PartError(f"`crmbridge run` ended with {process.returncode}: {log.read_text()[-1000:]}")


def settings(
    folder: Path,
    *amis: tuple[str, int],
    crm: tuple[str, int],
    more: str = "",
    store: str = "",
    user: str = "bench",
    secret: str = PASSWORD,
) -> tuple[Path, int]:
    """The settings: the defaults, but for what the lab's phones need. The HTTP port is the second.

    `store`, `more`: settings besides, in section `store` and behind all.
    """
    port = free_port()
    own = "" if len(amis) == 1 else "pbxes."
    pbxes = [_pbx(own, f"pbx-{number}", ami, user, secret) for number, ami in enumerate(amis)]
    config = folder / "config.toml"
    config.write_text(
        f"""
        [crm]
        url = "http://{crm[0]}:{crm[1]}/webservice.php"
        client_id = 10
        {"".join(pbxes)}
        [http]
        listen = "127.0.0.1:{port}"
        username = "crm"
        password = "{PASSWORD}"
        [store]
        state_dir = "{folder}"
        {store}
        [log]
        format = "json"
        {more}
        """
    )
    return config, port


def _pbx(own: str, name: str, ami: tuple[str, int], user: str, secret: str) -> str:
    return f"""
        {"[[pbxes]]" if own else ""}
        [{own}ami]
        host = "{ami[0]}"
        port = {ami[1]}
        username = "{user}"
        secret = "{secret}"
        [{own}pbx]
        name = "{name}"
        extensions = '{EXTENSIONS}'
    """


def median_and_p99(values: Sequence[float]) -> tuple[float, float]:
    """Both, of what is not empty."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[ceil(0.99 * len(ordered)) - 1]

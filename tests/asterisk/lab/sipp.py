"""SIPp as the trunk's far end and as a phone: another maker's SIP, beside the phones of our own (`phone`)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import SIP

SCENARIOS = Path(__file__).parent / "sipp"


class SippFailedError(Exception):
    """A call did not go as its scenario says; the message is what SIPp said."""


class Sipp:
    """A SIPp that plays its scenario, once or often."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def done(self) -> None:
        """Wait until all calls are over. Raises SippFailedError if one went otherwise than its scenario."""
        output, _ = await self._process.communicate()
        if self._process.returncode != 0:
            raise SippFailedError(output.decode(errors="replace")[-2000:])

    def begin_no_more(self) -> None:
        """Place no more calls; those that go on go on to their end. `done` is still to be awaited."""
        self._process.send_signal(signal.SIGUSR1)


@asynccontextmanager
async def calling(network: Network, number: str, *, caller: str, talk_s: float, folder: Path) -> AsyncIterator[Sipp]:
    """Somebody outside calls a number of the PBX, and hangs up after `talk_s` seconds of talking."""
    what = ["-sf", str(SCENARIOS / "call.xml"), "-i", "127.0.0.2", "-p", "5091", "-s", number, "-key", "caller", caller]
    async with _sipp(network, [*what, "-d", str(int(talk_s * 1000)), f"{SIP[0]}:{SIP[1]}"], folder) as sipp:
        yield sipp


@asynccontextmanager
async def calling_often(
    network: Network, number: str, *, callers: list[str], per_s: float, talk_s: float, folder: Path
) -> AsyncIterator[Sipp]:
    """As many outside call a number as there are `callers`, each with a number of their own, `per_s` each second."""
    scenario, numbers = folder / "call-often.xml", folder / "callers.csv"
    scenario.write_text((SCENARIOS / "call.xml").read_text().replace("[caller]", "[field0]"))
    numbers.write_text("SEQUENTIAL\n" + "".join(f"{caller}\n" for caller in callers))
    what = ["-sf", str(scenario), "-inf", str(numbers), "-i", "127.0.0.2", "-p", "5091", "-s", number, "-r", str(per_s)]
    async with _sipp(
        network, [*what, "-d", str(int(talk_s * 1000)), f"{SIP[0]}:{SIP[1]}"], folder, calls=len(callers)
    ) as sipp:
        yield sipp


@asynccontextmanager
async def answering(
    network: Network, address: str, *, ring_s: float, folder: Path, calls: int = 1
) -> AsyncIterator[Sipp]:
    """The phone at an address rings for `ring_s` seconds, answers, and waits until the other side hangs up."""
    what = ["-sf", str(SCENARIOS / "answer.xml"), "-i", address, "-p", "5060", "-d", str(int(ring_s * 1000))]
    async with _sipp(network, what, folder, calls=calls) as sipp:
        yield sipp


@asynccontextmanager
async def _sipp(network: Network, what: list[str], folder: Path, *, calls: int = 1) -> AsyncIterator[Sipp]:
    limit_s = 30 + calls
    process = await asyncio.create_subprocess_exec(
        *network.command("sipp", *what, "-m", str(calls), "-nostdin", "-timeout", str(limit_s), "-timeout_error"),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Sipp(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()

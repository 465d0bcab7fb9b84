"""The CRM misbehaves while calls come in, and is well again; then the same once more, and the bridge is stopped within.

A simulated PBX replays a recorded call, each time with another caller's number; the bridge is the installed command.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from tests.asterisk.faults.crm_cases import Around, Case
from tests.asterisk.faults.crm_told import STATES, Told
from tests.asterisk.faults.faulty_crm import FaultyCrm
from tests.asterisk.faults.judge import SETTLE_S, Call
from tests.asterisk.faults.set_clock import SetClock
from tests.asterisk.faults.surroundings import NAME, NAME_SERVER, Certificates, NameServer, Place
from tests.asterisk.lab.bridge import COMMAND, Bridge, started

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.demo.traces import Trace, shipped

RECORDED, NUMBER = "22/did_answered", "033004799"
SPEED = 3.0
AMI_PORT, HTTP_PORT, ELSEWHERE_PORT = 5038, 6560, 8090
SETTLED_WITHIN_S = 90.0
AT_A_TIME = 6
"""Cases. With more, they wait for one another's processes to start, and measure that."""
LIMIT_S = 600.0
"""For all besides the fault itself."""


@dataclass
class Misbehaviours:
    """What came of all cases."""

    cases: list[Told]

    @property
    def broken(self) -> list[str]:
        return [one for told in self.cases for one in told.broken]

    def rows(self) -> list[dict[str, object]]:
        return [told.row() for told in self.cases]


async def misbehaviours(
    place: Place,
    folder: Path,
    certificates: Certificates,
    cases: Sequence[Case],
    *,
    full: bool = False,
    stopping: bool = True,
) -> Misbehaviours:
    """All cases, some at a time, each with a bridge of its own.

    `full`: as long as they would last. `stopping`: each a second time, with the bridge stopped meanwhile.
    """
    turns = asyncio.Semaphore(AT_A_TIME)

    async def in_turn(run: _Run) -> Told:
        async with turns:
            return await run.told(full=full, stopping=stopping)

    folders = [folder / str(number) for number in range(len(cases))]
    for one in folders:
        one.mkdir()
    longest_s = max((full and case.full_s) or case.lasts_s for case in cases)
    async with asyncio.timeout(longest_s + LIMIT_S), place.name_server() as names, asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(in_turn(_Run(place, one, case, number, names, certificates)))
            for number, (case, one) in enumerate(zip(cases, folders, strict=True), start=1)
        ]
    return Misbehaviours([one.result() for one in running])


class _Run:
    """One case."""

    def __init__(
        self,
        place: Place,
        folder: Path,
        case: Case,
        number: int,
        names: NameServer,
        certificates: Certificates,
    ) -> None:
        self._place, self._folder, self._case, self._names = place, folder, case, names
        self._certificates = certificates
        self._host, self._other = f"127.1.{number}.1", f"127.1.{number}.2"
        self._name = f"{number}.{NAME}"
        self._numbers = (f"03{number:02}{index:05}" for index in count())
        self._recorded = next(one for one in shipped() if one.name.endswith(RECORDED))
        self._pbx = SimulatedPbx(username="crmbridge", secret="lab")
        self._told = Told(case)
        self._bridges: list[Bridge] = []
        self._clock = SetClock(folder) if case.clock else None
        self._ami: tuple[str, int]
        self._loop = asyncio.get_running_loop()

    async def told(self, *, full: bool, stopping: bool) -> Told:
        """Let it happen, and judge."""
        told = self._told
        async with self._around() as around:
            async with self._bridge(around) as bridge, self._clock_set():
                await self._calls(2)
                await self._settled(bridge)
                async with self._fault(around):
                    await self._calls_for((full and self._case.full_s) or self._case.lasts_s)
                await self._calls(2)
                await self._settled(bridge)
            if stopping:
                await self._stopped_meanwhile(around)
            told.listed = await self._outbox()
            told.requests = [*around.crm.requests, *around.moved.requests]
        told.decide()
        return told

    @asynccontextmanager
    async def _clock_set(self) -> AsyncIterator[None]:
        """Until the bridge has done its work; across a restart, only the wall clock tells a callback's age."""
        if self._clock is None:
            yield
            return
        async with self._clock.restless(Random(self._told.case.name)):
            yield
        self._told.clock_set = len(self._clock.shifts) - 1

    async def _stopped_meanwhile(self, around: Around) -> None:
        """A call comes, the bridge is stopped with its callbacks under way, and starts again when the CRM is well."""
        told = self._told
        async with self._fault(around):
            async with self._bridge(around) as bridge:
                await self._calls(1)
                await bridge.logged("call.answered")
                began = self._loop.time()
            told.stop_s = self._loop.time() - began
        async with self._bridge(around) as bridge:
            told.faults[-1] = (told.faults[-1][0], self._loop.time())  # nobody was there before to tell anything
            await self._calls(1)
            await self._settled(bridge)

    @asynccontextmanager
    async def _around(self) -> AsyncIterator[Around]:
        place, case = self._place, self._case
        crm, moved = FaultyCrm(place, self._host), FaultyCrm(place, self._other)
        self._names.addresses[self._name] = self._host
        async with AsyncExitStack() as stack:
            elsewhere = await stack.enter_async_context(Receiver())
            url = await elsewhere.start(sock=place.bound(self._other, ELSEWHERE_PORT))
            stack.push_async_callback(moved.shut)
            stack.push_async_callback(crm.shut)
            await crm.open(self._certificates.right if case.tls else None)
            ami = place.bound(self._host, AMI_PORT)
            self._ami = ami.getsockname()
            await self._pbx.start(sock=ami)
            stack.push_async_callback(self._pbx.stop)
            around = Around(
                place, crm, moved, elsewhere, url, self._names, self._name, self._certificates, self._folder
            )
            self._configure(around)
            yield around

    def _configure(self, around: Around) -> None:
        case, address = self._case, around.crm.address
        assert address is not None
        host = self._name if case.named else address[0]
        more = "".join(f"{name} = {value}\n" for name, value in case.settings.items())
        http = f"{self._host}:{HTTP_PORT}" if self._place.network else "127.0.0.1:0"
        (self._folder / "config.toml").write_text(
            f"""
            [crm]
            url = "http{"s" if case.tls else ""}://{host}:{address[1]}/webservice.php"
            client_id = 10
            {more}
            [ami]
            host = "{self._ami[0]}"
            port = {self._ami[1]}
            username = "crmbridge"
            secret = "lab"
            [http]
            listen = "{http}"
            username = "crm"
            password = "lab-password-of-the-crm"
            [store]
            state_dir = "{self._folder}"
            [log]
            format = "json"
            """
        )
        (self._folder / "resolv.conf").write_text(f"nameserver {NAME_SERVER[0]}\n")

    @asynccontextmanager
    async def _bridge(self, around: Around) -> AsyncIterator[Bridge]:
        resolv_conf = self._folder / "resolv.conf" if self._case.named else None
        command = self._place.command(
            COMMAND, "run", "--config", str(self._folder / "config.toml"), resolv_conf=resolv_conf
        )
        env = {"SSL_CERT_FILE": str(around.certificates.authority)}
        env |= self._clock.environment if self._clock else {}
        try:
            async with started(command, env) as bridge:
                self._bridges.append(bridge)
                yield bridge
        finally:
            self._told.exit_codes.append(bridge.process.returncode)
            self._told.lines += bridge.lines

    @asynccontextmanager
    async def _fault(self, around: Around) -> AsyncIterator[None]:
        began = self._loop.time()
        async with self._case.fault(around):
            yield
        self._told.faults.append((began, self._loop.time()))

    async def _calls(self, times: int) -> None:
        """So many calls at the same time, each of a caller of its own."""
        await asyncio.gather(*(self._call() for _ in range(times)))

    async def _calls_for(self, seconds: float) -> None:
        """A call now and then."""
        until = self._loop.time() + seconds
        async with asyncio.TaskGroup() as tasks:
            while (now := self._loop.time()) < until:
                tasks.create_task(self._call())
                await asyncio.sleep(min(self._case.gap_s, until - now))

    async def _call(self) -> None:
        recorded, number = self._recorded, next(self._numbers)
        began = self._loop.time()
        await self._pbx.play(replace(recorded, raw=recorded.raw.replace(NUMBER.encode(), number.encode())), speed=SPEED)
        ended = self._loop.time()
        talking = began + seconds_until(recorded, b"Event: BridgeEnter") / SPEED
        self._told.calls.append(Call(number, (began, ended), (min(talking, ended), ended + 2 * SETTLE_S)))

    async def _settled(self, bridge: Bridge) -> None:
        """Wait until each callback has come to an end."""
        facts = 2 * len(self._told.calls)
        with suppress(TimeoutError):  # the judge says what is missing
            async with asyncio.timeout(SETTLED_WITHIN_S):
                await bridge.until(lambda: sum(one.count(f"crm.{s}") for one in self._bridges for s in STATES) >= facts)

    async def _outbox(self) -> list[dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "outbox", "list", "--json", "--limit", "100000"),
            *("--config", str(self._folder / "config.toml")),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        listed: list[dict[str, Any]] = json.loads(output)
        return listed


def seconds_until(trace: Trace, what: bytes) -> float:
    """From the first frame of a recording to the first of a kind."""
    seconds = 0.0
    for wait_s, frame in trace.frames():
        seconds += wait_s
        if frame.startswith(what):
            break
    return seconds

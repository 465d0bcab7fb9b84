"""Asterisk is restarted (`core restart now`) while calls come in: they die with it, and new ones follow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.asterisk.faults.crm_heard import heard
from tests.asterisk.faults.judge import Call, Interval, Report, Sight, judge
from tests.asterisk.faults.kills import DID, PHONE, RING_S, TALK_S
from tests.asterisk.faults.resources import Resources, left_behind
from tests.asterisk.faults.truth import calls_of
from tests.asterisk.lab import sipp
from tests.asterisk.lab.ami import Ami, session
from tests.asterisk.lab.bridge import CRM, Bridge, bridge
from tests.asterisk.lab.pbx import Pbx

from crmbridge.demo.receiver import Receiver

BETWEEN_S = (3.0, 8.0)
"""From the bridge's login to the next restart."""
LOOK_AGAIN_S = 0.05


@dataclass
class Restarts:
    """What came of it."""

    report: Report
    restarts: int
    bridge: Bridge
    resources: Resources

    @property
    def broken(self) -> list[str]:
        return [*self.report.broken, *self.resources.growing(), *left_behind(self.bridge.lines)]

    def rows(self) -> list[dict[str, object]]:
        rss, fds = self.resources.rss_mib, self.resources.fds
        return [
            {
                "restarts": self.restarts,
                "logins": self.bridge.count("ami.connected"),
                **self.report.row(),
                "MiB": f"{rss[0]:.0f} → {rss[-1]:.0f}",
                "fds": f"{fds[0]} → {fds[-1]}",
            }
        ]


async def restarts(where: Pbx, folder: Path, *, per_s: float, times: int, seed: int) -> Restarts:
    """Take calls, and restart Asterisk so often."""
    random = Random(seed)
    callers = [f"03{7_000_000 + index}" for index in range(int(per_s * 60 * (times + 1)))]
    began = asyncio.get_running_loop().time()
    calls: list[Call] = []
    alive: list[Interval] = []
    async with Receiver() as crm, AsyncExitStack() as around:
        await crm.start(sock=where.network.bound(CRM))
        running = await around.enter_async_context(bridge(where.network, folder))
        resources = Resources(running.process.pid)
        for number in range(times + 1):
            async with _watching(where) as ami:
                if number == 0:
                    await around.enter_async_context(_calls_coming_in(where, folder, callers, per_s))
                await running.logged("ami.connected", times=number + 1)
                resources.sample()
                await asyncio.sleep(random.uniform(*BETWEEN_S))
                if number < times:
                    where.cli("core restart now")
                    await ami.lost()
                ended = ami.ended or asyncio.get_running_loop().time()
                calls += calls_of(ami, began, ended)
                alive.append((ami.began - began, ended - began))
        requests = heard(crm.received, began)
        resources.sample()
        await around.aclose()
        assert running.process.returncode == 0
    up = [at - began for at, line in zip(running.times, running.lines, strict=True) if _is_login(line)]
    windows = [(max(login, start), end) for start, end in alive for login in up if start <= login <= end]
    return Restarts(judge(calls, Sight(windows), requests), times, running, resources)


@asynccontextmanager
async def _calls_coming_in(where: Pbx, folder: Path, callers: list[str], per_s: float) -> AsyncIterator[None]:
    """Whose call dies with Asterisk hears nothing more of it: these SIPps don't end by themselves."""
    async with (
        sipp.answering(where.network, PHONE, ring_s=RING_S, folder=folder, calls=len(callers)),
        sipp.calling_often(where.network, DID, callers=callers, per_s=per_s, talk_s=TALK_S, folder=folder),
    ):
        yield


def _is_login(line: str) -> bool:
    return line.startswith("{") and json.loads(line)["event"] == "ami.connected"


@asynccontextmanager
async def _watching(where: Pbx) -> AsyncIterator[Ami]:
    """A session as soon as there can be one, with the channels that were there before it."""
    while True:
        try:
            async with session(where) as ami:
                await ami.action("CoreShowChannels")
                yield ami
                return
        except ConnectionRefusedError:
            await asyncio.sleep(LOOK_AGAIN_S)

"""The connection between bridge and Asterisk is cut, frozen and slowed to a trickle while calls come in.

Several bridges, each with a relay, a CRM and a fate of its own, watch one Asterisk: after a connection that did not
hold for a minute a bridge waits some seconds before its next, and so more faults fit into the same time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from random import Random

from tests.asterisk.faults.crm_heard import heard
from tests.asterisk.faults.judge import SETTLE_S, Interval, Report, judge
from tests.asterisk.faults.kills import DID, PHONE, RING_S, TALK_S
from tests.asterisk.faults.relay import Relay, relaying
from tests.asterisk.faults.resources import Resources, left_behind
from tests.asterisk.faults.truth import calls_of
from tests.asterisk.lab import sipp
from tests.asterisk.lab.ami import session
from tests.asterisk.lab.bridge import Bridge, bridge
from tests.asterisk.lab.pbx import AMI, Pbx

from crmbridge.demo.receiver import Receiver

LONGEST_RUN_S = 1800
LISTED_WITHIN_S = 90
"""A bridge waits some seconds before it connects anew, and the first try may fall into the last fault."""
AT_ONCE = 0.15
"""One fault in four comes within so many seconds of the connection: into the login, or into the list of channels."""
CALM_S = 4.0
"""The others come within so many seconds."""


class Fault(StrEnum):
    CUT = "cut"
    FREEZE = "frozen"
    TRICKLE = "trickle"


LASTS_S: Mapping[Fault, Interval] = {Fault.FREEZE: (2.0, 14.0), Fault.TRICKLE: (2.0, 8.0)}
"""A freeze under five seconds passes unnoticed, one over ten ends by the keep-alive (every five seconds a ping, five
seconds for its answer)."""


@dataclass
class Watched:
    """One bridge and its surroundings."""

    name: str
    bridge: Bridge
    relay: Relay
    crm: Receiver
    resources: Resources
    faults: Counter[Fault] = field(default_factory=Counter)


@dataclass
class Outcome:
    """What came of one bridge."""

    watched: Watched
    report: Report
    session_share: float
    """Of the run, the part in which what Asterisk said reached the bridge."""

    @property
    def broken(self) -> list[str]:
        lines = self.watched.bridge.lines
        ended = self.watched.bridge.process.returncode
        found = [*self.report.broken, *self.watched.resources.growing(), *left_behind(lines)]
        return [f"{self.watched.name}: {one}" for one in found + ([f"exit code {ended}"] if ended else [])]

    def row(self) -> dict[str, object]:
        watched = self.watched
        return {
            "bridge": watched.name,
            "cut/frozen/trickle": "/".join(str(watched.faults[fault]) for fault in Fault),
            "logins": watched.bridge.count("ami.connected"),
            "with a session": f"{self.session_share:.0%}",
            **self.report.row(),
            "MiB": f"{watched.resources.rss_mib[0]:.0f} → {watched.resources.rss_mib[-1]:.0f}",
            "fds": f"{watched.resources.fds[0]} → {watched.resources.fds[-1]}",
        }


@dataclass
class Cuts:
    """What came of it."""

    outcomes: list[Outcome]

    @property
    def broken(self) -> list[str]:
        return [one for outcome in self.outcomes for one in outcome.broken]

    def rows(self) -> list[dict[str, object]]:
        return [outcome.row() for outcome in self.outcomes]

    def notes(self) -> list[str]:
        return [f"memory of {one.watched.name}, MiB: {one.watched.resources.rss()}" for one in self.outcomes]


async def cuts(
    where: Pbx,
    folder: Path,
    *,
    per_s: float,
    times: int,
    bridges: int,
    seed: int,
    lasts_s: Mapping[Fault, Interval] = LASTS_S,
) -> Cuts:
    """Take calls until each of so many bridges had its share of `times` faults."""
    callers = [f"03{7_000_000 + index}" for index in range(int(per_s * LONGEST_RUN_S))]
    async with (
        AsyncExitStack() as stack,
        session(where) as ami,
        sipp.answering(where.network, PHONE, ring_s=RING_S, folder=folder, calls=len(callers)),
    ):
        began = asyncio.get_running_loop().time()
        folders = [folder / str(number) for number in range(bridges)]
        for one_folder in folders:
            one_folder.mkdir()
        everyone = [
            await stack.enter_async_context(_watched(where, one_folder, number))
            for number, one_folder in enumerate(folders)
        ]
        async with sipp.calling_often(
            where.network, DID, callers=callers, per_s=per_s, talk_s=TALK_S, folder=folder
        ) as callers_sipp:
            async with asyncio.timeout(LONGEST_RUN_S), asyncio.TaskGroup() as tasks:
                for number, one in enumerate(everyone):
                    share = times // bridges + (number < times % bridges)
                    tasks.create_task(_suffer(one, Random(seed * 1000 + number), share, lasts_s))
            callers_sipp.begin_no_more()
            await callers_sipp.done()
        await ami.until_no_channels()
        await asyncio.sleep(2 * SETTLE_S)
        for one in everyone:
            one.resources.sample()
        lasted_s = asyncio.get_running_loop().time() - began
        calls = calls_of(ami, began)
        seen = [one.relay.sight(began) for one in everyone]
        await stack.aclose()
        reports = [
            judge(calls, sight, heard(one.crm.received, began)) for one, sight in zip(everyone, seen, strict=True)
        ]
    shares = [sum(end - start for start, end in sight.windows) / lasted_s for sight in seen]
    return Cuts([Outcome(*one) for one in zip(everyone, reports, shares, strict=True)])


@asynccontextmanager
async def _watched(where: Pbx, folder: Path, number: int) -> AsyncIterator[Watched]:
    ami, crm, http = ("127.0.0.1", 15038 + number), ("127.0.0.3", 8080 + number), ("127.0.0.1", 6560 + number)
    async with Receiver() as receiver, relaying(where.network, ami, AMI) as relay:
        await receiver.start(sock=where.network.bound(crm))
        async with bridge(where.network, folder, ami=ami, crm=crm, http=http) as running:
            async with asyncio.timeout(LISTED_WITHIN_S):
                await relay.listed()
            watched = Watched(f"{number + 1}", running, relay, receiver, Resources(running.process.pid))
            watched.resources.sample()
            yield watched


async def _suffer(one: Watched, random: Random, times: int, lasts_s: Mapping[Fault, Interval]) -> None:
    """Meet with so many faults, each at a random moment of a connection."""
    kinds = list(islice(cycle((Fault.CUT, Fault.FREEZE, Fault.TRICKLE, Fault.CUT)), times))
    random.shuffle(kinds)
    for index, kind in enumerate(kinds, start=1):
        await one.relay.linked()
        await asyncio.sleep(random.uniform(0, AT_ONCE if random.random() < 0.25 else CALM_S))
        await _inflict(one.relay, kind, random.uniform(*lasts_s.get(kind, (0, 0))))
        one.faults[kind] += 1
        if index * 10 // times > (index - 1) * 10 // times:
            one.resources.sample()
    async with asyncio.timeout(LISTED_WITHIN_S):
        await one.relay.listed()
    await asyncio.sleep(TALK_S)


async def _inflict(relay: Relay, kind: Fault, lasts_s: float) -> None:
    match kind:
        case Fault.CUT:
            relay.reset()
        case Fault.FREEZE:
            relay.freeze()
            await asyncio.sleep(lasts_s)
            relay.thaw()
        case Fault.TRICKLE:
            relay.trickle(slow=True)
            await asyncio.sleep(lasts_s)
            relay.trickle(slow=False)

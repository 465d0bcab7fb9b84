"""The bridge is killed (SIGKILL) again and again while a live Asterisk takes calls."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.asterisk.faults.crm_heard import heard
from tests.asterisk.faults.judge import SETTLE_S, Interval, Report, Sight, judge
from tests.asterisk.faults.truth import calls_of
from tests.asterisk.lab import sipp
from tests.asterisk.lab.ami import session
from tests.asterisk.lab.bridge import CRM, bridge
from tests.asterisk.lab.pbx import Pbx

from crmbridge.demo.receiver import Receiver

RING_S, TALK_S = 1.0, 2.0
PHONE = "127.0.0.77"
DID = "0723456777"


@dataclass
class Kills:
    """What came of it."""

    report: Report
    kills: int

    @property
    def broken(self) -> list[str]:
        return self.report.broken

    def rows(self) -> list[dict[str, object]]:
        return [{"kills": self.kills, **self.report.row(), "in flight at a kill, same key": self.report.twice}]


async def kills(where: Pbx, folder: Path, *, per_s: float, seconds: float, times: int, seed: int) -> Kills:
    """Take calls for so long, and kill the bridge so often at random moments meanwhile."""
    random = Random(seed)
    callers = [f"03{7_000_000 + index}" for index in range(int(per_s * seconds))]
    pauses = sorted(random.uniform(0, seconds + RING_S) for _ in range(times))
    up: list[Interval] = []
    async with (
        Receiver() as crm,
        session(where) as ami,
        sipp.answering(where.network, PHONE, ring_s=RING_S, folder=folder, calls=len(callers)) as phone,
    ):
        await crm.start(sock=where.network.bound(CRM))
        now = asyncio.get_running_loop().time
        began = now()
        async with sipp.calling_often(
            where.network, DID, callers=callers, per_s=per_s, talk_s=TALK_S, folder=folder
        ) as callers_sipp:
            for pause in pauses:
                async with bridge(where.network, folder) as running:
                    since = now()
                    await asyncio.sleep(max(0.0, began + pause - now()))
                    up.append((since - began, now() - began))
                    running.process.send_signal(signal.SIGKILL)
            async with bridge(where.network, folder) as last:
                since = now()
                await callers_sipp.done()
                await phone.done()
                await ami.until_no_channels()
                await asyncio.sleep(2 * SETTLE_S)
                up.append((since - began, now() - began))
            assert last.process.returncode == 0
        calls = calls_of(ami, began)
        killed = [end for _, end in up[:-1]]
        return Kills(judge(calls, Sight(up), heard(crm.received, began), killed=killed), len(killed))

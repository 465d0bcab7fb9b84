"""`make faults`: a live Asterisk takes calls while the bridge is killed again and again; what was the CRM told?

    python -m tests.asterisk.faults [--version 22] [--per-s 5] [--seconds 180] [--kills 30] [--seed 1]

Each caller has a number of their own, so that each callback belongs to one call. What really happened is taken from an
AMI session of its own that is never cut. A call must be told to ring, or to be answered, when its phone still rang or
talked at a moment at which the bridge was up; and never twice, but for what was on its way to the CRM when the bridge
was killed: that comes again with the same Idempotency-Key, since nobody can know whether it had arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab import sipp
from tests.asterisk.lab.ami import Ami, Frame, session
from tests.asterisk.lab.bridge import CRM, bridge
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES, root_filesystem

from crmbridge.demo.receiver import Received, Receiver

RING, ANSWER = "incomingCall", "incomingCallAnswered"
RING_S, TALK_S = 1.0, 2.0
SETTLE_S = 0.5
"""After a login until the list of channels is worked off, and before a kill until a fact is on disk: within this
either is right."""
IN_FLIGHT_S = 1.0
"""A request that came so shortly before a kill may not have been recorded as confirmed."""

Interval = tuple[float, float]


@dataclass
class Call:
    """When a call's phone rang and talked, in seconds of the recording."""

    number: str
    ringing: Interval | None = None
    talking: Interval | None = None


@dataclass
class Report:
    """What came of it."""

    calls: int = 0
    kills: int = 0
    must: int = 0
    """Callbacks that had to be told."""
    told: int = 0
    missing: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    """Told, and not so."""
    twice: int = 0
    """Told again after a kill, with the same key."""
    doubled: list[str] = field(default_factory=list)
    """Told again for no such reason, or with another key."""

    def __str__(self) -> str:
        lines = [
            f"calls {self.calls}, kills {self.kills}, callbacks that had to be told {self.must}, told {self.told}",
            f"missing {len(self.missing)}, untrue {len(self.untrue)}, doubled {len(self.doubled)}",
            f"sent again because their request was under way at a kill, with the same key: {self.twice}",
        ]
        return "\n".join([*lines, *self.missing[:10], *self.untrue[:10], *self.doubled[:10]])

    @property
    def right(self) -> bool:
        """Whether all promises were kept."""
        return not (self.missing or self.untrue or self.doubled)


async def kills(where: Pbx, folder: Path, *, per_s: float, seconds: float, times: int, seed: int) -> Report:
    """Take calls for so long, and kill the bridge so often at random moments meanwhile."""
    random = Random(seed)
    callers = [f"03{7_000_000 + index}" for index in range(int(per_s * seconds))]
    pauses = sorted(random.uniform(0, seconds + RING_S) for _ in range(times))
    up: list[Interval] = []
    async with (
        Receiver() as crm,
        session(where) as ami,
        sipp.answering(where.network, "127.0.0.77", ring_s=RING_S, folder=folder, calls=len(callers)) as phone,
    ):
        await crm.start(sock=where.network.bound(CRM))
        now = asyncio.get_running_loop().time
        began = now()
        async with sipp.calling_often(
            where.network, "0723456777", callers=callers, per_s=per_s, talk_s=TALK_S, folder=folder
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
                await asyncio.sleep(SETTLE_S)
                up.append((since - began, now() - began))
            assert last.process.returncode == 0
        truth = list(_calls(ami, ami.began - began))
        killed = [end for _, end in up[:-1]]
        return _judge(truth, up, killed, [(one, _at(one, began)) for one in crm.received])


def _at(one: Received, began: float) -> float:
    """When it came, on the clock of the run."""
    return asyncio.get_running_loop().time() - (datetime.now(UTC) - one.at).total_seconds() - began


def _calls(ami: Ami, shift_s: float) -> Iterator[Call]:
    """Each call with when its phone rang and talked, from all events of the recording."""
    calls: dict[str, Call] = {}
    for at, frame in _timed(ami):
        when = at + shift_s
        event, linkedid, channel = frame.get("Event"), frame.get("Linkedid", ""), frame.get("Channel", "")
        if event == "Newchannel" and frame["Uniqueid"] == linkedid:
            calls[linkedid] = Call(frame["CallerIDNum"])
        call = calls.get(linkedid)
        if call is None:
            continue
        if event == "Newstate" and frame["ChannelState"] == "5":
            call.ringing = (when, when)
        elif event == "DialEnd" and call.ringing:
            call.ringing = (call.ringing[0], when)
        elif event == "BridgeEnter" and frame["BridgeNumChannels"] == "2":
            call.talking = (when, when)
        elif event == "HangupRequest" and channel.startswith("PJSIP/trunk") and call.talking:
            call.talking = (call.talking[0], when)
    yield from calls.values()


def _timed(ami: Ami) -> Iterator[tuple[float, Frame]]:
    offset = 0
    for raw in bytes(ami.raw).split(b"\r\n\r\n")[:-1]:
        offset += len(raw) + 4
        at = ami.timing[bisect_right(ami.timing, offset - 1, key=itemgetter(0)) - 1][1]
        lines = raw.decode(errors="replace").split("\r\n")
        yield at, {name: value for name, _, value in (line.partition(": ") for line in lines)}


def _judge(
    calls: list[Call], up: list[Interval], killed: list[float], received: list[tuple[Received, float]]
) -> Report:
    report = Report(calls=len(calls), kills=len(killed))
    told = Counter((one["sNumber"], one["operation"]) for one, _ in received)
    report.told = len(told)
    for call in calls:
        facts = {RING: _hull(call.ringing, call.talking), ANSWER: call.talking}
        for operation, interval in facts.items():
            if interval is not None and any(_seen(interval, window) for window in up):
                report.must += 1
                if not told[call.number, operation]:
                    report.missing.append(f"missing: {operation} of {call.number}, which went on {interval}")
    real = {(call.number, RING) for call in calls if call.ringing} | {(c.number, ANSWER) for c in calls if c.talking}
    report.untrue = [
        f"untrue: {operation} of {number}" for number, operation in told if (number, operation) not in real
    ]
    for (number, operation), times in told.items():
        if times > 1:
            same = [(one, at) for one, at in received if (one["sNumber"], one["operation"]) == (number, operation)]
            one_key = len({one.idempotency_key for one, _ in same}) == 1
            if one_key and all(any(0 <= end - at <= IN_FLIGHT_S for end in killed) for _, at in same[:-1]):
                report.twice += times - 1
            else:
                report.doubled.append(f"doubled: {operation} of {number}, {times} times, one key: {one_key}")
    return report


def _hull(first: Interval | None, last: Interval | None) -> Interval | None:
    """A ring is of use as long as the call goes on."""
    return (first[0], (last or first)[1]) if first else None


def _seen(interval: Interval, window: Interval) -> bool:
    """Whether something went on at a moment at which the bridge was up and settled."""
    return max(interval[0], window[0] + SETTLE_S) < min(interval[1], window[1] - SETTLE_S)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--version", choices=sorted(RECIPES), default="22")
    parser.add_argument("--per-s", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with (
        TemporaryDirectory(prefix="crmbridge-faults-") as folder,
        root_filesystem(chosen.version) as root,
        Network() as network,
        lab_pbx.running(chosen.version, root, network) as where,
    ):
        report = asyncio.run(
            kills(
                where,
                Path(folder),
                per_s=chosen.per_s,
                seconds=chosen.seconds,
                times=chosen.kills,
                seed=chosen.seed,
            )
        )
    print(f"Asterisk {chosen.version}, {chosen.per_s:g} calls/s for {chosen.seconds:g} s, seed {chosen.seed}\n{report}")
    return 0 if report.right else 1


if __name__ == "__main__":
    sys.exit(main())

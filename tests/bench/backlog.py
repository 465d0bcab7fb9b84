"""`make bench`, section `backlog`: what is left of an outage, and how fast the outbox goes.

So many callbacks wait on disk when the daemon starts; the CRM answers each at once. Meanwhile phones ring.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table
from tests.bench.bridge import PartError
from tests.bench.busy import recorded
from tests.bench.report import Report
from tests.bench.rig import Rig, calls, median_and_p99, rig

from crmbridge.app import OUTBOX
from crmbridge.calls.events import CallEvent, Kind, State
from crmbridge.store.outbox import open_outbox

WAITING = 100_000
FRESH_EVERY_S = 0.2
DONE_S = 900.0


def main(report: Report) -> None:
    """Measure, and report. Raises nothing: what can't be measured is told."""
    try:
        asyncio.run(_main(report))
    except PartError as error:
        report.fail(f"backlog: {error}")


async def _main(report: Report) -> None:
    with TemporaryDirectory(prefix="crmbridge-bench.") as name:
        folder = Path(name)
        await _fill(folder)
        began = time.monotonic()
        async with rig(folder) as one:
            ready_s = time.monotonic() - began
            fresh = await _ring_meanwhile(one)
            times = sorted(at for target, at in one.crm.at.items() if target not in one.sent)
            cpu_s, mb = one.cpu_s(), one.memory_kb() / 1024
        async with open_outbox(folder / OUTBOX) as outbox:
            counts = await outbox.counts()
    if counts[State.CONFIRMED] != WAITING + len(fresh):
        report.fail(f"backlog: {counts}")
    took_s = times[-1] - times[0]
    median, p99 = median_and_p99(fresh)
    figures = {
        "waiting": WAITING,
        "ready_s": ready_s,
        "took_s": took_s,
        "per_s": WAITING / took_s,
        "cpu_ms": cpu_s / WAITING * 1000,
        "mb": mb,
        "fresh": len(fresh),
        "fresh_ms": median,
        "fresh_p99_ms": p99,
        "fresh_most_ms": max(fresh),
    }
    table = Table("", "", title=f"{WAITING:,} callbacks wait")
    for key, value in figures.items():
        table.add_row(key, f"{value:,.2f}")
    report.show(table)
    report.keep("backlog", figures)


async def _ring_meanwhile(one: Rig) -> list[float]:
    """Let phones ring until the backlog is gone; how long the CRM waited for each, in milliseconds."""
    loop, fresh = asyncio.get_running_loop(), list[bytes]()
    played = iter(calls(recorded("22", "shipped")["caller_gives_up"], 9_000_000, int(300 / FRESH_EVERY_S)))
    end = loop.time() + DONE_S
    while len(one.crm.at.keys() - one.sent.keys()) < WAITING:
        if loop.time() > end:
            raise PartError(f"only {len(one.crm.at):,} callbacks came in {DONE_S:.0f} s")
        call = next(played)
        for burst in call:
            one.send(burst)
        fresh += call[0].targets
        await asyncio.sleep(FRESH_EVERY_S)
    await one.until_told()
    return one.took_ms(fresh)


async def _fill(folder: Path) -> None:
    """Answers that were never told: they live for an hour."""
    now = datetime.now(UTC)
    events = [
        CallEvent(Kind.ANSWER, "pbx", f"{number}.1", "777", f"04{number:07d}", "10", now, f"{number}.1", f"{number}.2")
        for number in range(WAITING)
    ]
    async with open_outbox(folder / OUTBOX) as outbox:
        for begin in range(0, WAITING, 5000):
            await outbox.add(events[begin : begin + 5000])

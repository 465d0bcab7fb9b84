"""`make bench`, section `rings`: from the PBX's event to the CRM, and what a call costs.

Simulated, with recorded calls: one phone rings, answers, the caller hangs up, a call record comes; callbacks for ring
and answer, each on disk before it is sent. Calls begin at random (exponential) intervals.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table
from tests.asterisk.lab.pbx import PbxError
from tests.asterisk.lab.rootfs import BuildError
from tests.asterisk.lab.sipp import SippFailedError
from tests.bench import live
from tests.bench.bridge import PartError
from tests.bench.busy import held, recorded
from tests.bench.report import Report
from tests.bench.rig import Burst, Rig, bursts, calls, median_and_p99, rig
from tests.needs import lacking

RATES = {1: 20, 10: 200, 50: 750, 500: 5_000}
"""Calls a second, and how many."""
GAP_S = 0.4
"""Between ring and answer, and between answer and end."""
IN_PROGRESS = (10, 100, 1_000, 10_000)
HOLD_PER_S = 400
"""How fast calls are begun that are to be in progress."""
COST_CALLS, COST_PER_S = 300, 30
_COLUMNS = ("ring: median", "99th percentile", "answer: median", "99th percentile", "processor, a call")


def main(report: Report) -> None:
    """Measure, and report."""
    try:
        asyncio.run(_main(report))
    except (PartError, SippFailedError, PbxError, BuildError) as error:
        report.fail(f"rings: {error}")


async def _main(report: Report) -> None:
    with TemporaryDirectory(prefix="crmbridge-bench.") as folder:
        async with rig(Path(folder)) as one:
            limit, disk = await _bare(one), _flushes(Path(folder))
            simulated = {rate: await measured(one, rate, count) for rate, count in RATES.items()}
    with TemporaryDirectory(prefix="crmbridge-bench.") as folder:
        async with rig(Path(folder)) as one:
            costs = await _costs(one)
    reason = lacking("asterisk") or lacking("sipp")
    if reason:
        report.say(f"rings of a live Asterisk are left out: {reason}")
    on_asterisk = {} if reason else await live.measured()
    table = Table("milliseconds", *_COLUMNS, title="From the PBX's event to the CRM")
    table.add_row("bare aiohttp GET", *(f"{value:.2f}" for value in limit))
    table.add_row("bare flush of the disk", *(f"{value:.2f}" for value in disk))
    for kind, rates in (("simulated", simulated), ("live", on_asterisk)):
        for rate, figures in rates.items():
            table.add_row(f"{rate} calls/s, {kind}", *(f"{value:.2f}" for value in figures.values()))
    report.show(table)
    growth = Table("calls in progress", "ms of processor a call", "KB a call", "MB in all", title="What calls cost")
    for count, cost in costs.items():
        growth.add_row(f"{count:,}", f"{cost['cpu_ms']:.2f}", f"{cost['kb']:.1f}", f"{cost['mb']:.1f}")
    report.show(growth)
    report.keep(
        "rings",
        {
            "version": live.VERSION,
            "limit_ms": limit,
            "disk_ms": disk,
            "simulated": simulated,
            "live": on_asterisk,
            "costs": costs,
        },
    )


async def measured(one: Rig, rate: float, count: int) -> dict[str, float]:
    """Play so many calls at this rate. Raises PartError."""
    template = recorded("22", "shipped")["did_answered"]
    first = len(one.sent) * 10
    played = calls(template, first, count)
    used_s = await play(one, played, rate)
    rings = [target for call in played for target in call[0].targets]
    answers = [target for call in played for target in call[1].targets]
    return one.figures(rings, answers, used_s)


async def play(one: Rig, played: Sequence[Sequence[Burst]], rate: float) -> float:
    """Play calls, and wait for all that the CRM must be told; the daemon's processor seconds."""
    rng, loop = random.Random(len(played)), asyncio.get_running_loop()
    began, at = one.cpu_s(), loop.time() + 0.1
    gc.collect()
    gc.disable()  # a pause of ours would be taken for one of the daemon's
    try:
        for place, call in enumerate(played):
            for number, burst in enumerate(call):
                loop.call_at(at + number * GAP_S, one.send, burst, place)
            at += rng.expovariate(rate)
        await asyncio.sleep(at + len(played[-1]) * GAP_S - loop.time())
        await one.until_told()
        await asyncio.sleep(GAP_S)  # the last call records
    finally:
        gc.enable()
    return one.cpu_s() - began


async def _costs(one: Rig) -> dict[int, dict[str, float]]:
    """By calls in progress: what a call costs, and how much memory they take."""
    costs: dict[int, dict[str, float]] = {}
    template = recorded("22", "shipped")["did_answered"]
    await play(one, calls(template, 5_000_000, COST_CALLS), COST_PER_S)  # what is made once is made
    base_kb, holding = one.memory_kb(), 0
    for count in IN_PROGRESS:
        joined = [bursts(list(held("22", "shipped", calls=1, first=number))) for number in range(holding, count)]
        await play(one, joined, HOLD_PER_S)
        holding = count
        kb = one.memory_kb()
        used_s = await play(one, calls(template, 6_000_000 + count * 100, COST_CALLS), COST_PER_S)
        costs[count] = {"cpu_ms": used_s / COST_CALLS * 1000, "kb": (kb - base_kb) / count, "mb": kb / 1024}
    return costs


def _flushes(folder: Path, count: int = 300) -> tuple[float, float]:
    """4 kB written and flushed (fdatasync), and nothing else: milliseconds, median and 99th percentile."""
    times = []
    with (folder / "flushes").open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return median_and_p99(times)


async def _bare(one: Rig, count: int = 500, per_s: float = 50) -> tuple[float, float]:
    """A bare aiohttp GET of another process to the same CRM: milliseconds, median and 99th percentile."""
    command = [sys.executable, "-m", "tests.bench.bare_get", str(one.crm.port), str(count), str(per_s)]
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        raise RuntimeError("tests.bench.bare_get failed")
    times = [(at - int(asked[5:]) / 1e9) * 1000 for asked, at in one.crm.at.items() if asked.startswith(b"/?at=")]
    return median_and_p99(times[10:])

"""`make bench`, section `soak`: a day of calls and more, played to a real daemon as fast as it tells the CRM of them.

`crmbridge run` with its stores on disk stands between a PBX that plays recorded calls and a CRM that counts. Each
callback that is due must come exactly once, in the order of its call, though the CRM refuses some, fails now and then,
and the PBX's session is cut. What the daemon holds and writes is read at the start, each tenth of the way, and the end.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass, field
from itertools import count, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table
from tests.asterisk.lab.mariadb import free_port
from tests.bench import bridge
from tests.bench.bridge import PartError
from tests.bench.report import Report
from tests.bench.soak_calls import Copy, interleaved, recordings
from tests.bench.soak_crm import Crm

from crmbridge.demo.simulated_pbx import SimulatedPbx

AT_ONCE = 100
"""Calls that go on at the same time."""
MOST_DUE = 8
"""Callbacks on their way before the next calls begin. Those that come last go first (crm/lanes.py), so that without
such a breath a ring would wait behind newer ones until it is too old to be told."""
TENTHS = 10
CUTS = 5
PIECE = 64 * 1024
"""Bytes sent at once."""
PATIENCE_S = 60.0
"""How long the last callbacks and records may take."""
LOOK_S = 0.1
IDLE_S = 60.0
SETTLE_S = 3.0
"""After the start, before it counts as idle."""
USERNAME, SECRET = "crmbridge", "secret-of-the-soak"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the daemon holds and has written after so many calls."""

    calls: int
    wall_s: float
    cpu_s: float
    rss_mb: float
    pss_mb: float
    descriptors: int
    threads: int
    log_bytes: int
    outbox_bytes: int
    store_bytes: int


@dataclass
class Soak:
    """All that a soak has shown."""

    calls: int
    ready_s: float = 0.0
    """From the start of the process to READY=1."""
    idle_cpu: float = 0.0
    """Share of a core while nothing happens but the PBX being connected; 0 where that was not looked at."""
    readings: list[Reading] = field(default_factory=list)
    events: int = 0
    due: int = 0
    """Callbacks."""
    told: int = 0
    """Of these, those that the CRM took or refused."""
    refused: int = 0
    failed: int = 0
    """Requests that the CRM answered with 503, for which it is asked again."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    """Told twice, or not due at all."""
    out_of_order: list[str] = field(default_factory=list)
    sessions: int = 1
    """With the PBX."""
    records: int = 0
    stored: int = 0
    """Call records in the call list."""

    @property
    def wrong(self) -> str:
        """What is not as it must be, in words; empty where all is."""
        wrong = {"lost": self.lost, "doubled": self.doubled, "out of order": self.out_of_order}
        said = [f"{len(them)} callbacks {how}, such as {them[0]}" for how, them in wrong.items() if them]
        if (played := self.readings[-1].calls if self.readings else 0) != self.calls:
            said.insert(
                0, f"given up between {played:,} and {self.calls:,} calls, as nothing came for {PATIENCE_S:g} s"
            )
        if self.stored != self.records:
            said.append(f"{self.stored} of {self.records} call records are in the call list")
        return "; ".join(said)


def main(report: Report, calls: int) -> None:
    """Measure, and report."""
    with TemporaryDirectory(prefix="crmbridge-soak.") as folder:
        try:
            soak = asyncio.run(soaked(Path(folder), calls, idle_s=IDLE_S))
        except PartError as error:
            report.fail(f"soak: {error}")
            return
    if len(soak.readings) > 1:
        _show(report, soak)
    if soak.wrong:
        report.fail(f"soak: {soak.wrong}")


def _show(report: Report, soak: Soak) -> None:
    report.show(_table(soak))
    first, last = soak.readings[0], soak.readings[-1]
    report.say(
        f"ready after {soak.ready_s:.2f} s; idle for {IDLE_S:g} s: {first.rss_mb:.1f} MB, {soak.idle_cpu:.2%} of a core"
    )
    report.say(
        f"{last.calls:,} calls, {soak.events:,} events: {soak.due:,} callbacks due, {soak.told:,} told "
        f"({soak.refused:,} refused by the CRM, {soak.failed:,} more requests answered with 503), "
        f"{len(soak.lost)} lost, {len(soak.doubled)} doubled; {soak.stored:,} of {soak.records:,} call records stored; "
        f"{soak.sessions} sessions with the PBX; {last.calls / last.wall_s:,.0f} calls a second"
    )
    report.keep("soak", asdict(soak) | {"per_1000_calls": per_thousand(soak)})


async def soaked(folder: Path, calls: int, *, cuts: int = CUTS, idle_s: float = 0.0) -> Soak:
    """After some idle seconds play so many calls; the PBX's session is cut so often.

    Raises PartError where the daemon does not start. Where it tells no more, the calls behind are not played.
    """
    soak, crm = Soak(calls), Crm()
    pbx = SimulatedPbx(username=USERNAME, secret=SECRET)
    await pbx.start()
    try:
        began = time.monotonic()
        async with crm.serving() as url, _daemon(_configured(folder, url, pbx.port)) as pid:
            soak.ready_s = time.monotonic() - began
            await asyncio.wait_for(pbx.logged_in(), PATIENCE_S)
            soak.idle_cpu = await _idle(pid, idle_s) if idle_s else 0.0
            await _play(soak, folder, pid, pbx, crm, calls, cuts)
    except TimeoutError:
        pass  # nothing came for a minute: what is due yet is lost, and said to be
    finally:
        await pbx.stop()
    soak.lost = sorted(crm.due)
    soak.told, soak.refused, soak.failed = crm.told, crm.refused, crm.failed
    soak.doubled, soak.out_of_order = crm.doubled, crm.out_of_order
    return soak


def per_thousand(soak: Soak) -> dict[str, float]:
    """What a thousand calls cost, from the first reading to the last."""
    first, last = soak.readings[0], soak.readings[-1]
    thousands = (last.calls - first.calls) / 1000
    grown = ("cpu_s", "log_bytes", "outbox_bytes", "store_bytes")
    return {name: (getattr(last, name) - getattr(first, name)) / thousands for name in grown}


async def _idle(pid: int, idle_s: float) -> float:
    """The share of a core that it takes while nothing happens."""
    await asyncio.sleep(SETTLE_S)
    cpu_ns, began = _cpu_ns(pid), time.monotonic()
    await asyncio.sleep(idle_s)
    return (_cpu_ns(pid) - cpu_ns) / 1e9 / (time.monotonic() - began)


def _cpu_ns(pid: int) -> int:
    """Of all threads. Finer than /proc/PID/stat, which counts hundredths of a second."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))


async def _play(soak: Soak, folder: Path, pid: int, pbx: SimulatedPbx, crm: Crm, calls: int, cuts: int) -> None:
    began = time.monotonic()
    copies = (recording.copy(number) for number, recording in zip(count(), cycle(recordings())))
    soak.readings.append(_reading(folder, pid, played := 0, 0.0))
    for tenth in range(1, TENTHS + 1):
        if cuts * tenth // TENTHS > cuts * (tenth - 1) // TENTHS:
            await _anew(soak, pbx)
        while batch := list(islice(copies, min(AT_ONCE, calls * tenth // TENTHS - played))):
            await _played(soak, pbx, crm, batch)
            played += len(batch)
        async with asyncio.timeout(PATIENCE_S):
            await crm.at_most(0)
            while not await _all_stored(soak, folder):  # noqa: ASYNC110  # another process writes them
                await asyncio.sleep(LOOK_S)
        soak.readings.append(_reading(folder, pid, played, time.monotonic() - began))


async def _played(soak: Soak, pbx: SimulatedPbx, crm: Crm, batch: Sequence[Copy]) -> None:
    for one in batch:
        crm.expect(one.told)
        soak.due += len(one.told)
        soak.records += one.records
        soak.events += one.events
    for piece in _pieces(batch):
        await pbx.send(piece)
    async with asyncio.timeout(PATIENCE_S):
        await crm.at_most(MOST_DUE)


def _pieces(batch: Sequence[Copy]) -> Iterator[bytes]:
    raw = b"".join(interleaved(batch))
    return (raw[at : at + PIECE] for at in range(0, len(raw), PIECE))


async def _anew(soak: Soak, pbx: SimulatedPbx) -> None:
    """Cut the session, and wait for the next."""
    pbx.cut()
    soak.sessions += 1
    await asyncio.wait_for(pbx.logged_in(), PATIENCE_S)


@asynccontextmanager
async def _daemon(config: Path) -> AsyncIterator[int]:
    """`crmbridge run`; it is waited for in a thread, as it needs the PBX and the CRM, which are ours, to go on."""
    running = bridge.running(config)
    pid = await asyncio.to_thread(running.__enter__)
    try:
        yield pid
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


def _configured(folder: Path, crm_url: str, ami_port: int) -> Path:
    file = folder / "config.toml"
    file.write_text(
        f"""
        [crm]
        url = "{crm_url}"
        client_id = 10
        [ami]
        port = {ami_port}
        username = "{USERNAME}"
        secret = "{SECRET}"
        [pbx]
        extensions = '7\\d\\d'
        trunks = ["PJSIP/trunk-bezeq"]
        endpoints = {{ "PJSIP/soft-777" = "777" }}
        [http]
        listen = "127.0.0.1:{free_port()}"
        username = "crm"
        password = "{bridge.PASSWORD}"
        [store]
        state_dir = "{folder}"
        [log]
        format = "json"
        """
    )
    return file


def _reading(folder: Path, pid: int, calls: int, wall_s: float) -> Reading:
    memory = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Reading(
        calls=calls,
        wall_s=wall_s,
        cpu_s=(int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
        rss_mb=int(memory["Rss"].split()[0]) / 1024,
        pss_mb=int(memory["Pss"].split()[0]) / 1024,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        log_bytes=(folder / "run.err").stat().st_size,
        outbox_bytes=_size(folder, "outbox.db*"),
        store_bytes=_size(folder, "calls.db*"),
    )


def _size(folder: Path, files: str) -> int:
    """Of a database with its journal."""
    return sum(file.stat().st_size for file in folder.glob(files))


async def _all_stored(soak: Soak, folder: Path) -> bool:
    soak.stored = await asyncio.to_thread(_records, folder)
    return soak.stored >= soak.records


def _records(folder: Path) -> int:
    with closing(sqlite3.connect(f"file:{folder / 'calls.db'}?mode=ro", uri=True)) as store:
        return int(store.execute("SELECT count(*) FROM cdrs").fetchone()[0])


def _table(soak: Soak) -> Table:
    columns = ("calls", "minutes", "RSS MB", "PSS MB", "descriptors", "threads", "CPU s", "log MB", "outbox MB")
    table = Table(*columns, "call list MB", title="A day of calls")
    for one in soak.readings:
        sizes = (one.log_bytes, one.outbox_bytes, one.store_bytes)
        table.add_row(
            f"{one.calls:,}",
            *(f"{value:.1f}" for value in (one.wall_s / 60, one.rss_mb, one.pss_mb)),
            *(str(value) for value in (one.descriptors, one.threads)),
            f"{one.cpu_s:.1f}",
            *(f"{size / 1e6:.1f}" for size in sizes),
        )
    thousand = per_thousand(soak)
    kb = (thousand[name] / 1000 for name in ("log_bytes", "outbox_bytes", "store_bytes"))
    table.add_row("per 1,000", *[""] * 5, f"{thousand['cpu_s']:.2f}", *(f"{one:.0f} kB" for one in kb), style="bold")
    return table

"""`make bench`, sections `pbxes` and `pair`: what each PBX costs on one bridge, and what two bridges on a PBX cost.

Simulated PBXes that replay recorded calls, as in section `rings`. The pair shares a Galera cluster of three nodes, all
on this machine's two cores; beside it, in the same run, one bridge whose call list is in that cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table
from tests.asterisk.lab import galera
from tests.bench.bridge import PartError
from tests.bench.busy import recorded
from tests.bench.report import Report
from tests.bench.rig import SETTLE_S, Crm, Rig, calls, daemon, rig, settings, simulated
from tests.bench.rings import measured, play
from tests.needs import lacking

from crmbridge.calls.claims import Mine, of_callback
from crmbridge.store.claims import Claims, open_claims

PBXES = (1, 2, 5, 10, 20, 50)
IDLE_S = 10.0
RATE, CALLS = 50, 500
"""Calls a second, and how many, over all PBXes."""
RATES = {10: 200, 50: 500}
BRIDGES = (2, 8, 32)
"""That claim at the same time."""
AT_ONCE, EACH = 8, 100
"""Callbacks that each of these has under way (`crm.concurrency`), and how many it sends one after another."""
_USER = "CREATE DATABASE crm; CREATE USER bridge IDENTIFIED BY 'bench'; GRANT ALL ON crm.* TO bridge"
_WARM = 50


def main_pbxes(report: Report) -> None:
    """Measure what each PBX costs, and report."""
    try:
        figures = {count: asyncio.run(_pbxes(count)) for count in PBXES}
    except PartError as error:
        report.fail(f"pbxes: {error}")
        return
    columns = ("MB", "% of a core at rest", "ms of processor a call", "ring: median ms", "99th percentile")
    table = Table("PBXes", *columns, title=f"PBXes on one bridge, {RATE} calls/s in all")
    for count, one in figures.items():
        table.add_row(str(count), *(f"{value:.2f}" for value in one.values()))
    report.show(table)
    report.keep("pbxes", {"rate": RATE, "idle_s": IDLE_S, "by_count": figures})


async def _pbxes(count: int) -> dict[str, float]:
    """Of one bridge with so many PBXes."""
    with TemporaryDirectory(prefix="crmbridge-bench.") as folder:
        async with rig(Path(folder), pbxes=count) as one:
            await play(one, calls(recorded("22", "shipped")["did_answered"], 10_000_000, max(_WARM, count)), RATE)
            began = one.cpu_s()
            await asyncio.sleep(IDLE_S)
            idle = (one.cpu_s() - began) / IDLE_S * 100
            figures = await measured(one, RATE, CALLS)
            return {
                "mb": one.memory_kb() / 1024,
                "idle_percent": idle,
                **{name: figures[name] for name in ("cpu_ms", "ring_ms", "ring_p99_ms")},
            }


def main_pair(report: Report) -> None:
    """Measure what two bridges on one PBX cost, and report."""
    if reason := lacking("galera"):
        report.say(f"pair is left out: {reason}")
        return
    with galera.running() as cluster:
        cluster.nodes[0].database.run(_USER)
        try:
            figures = asyncio.run(_pair(cluster))
            claimed = {count: asyncio.run(_claimed(cluster, count)) for count in BRIDGES}
        except PartError as error:
            report.fail(f"pair: {error}")
            return
    columns = ("ring: median ms", "99th percentile", "answer: median ms", "99th percentile", "ms of processor a call")
    table = Table("", *columns, "commits a call", title="Two bridges on one PBX")
    for name, one in figures.items():
        table.add_row(name, *(f"{value:.2f}" for value in one.values()))
    report.show(table)
    report.keep("pair", {"bridges": figures, "claims": claimed})
    more = Table("bridges that claim at once", "claims a second", "write sets a second", title="The cluster alone")
    for count, one in claimed.items():
        more.add_row(str(count), *(f"{value:,.0f}" for value in one.values()))
    report.show(more)


async def _pair(cluster: galera.Cluster) -> dict[str, dict[str, float]]:
    """One bridge, and two, at several rates; of two, both bridges' processor time."""
    figures = {}
    for name, bridges in (("one bridge", ["one"]), ("two bridges", ["one", "two"])):
        with TemporaryDirectory(prefix="crmbridge-bench.") as folder:
            async with _on_one_pbx(Path(folder), cluster, bridges) as (one, others):
                await play(one, calls(recorded("22", "shipped")["did_answered"], 20_000_000, _WARM), RATE)
                for rate, count in RATES.items():
                    written, others_s = _commits(cluster), sum(each.cpu_s() for each in others)
                    measures = await measured(one, rate, count)
                    await _until_listed(cluster)
                    measures["cpu_ms"] += (sum(each.cpu_s() for each in others) - others_s) / count * 1000
                    figures[f"{name}, {rate} calls/s"] = measures | {"commits": (_commits(cluster) - written) / count}
    return figures


@asynccontextmanager
async def _on_one_pbx(
    folder: Path, cluster: galera.Cluster, bridges: Sequence[str]
) -> AsyncIterator[tuple[Rig, list[Rig]]]:
    """The first bridge's rig, and the others' beside it: all that is sent goes to all, and to one CRM."""
    store = f'url = "{_url(cluster)}"'
    async with AsyncExitStack() as stack:
        pbxes = await stack.enter_async_context(simulated(1))
        crm = await stack.enter_async_context(Crm())
        rigs = []
        for name in bridges:
            own = folder / name
            own.mkdir()
            more = f'[claims]\nbridge = "{name}"' if len(bridges) > 1 else ""
            ami = ("127.0.0.1", pbxes[0].port)
            config, port = settings(own, ami, crm=("127.0.0.1", crm.port), more=more, store=store)
            pbxes[0]._logged_in.clear()
            process = await stack.enter_async_context(daemon(config))
            async with asyncio.timeout(SETTLE_S):
                await pbxes[0].logged_in()
            rigs.append(Rig(pbxes, crm, process, port))
        yield rigs[0], rigs[1:]


def _commits(cluster: galera.Cluster) -> int:
    """Write sets of all nodes so far: transactions that were replicated."""
    sql = "SHOW GLOBAL STATUS LIKE 'wsrep_replicated'"
    return sum(int(node.database.run(sql).split()[-1]) for node in cluster.nodes)


async def _until_listed(cluster: galera.Cluster) -> None:
    """Wait until nothing more is written: the last calls' records, and what is told of claims."""
    async with asyncio.timeout(SETTLE_S):
        before = -1
        while (now := _commits(cluster)) != before:
            before = now
            await asyncio.sleep(2)


def _url(cluster: galera.Cluster, first: int = 0) -> str:
    """Its address, with this node's in front."""
    nodes = cluster.nodes[first:] + cluster.nodes[:first]
    hosts = ",".join(f"127.0.0.1:{node.database.port}" for node in nodes)
    return f"mysql+asyncmy://bridge:bench@{hosts}/crm"


async def _claimed(cluster: galera.Cluster, bridges: int) -> dict[str, float]:
    """How many callbacks a second so many bridges, all in this process, claim and put down as told."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        everyone = []
        for number in range(bridges):
            url = _url(cluster, first=number % galera.NODES)
            opening = open_claims(url, bridge=f"bridge-{number}", timeout_s=SETTLE_S, lease_s=SETTLE_S)
            claims = await stack.enter_async_context(opening)
            tasks.create_task(claims.run())
            everyone.append(claims)
        written, began = _commits(cluster), asyncio.get_running_loop().time()
        work = [_claim(claims, f"{bridges}-{n}-{at}") for n, claims in enumerate(everyone) for at in range(AT_ONCE)]
        await asyncio.gather(*work)
        took_s = asyncio.get_running_loop().time() - began
        for claims in everyone:
            claims.stop()
    return {"claims": bridges * AT_ONCE * EACH / took_s, "write_sets": (_commits(cluster) - written) / took_s}


async def _claim(claims: Claims, name: str) -> None:
    for number in range(EACH):
        key = of_callback(("pbx", f"{name}-{number}", "777", "incomingCall"))
        if not isinstance(await claims.take(key), Mine):
            raise PartError("a claim was not had that nobody else wants")
        claims.tell(key, "confirmed")

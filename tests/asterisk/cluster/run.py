"""Calls on both PBXes of a site, faults meanwhile, and what came of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.asterisk.cluster import clicks
from tests.asterisk.cluster.address import Watch, shared_address
from tests.asterisk.cluster.faults import LASTS_S, Fault
from tests.asterisk.cluster.told import Outcome, Spell
from tests.asterisk.faults.crm_heard import heard
from tests.asterisk.faults.judge import Call
from tests.asterisk.faults.kills import DID, PHONE, RING_S, TALK_S
from tests.asterisk.faults.resources import left_behind
from tests.asterisk.faults.truth import calls_of
from tests.asterisk.lab import sipp
from tests.asterisk.lab.ami import Ami, session
from tests.asterisk.lab.bridge import Bridge
from tests.asterisk.lab.site import CRM_PORT, FRESH, PBXES, Host, Site

from crmbridge.demo.receiver import Receiver

LONGEST_RUN_S = 3600
WHOLE_WITHIN_S = 60.0
CALM_S = 3.0
"""Between two faults, and at the ends."""
LOOK_AGAIN_S = 0.2
LISTED_WITHIN_S = 60.0
PREFIXES = dict(zip(PBXES, ("037", "038"), strict=False))
"""Of callers' numbers, by the PBX that they call."""


@dataclass
class Run:
    """Calls come in, and things happen."""

    site: Site
    random: Random
    began: float
    crm: Receiver
    amis: dict[str, Ami]
    watch: Watch
    spells: list[Spell] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return asyncio.get_running_loop().time() - self.began

    async def calm(self, seconds: float, name: str = "nothing") -> None:
        """Let calls come in."""
        self.spells.append(Spell(name, self.now))
        await asyncio.sleep(seconds)

    async def suffer(self, fault: Fault, lasts_s: float | None = None) -> None:
        """Let it happen and be mended, and wait until everybody does everything again."""
        spell = Spell(fault.name, self.now, fault)
        self.spells.append(spell)
        async with fault.context():
            await asyncio.sleep(lasts_s or self.random.uniform(*LASTS_S))
        spell.ended = self.now
        seen = {host.machine.name: (host.now, len(host.now.lines)) for host in self.site.hosts}
        async with asyncio.timeout(WHOLE_WITHIN_S):
            for node in self.site.cluster.nodes:
                await asyncio.to_thread(node.until_synced)
            for host in self.site.hosts:
                await self._works(host, *seen[host.machine.name], follows=fault.sensed)
        spell.whole = self.now
        await asyncio.sleep(CALM_S)

    async def click_often(self, times: int) -> None:
        """The CRM's user clicks, and both bridges get it again and again."""
        self.spells.append(Spell(f"{times} equal clicks", self.now))
        placed, answers = await clicks.at_once(self.site, self.amis, times)
        self.spells[-1].name += f": {placed} call"
        if placed != 1 or set(answers) != {200}:
            self.spells[-1].report.untrue.append(f"{placed} calls were placed; answers: {dict(answers)}")
        await asyncio.sleep(CALM_S)

    async def _works(self, host: Host, life: Bridge, line: int, *, follows: bool) -> None:
        """Wait until a bridge is ready, has the CRM, and (`follows`) has seen a call on each PBX since that line."""
        if follows:
            await life.until(lambda: _pbxes_heard(life.lines[line:]) == set(PBXES))
        while life.count("crm.down") > life.count("crm.back") or not await self._is_ready(host):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
        assert life.process.returncode is None, f"{host.machine} has ended"

    async def _is_ready(self, host: Host) -> bool:
        status, _ = await self.site.ask("127.0.0.1", "/readyz", source=host.machine)
        return status == 200


@asynccontextmanager
async def running(site: Site, *, per_s: float, seed: int) -> AsyncIterator[tuple[Run, Outcome]]:
    """Take calls as long as this lasts; then the outcome is whole."""
    outcome = Outcome([])
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="crmbridge-cluster.")))
        crm = await stack.enter_async_context(Receiver())
        await crm.start(sock=site.crm.network.bound((site.crm.address, CRM_PORT)))
        amis = {name: await stack.enter_async_context(session(pbx)) for name, pbx in site.pbxes.items()}
        bridges = await stack.enter_async_context(_ending(site, outcome))
        watch = await stack.enter_async_context(shared_address(site, folder))
        run = Run(site, Random(seed), asyncio.get_running_loop().time(), crm, amis, watch, outcome.spells)
        async with _calls_coming_in(site, folder, per_s):
            yield run, outcome
        for ami in amis.values():
            await ami.until_no_channels()
        calls = [call for ami in amis.values() for call in calls_of(ami, run.began) if _is_callers(call)]
        await _settled(site, crm, calls)
        outcome.wrong += await _list_mistakes(site, calls)
        await bridges.aclose()
        watch.into(outcome.spells, run.began)
        callbacks = [one for one in crm.received if one["sNumber"].startswith(tuple(PREFIXES.values()))]
        outcome.decide(calls, heard(callbacks, run.began))
        outcome.wrong += _wrong_clients(crm)
        outcome.wrong += await _outbox_mistakes(site)
        outcome.facts |= _counted(site)


@asynccontextmanager
async def _ending(site: Site, outcome: Outcome) -> AsyncIterator[AsyncExitStack]:
    """Both bridges, which may be ended before the rest; each has to end well and to leave nothing behind."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(site.bridges())
        yield stack
    for host in site.hosts:
        if (code := host.now.process.returncode) != 0:
            outcome.wrong.append(f"{host.machine} ended with {code}")
        outcome.wrong += [f"{host.machine}: {one}" for one in left_behind(host.lines)]


@asynccontextmanager
async def _calls_coming_in(site: Site, folder: Path, per_s: float) -> AsyncIterator[None]:
    """Half of them on each PBX; at the end those that go on go on to theirs."""
    async with AsyncExitStack() as stack:
        everyone = []
        for name, pbx in site.pbxes.items():
            callers = [f"{PREFIXES[name]}{index:06}" for index in range(1, int(per_s / 2 * LONGEST_RUN_S))]
            own = folder / name
            own.mkdir()
            await stack.enter_async_context(
                sipp.answering(pbx.network, PHONE, ring_s=RING_S, folder=own, calls=len(callers))
            )
            everyone.append(
                await stack.enter_async_context(
                    sipp.calling_often(
                        pbx.network, DID, callers=callers, per_s=per_s / len(PBXES), talk_s=TALK_S, folder=own
                    )
                )
            )
        yield
        for one in everyone:
            one.begin_no_more()
        for one in everyone:
            await one.done()


def _is_callers(call: Call) -> bool:
    return call.number.startswith(tuple(PREFIXES.values()))


def _pbxes_heard(lines: Iterable[str]) -> set[str]:
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return {line.get("pbx", "") for line in told if line["event"] == "call.rings"}


async def _settled(site: Site, crm: Receiver, calls: list[Call]) -> None:
    """Wait until each call has been told of and stands in the list; what is missing after that is judged."""
    facts = {fact for call in calls for fact, _ in call.facts()}
    until = asyncio.get_running_loop().time() + LISTED_WITHIN_S
    while asyncio.get_running_loop().time() < until:
        told = {(one["sNumber"], one["operation"]) for one in crm.received}
        listed = await _listed(site)
        if facts <= told and all(listed[call.number] for call in calls):
            break
        await asyncio.sleep(LOOK_AGAIN_S)
    await asyncio.sleep(CALM_S)  # what is told twice may come late


async def _listed(site: Site) -> Counter[str]:
    """How often each number stands in the call list."""
    text = await _sql(site, "SELECT number FROM crmbridge.all_calls")
    return Counter(text.splitlines()[1:])


async def _list_mistakes(site: Site, calls: list[Call]) -> list[str]:
    """Each call stands there once, and a list that is made anew of the PBXes' tables is the same."""
    listed = await _listed(site)
    wrong = [
        f"{call.number} stands in the list {listed[call.number]} times" for call in calls if listed[call.number] != 1
    ]
    await site.hosts[0].command("sync", config=site.hosts[0].fresh_config())
    query = "SELECT * FROM {}.all_calls"
    both = [Counter((await _sql(site, query.format(name))).splitlines()) for name in ("crmbridge", FRESH)]
    wrong += [f"only in the list of the bridges: {line}" for line in both[0] - both[1]]
    return wrong + [f"only in a fresh sync's list: {line}" for line in both[1] - both[0]]


async def _sql(site: Site, query: str) -> str:
    node = site.cluster.nodes[0].database
    return await asyncio.to_thread(node.run, f"SET SESSION wsrep_sync_wait = 1; {query}")


def _wrong_clients(crm: Receiver) -> list[str]:
    """Whose call it is is told by the PBX."""
    clients = {PREFIXES[name]: client for name, (_, _, client) in PBXES.items()}
    return [
        f"{one.target} is of another client"
        for one in crm.received
        if clients.get(one["sNumber"][:3], one["ClientId"]) != one["ClientId"]
    ]


async def _outbox_mistakes(site: Site) -> list[str]:
    """Nothing is left behind in either outbox."""
    wrong = []
    for host in site.hosts:
        states = Counter(one["state"] for one in await host.outbox())
        wrong += [f"{host.machine}: {states[state]} {state} in its outbox" for state in states if state in _UNDONE]
    return wrong


_UNDONE = {"queued", "expired", "refused", "dropped"}


def _counted(site: Site) -> dict[str, object]:
    return {
        f"{host.machine}, its log": ", ".join(
            f"{event} ×{sum(life.count(event) for life in host.lives)}"
            for event in ("bridge.started", "ami.connected", "crm.confirmed", "crm.down", "crm.retrying")
        )
        for host in site.hosts
    }

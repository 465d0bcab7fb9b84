"""What is done to a site: each fault is a context, within which it lasts and after which it is mended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import combinations
from random import Random

from tests.asterisk.lab.galera import Node
from tests.asterisk.lab.site import PBXES, Host, Site
from tests.asterisk.lab.switch import Link

LASTS_S = (3.0, 7.0)
"""Longer than a lease, and than the database takes to give a node up."""


@dataclass(frozen=True)
class Fault:
    """One thing that can happen."""

    name: str
    context: Callable[[], AbstractAsyncContextManager[None]]
    in_flight: bool = False
    """A request may have reached the CRM whose answer never came back: it is sent again, with the same key."""
    unclaimed: bool = False
    """The bridges can't agree who tells while it lasts."""
    sensed: bool = True
    """Bridges may lose a session by it, so that they have to be seen to follow calls again."""


def single(site: Site) -> list[Fault]:
    """All that hits one machine, one link or the weaker half, and leaves a majority of the database alive."""
    return [
        *(Fault(f"{host.machine} killed", _killed(host), in_flight=True) for host in site.hosts),
        *(Fault(f"{host.machine} frozen", _frozen(host), in_flight=True) for host in site.hosts),
        *(Fault(f"{name} killed", _dead(node), sensed=False) for name, node in _nodes(site)),
        *(Fault(f"{name} frozen", _still(node), sensed=False) for name, node in _nodes(site)),
        *_links(site),
        *_halves(site),
    ]


def in_random_order(site: Site, number: int, random: Random, only: Collection[str] = ()) -> list[Fault]:
    """So many, each kind once before any comes again. `only`: those whose name holds one of these."""
    kinds = [fault for fault in single(site) if not only or any(part in fault.name for part in only)]
    chosen: list[Fault] = []
    while kinds and len(chosen) < number:
        chosen += random.sample(kinds, len(kinds))
    return chosen[:number]


def database_gone(site: Site) -> Fault:
    """All three nodes are killed; the one that had come furthest makes the cluster anew."""

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        for node in site.cluster.nodes:
            await asyncio.to_thread(node.kill)
        yield
        await asyncio.to_thread(site.cluster.revive)

    return Fault("the whole database killed", context, unclaimed=True, sensed=False)


def cut_off_from_database(site: Site, host: Host) -> Fault:
    """One bridge reaches no node, and everything else."""
    links = [(host.machine, node) for node in site.databases]
    return Fault(f"{host.machine} cut off from all of the database", _cut(site, links), unclaimed=True, sensed=False)


def upgraded(host: Host) -> Fault:
    """Stopped and started by its administrator, who has installed another version in between."""

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        code = await host.stop()
        assert code == 0, f"{host.machine} ended with {code}"
        yield
        await host.start()

    return Fault(f"{host.machine} stopped for its upgrade", context)


def _nodes(site: Site) -> list[tuple[str, Node]]:
    return [(machine.name, node) for machine, node in zip(site.databases, site.cluster.nodes, strict=True)]


def _links(site: Site) -> list[Fault]:
    bridges = [host.machine for host in site.hosts]
    pbxes = [site.machines[name] for name in PBXES]
    pairs: list[Link] = [
        (bridges[0], bridges[1]),
        *((bridge, other) for bridge in bridges for other in (*site.databases, *pbxes, site.crm)),
        *combinations(site.databases, 2),
    ]
    return [
        Fault(
            f"link {one} – {other} cut",
            _cut(site, [(one, other)]),
            in_flight=site.crm in (one, other),
            sensed=one in pbxes or other in pbxes,
        )
        for one, other in pairs
    ]


def _halves(site: Site) -> list[Fault]:
    """A bridge and a node in one place, all else in another; or a node alone."""
    halves = [[host.machine, node] for host, node in zip(site.hosts, site.databases, strict=False)]
    halves += [[node] for node in site.databases]
    return [
        Fault(
            f"{' and '.join(map(str, half))} cut off",
            _cut(site, site.switch.between(half)),
            in_flight=len(half) > 1,
            sensed=len(half) > 1,
        )
        for half in halves
    ]


def _killed(host: Host) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        await host.kill()
        yield
        await host.start()

    return context


def _frozen(host: Host) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        host.signal(signal.SIGSTOP)
        yield
        host.signal(signal.SIGCONT)

    return context


def _dead(node: Node) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        await asyncio.to_thread(node.kill)
        yield
        await asyncio.to_thread(node.join)

    return context


def _still(node: Node) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        node.freeze()
        yield
        node.thaw()

    return context


def _cut(site: Site, links: list[Link]) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        site.switch.cut(links)
        yield
        site.switch.mend(links)

    return context

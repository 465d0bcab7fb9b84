"""Claims in a real Galera cluster: of two bridges on two nodes one gets each claim, also while a node dies.

One test, so that one cluster serves for all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.asterisk.lab import galera
from tests.integration.test_claims import LIMIT_S, bridge, keys

from crmbridge.calls.claims import Held, Mine, Standing, Told
from crmbridge.store.claims import Claims

pytestmark = [
    pytest.mark.needs("galera"),
    pytest.mark.alone,  # a node that gets no processor for two seconds is given up by the others
]

TIMEOUT_S = 8.0
"""More than the cluster takes to give up a node."""


@pytest.fixture
def cluster() -> Iterator[galera.Cluster]:
    with galera.running() as cluster:
        cluster.nodes[0].database.run("CREATE DATABASE shared")
        yield cluster


@asynccontextmanager
async def on(cluster: galera.Cluster, name: str, *order: int) -> AsyncIterator[Claims]:
    hosts = ",".join(f"127.0.0.1:{cluster.nodes[number].database.port}" for number in order)
    async with bridge(f"mysql+asyncmy://root@{hosts}/shared", name, timeout_s=TIMEOUT_S) as claims:
        assert claims.trouble is None
        yield claims


Pair = tuple[Standing, Standing]


async def one_by_one(one: Claims, other: Claims, wanted: list[str]) -> list[Pair]:
    """Both want the same claim at the same moment, again and again."""
    pairs: list[Pair] = []
    for key in wanted:
        ours, theirs = await asyncio.gather(one.take(key), other.take(key))
        pairs.append((ours, theirs))
    return pairs


async def at_once(one: Claims, other: Claims, wanted: list[str]) -> list[Pair]:
    ours, theirs = await asyncio.gather(
        asyncio.gather(*(one.take(key) for key in wanted)),
        asyncio.gather(*(other.take(key) for key in reversed(wanted))),
    )
    return list(zip(ours, reversed(theirs), strict=True))


def winners(pairs: list[Pair]) -> Counter[int]:
    """How many claims had so many winners."""
    return Counter(sum(isinstance(standing, Mine) for standing in pair) for pair in pairs)


async def test_claims_on_two_nodes(cluster: galera.Cluster, subtests: pytest.Subtests) -> None:
    nodes = cluster.nodes

    with subtests.test("the same claims on two nodes, or on one, at the same moment have one winner each"):
        for order in ((1, 2, 0), (0, 1, 2)):
            async with on(cluster, "one", 0, 1, 2) as one, on(cluster, "two", *order) as two:
                wanted = keys(1000, f"{order}")
                assert winners(await one_by_one(one, two, wanted[:500])) == {1: 500}
                assert winners(await at_once(one, two, wanted[500:])) == {1: 500}
                assert one.counts["taken"] + two.counts["taken"] == 1000

    with subtests.test("so have those that are claimed while a node dies; nobody goes without"):
        async with on(cluster, "one", 0, 1, 2) as one, on(cluster, "two", 1, 2, 0) as two:
            claiming = asyncio.create_task(one_by_one(one, two, keys(1000, "dying")))
            while one.counts["taken"] + two.counts["taken"] < 300:
                await one.take(keys(1, "other")[0])
            began = time.monotonic()
            await asyncio.to_thread(nodes[0].kill)
            before = one.counts["taken"] + two.counts["taken"]
            while one.counts["taken"] + two.counts["taken"] < before + 5:
                await one.told(keys(1, "other"))
            print(f"a node killed: claims went on after {time.monotonic() - began:.1f} s")
            async with asyncio.timeout(LIMIT_S * 2):
                pairs = await claiming
            assert winners(pairs) == {1: 1000}
            assert one.counts["without"] == two.counts["without"] == 0
        await asyncio.to_thread(nodes[0].join)

    with subtests.test("what is told on one node is told on the other, before its lease can be taken over"):
        async with on(cluster, "one", 0, 1, 2) as one, on(cluster, "two", 1, 2, 0) as two:
            wanted = keys(300, "told")
            for key in wanted:
                assert isinstance(await one.take(key), Mine)
                one.tell(key, "confirmed")
            async with asyncio.timeout(LIMIT_S):
                for key in wanted:
                    while isinstance(standing := await two.take(key), Held):
                        pass
                    assert standing == Told("one", "confirmed", by_us=False)

    with subtests.test("commits that a dying node holds up take no claim from who has told it"):
        async with on(cluster, "one", 0, 1, 2) as one, on(cluster, "two", 1, 2, 0) as two:
            (key,) = keys(1, "held up")
            assert isinstance(await one.take(key), Mine)
            assert isinstance(await two.take(key), Held)
            await asyncio.to_thread(nodes[2].kill)
            one.tell(key, "confirmed")
            async with asyncio.timeout(LIMIT_S):
                while isinstance(standing := await two.take(key), Held):  # noqa: ASYNC110  # as the sender does
                    await asyncio.sleep(max(0.0, standing.look_at - time.monotonic()))
            assert standing == Told("one", "confirmed", by_us=False)
            await asyncio.to_thread(nodes[2].join)

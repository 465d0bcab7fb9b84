"""The call list in a real Galera cluster: any node serves, one that dies, hangs or is cut off is left for another.

One test, so that one cluster serves for all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs
from tests.asterisk.lab import galera
from tests.integration.test_call_list import HERE, HISTORY, KEY, record, shown

from crmbridge.calls.cdr import Cdr
from crmbridge.store import mysql, sql_access
from crmbridge.store.call_list import CallList, open_call_list
from crmbridge.store.database import LIMIT_S
from crmbridge.store.engine import parsed
from crmbridge.store.schema import StoreError

pytestmark = [
    pytest.mark.needs("galera"),
    pytest.mark.alone,  # a node that gets no processor for two seconds is given up by the others
]

RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, CREATE VIEW"
WITHOUT_KEY = """
SELECT t.table_name FROM information_schema.tables t LEFT JOIN information_schema.table_constraints c
    ON c.table_schema = t.table_schema AND c.table_name = t.table_name AND c.constraint_type = 'PRIMARY KEY'
WHERE t.table_schema = 'crm' AND t.table_type = 'BASE TABLE' AND c.constraint_name IS NULL
"""
COUNTED = "SELECT count(*), count(DISTINCT linkedid) FROM crm.calls"


@pytest.fixture
def cluster() -> Iterator[galera.Cluster]:
    with galera.running() as cluster:
        make = f"CREATE DATABASE crm; CREATE USER bridge IDENTIFIED BY 'its own'; GRANT {RIGHTS} ON crm.* TO bridge"
        cluster.nodes[0].database.run(make)
        yield cluster


def url(cluster: galera.Cluster, *order: int) -> str:
    hosts = ",".join(f"127.0.0.1:{cluster.nodes[number].database.port}" for number in order)
    return f"mysql+asyncmy://bridge:its%20own@{hosts}/crm"


@asynccontextmanager
async def opened(cluster: galera.Cluster, *order: int) -> AsyncIterator[CallList]:
    async with open_call_list(url(cluster, *order), HISTORY.rows, HERE) as calls:
        yield calls


async def until_taken(calls: CallList, one: Cdr) -> int:
    """Try until the record is taken; how often that was refused."""
    for refused in range(10):
        try:
            assert await calls.add([one]) == 1
        except StoreError:
            continue
        return refused
    raise AssertionError("it is still refused")


def records(first: int, last: int) -> list[Cdr]:
    return [record(linkedid=f"{number}.1", uniqueid=f"{number}.1") for number in range(first, last)]


async def in_step(cluster: galera.Cluster, query: str) -> set[str]:
    """What the query finds on each node, once it has all that was committed before."""
    sql = f"SET SESSION wsrep_sync_wait = 1; {query}"
    return set(await asyncio.gather(*(asyncio.to_thread(node.database.run, sql) for node in cluster.nodes)))


async def test_a_cluster(cluster: galera.Cluster, subtests: pytest.Subtests) -> None:
    nodes = cluster.nodes

    with subtests.test("bridges that start at the same time on an empty database make its tables once"):
        orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1)] * 2
        async with asyncio.TaskGroup() as tasks:
            for order in orders:
                tasks.create_task(enter(cluster, *order))
        assert await in_step(cluster, "SELECT component, version FROM crm.schema_versions") == {
            "component\tversion\ncall_list\t2\n"
        }
        assert await in_step(cluster, WITHOUT_KEY) == {""}, "Galera replicates no table without a primary key well"

    with subtests.test("two write the same calls of one PBX on two nodes at once: each call is there once"):
        async with opened(cluster, 0) as one, opened(cluster, 1) as other:
            same = [records(start, start + 5) for start in range(1000, 1200, 5)]
            counts = await asyncio.gather(
                taken(one, same), taken(other, list(reversed(same))), taken(one, [records(1200, 1250)])
            )
            assert counts[0] + counts[1] == 200
            assert counts[2] == 50
        turns = await in_step(cluster, "SELECT turn FROM crm.turns")
        assert turns == {f"turn\n{2 * len(same) + 1}\n"}, "what was said to be stored is stored, all of it"
        assert await in_step(cluster, COUNTED) == {"count(*)\tcount(DISTINCT linkedid)\n250\t250\n"}

    with subtests.test("a transaction that another node has undone fails, whatever statement comes next"):
        engine = mysql.make_engine(parsed(url(cluster, 0)), 1)
        aborted = "SHOW STATUS LIKE 'wsrep_local_bf_aborts'"
        so_far = nodes[0].database.run(aborted)
        async with engine.connect() as connection:
            await connection.exec_driver_sql("UPDATE turns SET turn = turn + 1")
            nodes[1].database.run("UPDATE crm.turns SET turn = turn + 1000000")
            while nodes[0].database.run(aborted) == so_far:
                pass
            with pytest.raises(DBAPIError, match="1213"):  # not prepared before
                await connection.exec_driver_sql("UPDATE turns SET prunings = prunings + 7")
        await engine.dispose()
        assert await in_step(cluster, "SELECT prunings FROM crm.turns") == {"prunings\n0\n"}

    with subtests.test("a node that is killed is left for the next, and joins again"):
        async with opened(cluster, 0, 1, 2) as calls:
            before = len((await calls.by_number(KEY, limit=1000)).rows)
            await asyncio.to_thread(nodes[0].kill)
            assert len((await calls.by_number(KEY, limit=1000)).rows) == before
            await until_taken(calls, record(linkedid="1300.1", uniqueid="1300.1"))
            assert len((await calls.by_number(KEY, limit=1000)).rows) == before + 1
            await asyncio.to_thread(nodes[0].join)
        assert await in_step(cluster, COUNTED) == {"count(*)\tcount(DISTINCT linkedid)\n251\t251\n"}

    with subtests.test("one that hangs is left as soon as that shows, with all connections to it"):
        async with opened(cluster, 1, 2, 0) as calls:
            await asyncio.gather(*(calls.by_number(KEY) for _ in range(5)))
            nodes[1].freeze()
            try:
                refused = await until_taken(calls, record(linkedid="1301.1", uniqueid="1301.1"))
                assert refused <= 1, f"within {LIMIT_S} s"
                found = await asyncio.gather(*(calls.by_number(KEY, limit=1) for _ in range(5)))
                assert [shown(page) for page in found] == [[("777", 5)]] * 5
            finally:
                nodes[1].thaw()
        await asyncio.to_thread(nodes[1].until_synced)
        assert await in_step(cluster, COUNTED) == {"count(*)\tcount(DISTINCT linkedid)\n252\t252\n"}

    with subtests.test("a node that has lost the others is passed over, and says why where there is no other"):
        async with opened(cluster, 2) as alone, opened(cluster, 2, 0, 1) as calls:
            await asyncio.gather(asyncio.to_thread(nodes[0].kill), asyncio.to_thread(nodes[1].kill))
            for which in (alone, calls):
                with pytest.raises(StoreError, match="is a Galera node that is not in sync with its cluster"):
                    await refusal(which)
            nodes[2].database.run("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
            await asyncio.to_thread(nodes[0].join)
            await asyncio.to_thread(nodes[1].join)
            assert await alone.add(records(1400, 1401)) == 1
            assert await calls.add(records(1401, 1402)) == 1

    with subtests.test("one that may only be read is passed over, in the log too"):
        nodes[0].database.run("SET GLOBAL read_only = 1")
        with capture_logs() as logs:
            async with opened(cluster, 0, 1, 2) as calls:
                assert await calls.add(records(1500, 1501)) == 1
        assert [(line["event"], line["server"]) for line in logs] == [
            ("store.server_passed_over", f"127.0.0.1:{nodes[0].database.port}")
        ] * 1
        nodes[0].database.run("SET GLOBAL read_only = 0")

    with subtests.test("the CRM's user, made on one, is there on all"):
        server = await sql_access.ask(url(cluster, 0, 1))
        reader = sql_access.Reader(
            name="crm", password="read only", hosts=sql_access.hosts(["127.0.0.1"]), connections=5, statement_s=5
        )
        nodes[0].database.run("GRANT ALL ON *.* TO admin IDENTIFIED BY 'a' WITH GRANT OPTION")
        admin = url(cluster, 1, 2).replace("bridge:its%20own", "admin:a")
        await sql_access.apply(admin, sql_access.statements(reader, server, "crm"))
        users = "SELECT count(*) > 0 AS there FROM mysql.user WHERE user = 'crm'"
        assert await in_step(cluster, users) == {"there\n1\n"}

    with subtests.test("and so is one client's, with its views"):
        await sql_access.make_views(url(cluster, 1, 2))
        client = replace(reader, name="crm_10")
        each = [sql_access.statements(client, server, "crm", "10") for _ in nodes]
        others = [url(cluster, node).replace("bridge:its%20own", "admin:a") for node in range(len(nodes))]
        for _ in range(10):
            made = await asyncio.gather(
                *(sql_access.apply(*one) for one in zip(others, each, strict=True)), return_exceptions=True
            )
            told = [str(one) for one in made if one is not None]
            assert [one for one in told if "is being set up by another crmbridge" not in one] == [], "nothing hangs"
            assert len(told) < len(others)
        seen = await in_step(cluster, "SELECT count(*) = (SELECT count(*) FROM crm.calls) FROM crm_client_10.all_calls")
        assert {one.split()[-1] for one in seen} == {"1"}


async def enter(cluster: galera.Cluster, *order: int) -> None:
    async with opened(cluster, *order):
        pass


async def taken(calls: CallList, portions: list[list[Cdr]]) -> int:
    return sum([await calls.add(portion) for portion in portions])


async def refusal(calls: CallList) -> None:
    """Look until that is refused: the node takes a second to know that it is alone."""
    async with asyncio.timeout(30):
        while True:
            await calls.by_number(KEY, limit=1)

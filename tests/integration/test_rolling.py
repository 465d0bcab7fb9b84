"""Bridges of two versions on one database: upgraded one after another while both write, and taken back."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.asterisk.lab import galera
from tests.integration import migrating, rolling
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import LIMIT_S
from tests.integration.test_call_list import HERE, HISTORY, record
from tests.integration.test_call_list_mariadb import Holder, waiting

from crmbridge.store.call_list import open_call_list
from crmbridge.store.call_tables import SCHEMA
from crmbridge.store.database import opened

ROOT = Path(__file__).parents[2]
NEXT, LAST = migrating.next_version(SCHEMA), migrating.last_version(SCHEMA, "cdrs", "dst")
TOO_NEW = (
    f"newer crmbridge (call_list version {LAST.version}, this one knows up to {SCHEMA.version}): upgrade this bridge"
)

Sql = Callable[[str], str]


@dataclass
class Bridge:
    """A program of rolling.py."""

    process: asyncio.subprocess.Process
    start: int
    stored: int = 0
    refused: list[str] = field(default_factory=list)
    logged: list[dict[str, Any]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def listen(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._hear(self.process.stdout))
            both.create_task(self._hear(self.process.stderr))

    async def _hear(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        async for line in stream:
            said = json.loads(line)
            async with self._changed:
                self.stored = said.get("stored", self.stored)
                self.refused += [said["refused"]] if "refused" in said else []
                self.logged += [said] if "event" in said else []
                self._changed.notify_all()

    async def until(self, happened: Callable[[], bool]) -> None:
        async with self._changed, asyncio.timeout(LIMIT_S):
            await self._changed.wait_for(happened)

    async def goes_on(self, portions: int = 5) -> None:
        wanted = self.stored + portions
        await self.until(lambda: self.stored >= wanted)

    async def is_refused(self, words: str) -> None:
        await self.until(lambda: any(words in one for one in self.refused))

    def calls(self) -> set[str]:
        return set(rolling.linkedids(self.start, range(self.stored)))


@asynccontextmanager
async def bridge(url: str, which: str, start: int) -> AsyncIterator[Bridge]:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.integration.rolling", url, which, str(start)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
    running = Bridge(process, start)
    listening = asyncio.create_task(running.listen())
    try:
        yield running
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(LIMIT_S):
            await listening
            assert await process.wait() == 0


async def upgraded_one_after_another(urls: Sequence[str], sql: Sql) -> None:
    """`urls`: of the same database, for the bridge that is not upgraded, for one that is, and for others."""
    async with bridge(urls[0], "this", 100_000) as old:
        await old.goes_on()
        async with bridge(urls[1], "next", 200_000) as new:
            await new.goes_on()
            await old.goes_on()
            views = sql(VIEWS)
            async with bridge(urls[2], "this", 300_000) as restarted:
                await restarted.goes_on()
                await asyncio.gather(old.goes_on(), new.goes_on())
            told = [one for one in restarted.logged if one["event"] == "store.newer_schema"]
            assert [(one["version"], one["known"]) for one in told] == [(NEXT.version, SCHEMA.version)]
        assert "novelty" in views
        assert sql(VIEWS) == views, "an older bridge leaves them as they are"
        await old.goes_on()
    assert old.refused + new.refused + restarted.refused == []
    assert old.logged == [], "nobody notices"
    expected = old.calls() | new.calls() | restarted.calls()
    assert set(sql("SELECT linkedid FROM calls").split()[1:]) == expected
    assert sql("SELECT count(*) AS n FROM calls") == f"n\n{len(expected)}\n", "each once"
    assert sql("SELECT count(*) AS n FROM cdrs") == f"n\n{len(expected)}\n"
    assert sql("SELECT DISTINCT novelty FROM calls WHERE linkedid LIKE '2_____.1'") == "novelty\nfilled\n"
    assert sql("SELECT DISTINCT novelty FROM calls WHERE linkedid LIKE '1_____.1'") == "novelty\nnone\n"
    assert sql(STAMP) == f"version\tworks_with\n{NEXT.version}\t{SCHEMA.works_with}\n"


VIEWS = "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = database() ORDER BY 1"
STAMP = "SELECT version, works_with FROM schema_versions"


async def taken_away_beside(urls: Sequence[str], sql: Sql) -> None:
    """What this version needs is taken away while it is at work."""
    async with bridge(urls[0], "this", 400_000) as old:
        await old.goes_on()
        await (await opened(urls[1], [LAST])).close()
        await old.is_refused(TOO_NEW)
        async with bridge(urls[2], "this", 500_000) as restarted:
            await restarted.is_refused(TOO_NEW)
    assert restarted.stored == 0
    assert sql(STAMP) == f"version\tworks_with\n{LAST.version}\t{LAST.version}\n"


@pytest.mark.needs("mariadb")
async def test_bridges_on_one_server_are_upgraded_one_after_another(fresh: Fresh) -> None:
    await upgraded_one_after_another([fresh.url] * 3, fresh.sql)
    await taken_away_beside([fresh.url] * 3, fresh.sql)


@pytest.mark.needs("mariadb")
async def test_a_database_of_the_first_crmbridge_is_upgraded_beside_it(fresh: Fresh) -> None:
    await (await opened(fresh.url, [SCHEMA])).close()
    fresh.sql("ALTER TABLE schema_versions DROP COLUMN works_with")
    await upgraded_one_after_another([fresh.url] * 3, fresh.sql)


@pytest.mark.needs("mariadb")
async def test_calls_are_stored_while_an_upgrade_waits_for_somebody_who_reads(fresh: Fresh) -> None:
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as calls:
        async with Holder(fresh, "START TRANSACTION; SELECT * FROM calls") as reader:
            upgrading = asyncio.create_task(opened(fresh.url, [NEXT]))
            await waiting(fresh, "ALTER TABLE calls")
            assert await calls.add([record()]) == 1, "not behind the upgrade for as long as it waits"
            assert not upgrading.done()
            await reader.let_go()
            await (await upgrading).close()
        assert await calls.add([record(linkedid="2.1", uniqueid="2.1")]) == 1
    assert fresh.sql(STAMP) == f"version\tworks_with\n{NEXT.version}\t{SCHEMA.works_with}\n"


@pytest.mark.needs("galera")
@pytest.mark.alone
async def test_bridges_on_a_cluster_are_upgraded_one_after_another() -> None:
    with galera.running() as cluster:
        nodes = [node.database for node in cluster.nodes]
        nodes[0].run("CREATE DATABASE crm; CREATE USER bridge IDENTIFIED BY 'its own'; GRANT ALL ON crm.* TO bridge")
        urls = [f"mysql+asyncmy://bridge:its%20own@{node.host}:{node.port}/crm" for node in nodes]

        def sql(statement: str) -> str:
            (found,) = {node.run(f"SET SESSION wsrep_sync_wait = 1; USE crm; {statement}") for node in nodes}
            return found

        await upgraded_one_after_another(urls, sql)
        await taken_away_beside(urls, sql)

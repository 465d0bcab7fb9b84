"""The daemon with its call list in MariaDB: there, away when it starts, and silent while calls go on."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.asterisk.lab import mariadb
from tests.integration import migrating
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import ANSWER, COMMAND, LIMIT_S, RING, configure, daemon, get, targets, trace
from tests.integration.test_call_list import HERE, HISTORY, KEY, by_call, line
from tests.integration.test_call_list_mariadb import stopped

from crmbridge.demo.receiver import Receiver
from crmbridge.demo.simulated_pbx import SimulatedPbx
from crmbridge.store.call_list import open_call_list
from crmbridge.store.call_tables import SCHEMA
from crmbridge.store.database import opened

pytestmark = pytest.mark.needs("mariadb")

CALL = "01_did_to_ext_answered"
SHOWN = "SELECT ext, number, incoming FROM incoming_calls"
ROW = "ext\tnumber\tincoming\n777\t033004799\t1\n"


def debugging(url: str) -> str:
    return f'url = "{url}"\n[log]\nlevel = "debug"'


async def listed(config: Path) -> list[dict[str, object]]:
    """What `crmbridge calls` shows."""
    command = (COMMAND, "calls", "+972-3-300-4799", "--json", "--config", str(config))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT_S):
        out, _ = await process.communicate()
    rows: list[dict[str, object]] = json.loads(out)
    return rows


async def test_a_call_is_in_the_views(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh) -> None:
    config = await configure(tmp_path, pbx, crm, debugging(fresh.url))
    async with daemon(config) as bridge:
        await bridge.logged("ami.connected")
        await pbx.play(trace(CALL), speed=10)
        await bridge.logged("cdr.stored")
        assert fresh.sql(SHOWN) == ROW
        _, answer = await get(await bridge.port(), "/calls?number=033004799")
        assert [one["ext"] for one in answer["result"]] == ["777"]
        assert [one["ext"] for one in await listed(config)] == ["777"]
    assert bridge.process.returncode == 0
    assert not (tmp_path / "calls.db").exists()
    assert "geh" not in json.dumps(bridge.lines), "the password"


async def test_calls_are_kept_as_long_as_is_set(tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    lines = [line(n, started_at=now - timedelta(days=10 * n)) for n in range(1200)]
    lines = [one._replace(linkedid=f"x{n}") for n, one in enumerate(lines)]
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as calls:
        await calls.replace("pbx", by_call(lines))
    more = f"keep_calls_days = 25\n{debugging(fresh.url)}"
    async with daemon(await configure(tmp_path, pbx, crm, more)) as bridge:
        (pruned,) = await bridge.logged("calls.pruned")
        assert pruned["calls"] == 1197
    async with open_call_list(fresh.url, HISTORY.rows, HERE) as calls:
        assert (await calls.by_number(KEY)).rows == lines[:3]


async def test_a_database_that_is_away_keeps_no_popup_away_and_misses_no_call(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver
) -> None:
    port = mariadb.free_port()
    url = f"mysql+asyncmy://root@127.0.0.1:{port}/later"
    async with daemon(await configure(tmp_path, pbx, crm, debugging(url))) as bridge:
        (refused,) = await bridge.logged("store.refuses")
        assert "is not there: see that the server runs" in refused["reason"]
        await bridge.logged("ami.connected")
        await pbx.play(trace(CALL), speed=10)
        assert await targets(crm, 2) == [RING, ANSWER]
        await bridge.logged("cdr.not_stored")
        with mariadb.running(port=port) as server:
            server.run("CREATE DATABASE later")
            await bridge.logged("cdr.stored")
            assert server.run(f"USE later; {SHOWN}") == ROW
    assert bridge.process.returncode == 0


async def test_a_database_that_hangs_holds_up_no_popup(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    async with daemon(await configure(tmp_path, pbx, crm, debugging(fresh.url))) as bridge:
        await bridge.logged("ami.connected")
        with stopped(fresh.server):
            await pbx.play(trace(CALL), speed=10)
            assert await targets(crm, 2) == [RING, ANSWER]
            (refused,) = await bridge.logged("cdr.not_stored")
            assert "does not answer within 5 s" in refused["error"]
        await bridge.logged("cdr.stored")
        assert fresh.sql(SHOWN) == ROW
    assert bridge.process.returncode == 0


async def test_a_database_that_was_upgraded_too_far_holds_up_no_popup_and_says_what_to_do(
    tmp_path: Path, pbx: SimulatedPbx, crm: Receiver, fresh: Fresh
) -> None:
    last = migrating.last_version(SCHEMA, "cdrs", "dst")
    words = f"newer crmbridge (call_list version {last.version}, this one knows up to {SCHEMA.version}): upgrade this"
    config = await configure(tmp_path, pbx, crm, debugging(fresh.url))
    async with daemon(config) as bridge:  # at work meanwhile
        await bridge.logged("ami.connected")
        await (await opened(fresh.url, [last])).close()
        await pbx.play(trace(CALL), speed=10)
        assert await targets(crm, 2) == [RING, ANSWER]
        (refused,) = await bridge.logged("cdr.not_stored")
        assert words in refused["error"]
    async with daemon(config) as bridge:  # and begun after it
        (refused,) = await bridge.logged("store.refuses")
        assert words in refused["reason"]
        await bridge.logged("ami.connected")
        status, answer = await get(await bridge.port(), "/calls?number=033004799")
        assert (status, answer["error"]["code"]) == (503, "call_list_unavailable")

"""What is too old is forgotten, each kind by itself, in real SQLite files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.cdr_tables import HISTORY, KEY, record
from tests.integration.test_outbox import ring

from crmbridge.calls.events import State
from crmbridge.retention import Keeps, Retention
from crmbridge.store.call_list import CallList, open_call_list
from crmbridge.store.clicks import open_clicks
from crmbridge.store.engine import sqlite_url
from crmbridge.store.outbox import Outbox, open_outbox
from crmbridge.store.schema import StoreError

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
KEEPS = Keeps(days=180, outbox_bytes=2**30, calls_days=None, callbacks_live_s=3600, records_elsewhere={"pbx": True})


@dataclass
class Stores:
    outbox: Outbox
    calls: CallList
    keeps: Keeps
    retention: Retention

    async def left(self) -> tuple[int, int, int]:
        """Callbacks, calls and records."""
        known = await self.calls.known("pbx", NOW - timedelta(days=9999), NOW + timedelta(days=1))
        return len(await self.outbox.listing()), len((await self.calls.by_number(KEY)).rows), len(known)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    """A callback and a call of each of some days ago."""
    async with AsyncExitStack() as stack:
        outbox = await stack.enter_async_context(open_outbox(tmp_path / "outbox.db"))
        clicks = await stack.enter_async_context(open_clicks(tmp_path / "clicks.db"))
        calls = await stack.enter_async_context(open_call_list(sqlite_url(tmp_path / "calls.db"), HISTORY.rows, UTC))
        for days in (0, 6, 8, 200, 400):
            at = NOW - timedelta(days=days)
            (one,) = await outbox.add([ring(f"c{days}", at=at)])
            await outbox.expire([one.id])
            await calls.add([record(int(at.timestamp()), days)])
        made = Stores(outbox, calls, KEEPS, None)  # type: ignore[arg-type]  # in the next line
        made.retention = Retention(outbox=outbox, clicks=clicks, calls=calls, keeps=lambda: made.keeps)
        yield made


async def test_records_that_the_pbx_keeps_go_after_a_week_and_their_calls_stay(stores: Stores) -> None:
    with capture_logs() as lines:
        await stores.retention.once(NOW)
    assert await stores.left() == (3, 5, 2)
    assert [(line["event"], line.get("callbacks"), line.get("records")) for line in lines] == [
        ("outbox.pruned", 2, None),
        ("cdr.pruned", None, 3),
    ]
    with capture_logs() as lines:
        await stores.retention.once(NOW)
    assert lines == []


async def test_records_that_only_we_have_stay_as_long_as_their_calls(stores: Stores) -> None:
    stores.keeps = replace(KEEPS, records_elsewhere={"pbx": False})
    await stores.retention.once(NOW)
    assert await stores.left() == (3, 5, 5)
    stores.keeps = replace(stores.keeps, calls_days=300)
    await stores.retention.once(NOW)
    assert await stores.left() == (3, 4, 4)


async def test_what_refuses_is_told_once_and_hinders_no_other(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> int:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched, capture_logs() as lines:
        patched.setattr(stores.outbox, "prune", refuse)
        for _ in range(3):
            await stores.retention.once(NOW)
    assert [line["event"] for line in lines] == ["store.not_pruned", "cdr.pruned"]
    assert (lines[0]["what"], lines[0]["reason"]) == ("callbacks", "the disk is full")
    await stores.retention.once(NOW)
    assert await stores.left() == (3, 5, 2)
    assert {one.delivery.state for one in await stores.outbox.listing()} == {State.EXPIRED}

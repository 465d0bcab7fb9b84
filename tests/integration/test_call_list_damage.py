"""A call list in SQLite that is damaged while it is in use: set aside, begun anew, and what can be read goes on."""

# ruff: noqa: ASYNC240  # the files are small, and what is shown is what is in them
from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.test_call_list import BEGAN, HERE, HISTORY, KEY, by_call, line, record

from crmbridge.store.call_list import open_call_list
from crmbridge.store.engine import sqlite_url
from crmbridge.store.recovery import begin_anew
from crmbridge.store.schema import StoreError

LINES = 2000
PAGE = 4096


async def test_what_can_be_read_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "calls.db"
    lines = [line(n, linkedid=f"x{n}", started_at=BEGAN + timedelta(seconds=n)) for n in range(LINES)]
    async with open_call_list(sqlite_url(file), HISTORY.rows, HERE) as calls:
        await calls.replace("pbx", by_call(lines))
    pages = [at for at in range(0, file.stat().st_size, PAGE) if file.read_bytes()[at : at + PAGE].count(b"x10") > 5]
    with file.open("r+b") as opened:
        opened.seek(pages[0])
        opened.write(b"\xa5" * PAGE)
    async with open_call_list(sqlite_url(file), HISTORY.rows, HERE, recover=begin_anew, later=True) as calls:
        with pytest.raises(StoreError, match="is damaged: the daemon sets it aside and begins anew"):
            await calls.by_number(KEY, limit=LINES)
        with capture_logs() as logs:
            kept = len((await calls.by_number(KEY, limit=LINES)).rows)
        (said,) = logs
        assert said["event"] == "store.damaged_file_set_aside"
        assert LINES - 200 < kept < LINES
        assert await calls.add([record(1)]) == 1
        missing = await calls.replace("pbx", by_call(lines))
        assert missing == LINES - kept
        assert len((await calls.by_number(KEY, limit=LINES + 10)).rows) == LINES + 1
    assert [path.name for path in tmp_path.glob("calls.db.damaged-*Z")] == [Path(said["set_aside"]).name]

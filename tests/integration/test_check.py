"""`crmbridge check` on the links that the call list hangs on, one fault each: it names the fault and the mend."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.integration.conftest import Fresh
from tests.integration.test_bridge import output, write

from crmbridge.calls.history import CallRow
from crmbridge.store.call_list import open_call_list
from crmbridge.store.engine import sqlite_url

AT = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
ROW = CallRow("pbx", "1.1", "10", "777", "033004799", "+97233004799", AT, 7, "", incoming=True)


async def links(folder: Path, more: str) -> dict[str, tuple[bool, str]]:
    config = write(folder, ami_port=1, url="http://127.0.0.1:9/x", more=more)
    _, said = await output("check", "--json", "--config", str(config))
    return {link["link"]: (link["ok"], link["found"]) for link in json.loads(said)}


async def test_a_list_in_a_file(tmp_path: Path) -> None:
    assert (await links(tmp_path, ""))["call list"] == (True, f"none yet; it will be made in {tmp_path}")
    assert not (tmp_path / "calls.db").exists()
    async with open_call_list(sqlite_url(tmp_path / "calls.db"), lambda _: [], UTC) as calls:
        assert await calls.newest() is None
        await calls.replace("pbx", {"1.1": [ROW]})
    assert (await links(tmp_path, ""))["call list"] == (True, "its newest call is of 2026-11-23 10:00:00")
    (tmp_path / "calls.db").write_bytes(b"nonsense" * 1000)
    ok, found = (await links(tmp_path, ""))["call list"]
    assert not ok
    assert "no SQLite database" in found


@pytest.mark.needs("mariadb")
async def test_a_list_in_a_server(fresh: Fresh, tmp_path: Path) -> None:
    url = fresh.url
    good = f'url = "{url}"'
    assert (await links(tmp_path, good))["call list"] == (True, "no calls in it yet")
    for broken, says in (
        (url.replace(fresh.name, "nobody_made_it"), "nobody_made_it"),
        ("mysql+asyncmy://u:s3cret@127.0.0.1:9/x", "is not there"),
    ):
        ok, found = (await links(tmp_path, f'url = "{broken}"'))["call list"]
        assert not ok
        assert says in found
        assert "s3cret" not in found


async def test_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "monitor"
    setting = f'[cdr]\nrecordings_dir = "{folder}"'
    assert "recordings" not in await links(tmp_path, "")
    assert (await links(tmp_path, setting))["recordings"] == (False, f"{folder} is no folder: see cdr.recordings_dir")
    folder.mkdir()
    assert (await links(tmp_path, setting))["recordings"] == (True, f"{folder} can be read")

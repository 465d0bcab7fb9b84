"""`crmbridge story`: what became of a call, from what outbox, clicks and call list keep."""

# ruff: noqa: ASYNC240  # small files, between two awaits
from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_bridge import output, write
from tests.integration.test_outbox import AT, ring

from crmbridge.calls.clicks import Asked, News, Outcome
from crmbridge.calls.events import Attempt, CallEvent, Kind, State
from crmbridge.calls.history import CallRow
from crmbridge.calls.numbers import Numbers
from crmbridge.store.call_list import open_call_list
from crmbridge.store.clicks import open_clicks
from crmbridge.store.engine import sqlite_url
from crmbridge.store.outbox import open_outbox

CALL, OTHER, CLICK = "1795413177.274", "1795413999.1", "crm-1795413300.a244e6c880"
NUMBER = "033004799"


def event(kind: Kind, call: str, extension: str, after_s: float, number: str = NUMBER) -> CallEvent:
    return CallEvent(
        kind, "pbx", call, extension, number, "10", AT + timedelta(seconds=after_s), call, f"{call}.{kind}"
    )


def line(
    call: str, extension: str, after_s: float, talk_s: int, *, incoming: bool = True, filename: str = ""
) -> CallRow:
    key = Numbers(region="IL", form="national", anonymous="anonymous").same(NUMBER)
    began = AT + timedelta(seconds=after_s)
    return CallRow("pbx", call, "10", extension, NUMBER, key, began, talk_s, filename, incoming)


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """A caller, whom two phones ring for and one talks with; a click back to them; another call of theirs."""
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        events = [
            event(Kind.RING, CALL, "777", 0),
            event(Kind.RING, CALL, "778", 0.1),
            event(Kind.ANSWER, CALL, "777", 5),
        ]
        rings = await outbox.add([*events, event(Kind.RING, OTHER, "777", 900), ring("stranger", number="0501234567")])
        tried = AT + timedelta(seconds=0.2)
        await outbox.record(rings[0].id, Attempt(tried, 0.05, 500, "HTTP 500"), State.QUEUED, tried)
        await outbox.record(rings[0].id, Attempt(tried + timedelta(seconds=1), 0.031, 200, "success"), State.CONFIRMED)
        await outbox.record(rings[1].id, Attempt(tried, 0.02, 200, "no such extension"), State.REFUSED)
        await outbox.drop(rings[2].id, AT)
    async with open_clicks(tmp_path / "clicks.db") as clicks:
        at = AT + timedelta(seconds=60)
        asked = Asked(CLICK, at, "203.0.113.7", "crm", "10", "777", "03-300-4799", NUMBER, Outcome.IN_PROGRESS)
        refused = Asked("crm-1.b", at, "203.0.113.7", "crm", "10", "7", NUMBER, None, Outcome.REFUSED, "extension_not_allowed", "sExt is no extension")  # fmt: skip  # noqa: E501
        ended = News(CLICK, at + timedelta(seconds=30), Outcome.ANSWERED, talk_s=22)
        await clicks.write([asked, ended, refused])
    async with open_call_list(sqlite_url(tmp_path / "calls.db"), lambda _: [], AT.tzinfo) as calls:  # type: ignore[arg-type]  # UTC
        await calls.replace(
            "pbx", {CALL: [line(CALL, "777", 0, 7, filename="in-777.wav")], OTHER: [line(OTHER, "777", 900, 0)]}
        )
        await calls.replace("pbx", {CLICK: [line(CLICK, "777", 61, 22, incoming=False)]})
    return write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x")


async def told(config: Path, what: str) -> list[tuple[str, str, str]]:
    code, out = await output("story", what, "--json", "--config", str(config))
    assert code == 0
    entries: list[dict[str, Any]] = json.loads(out)
    assert entries == sorted(entries, key=lambda entry: entry["at"])
    return [(entry["source"], entry["extension"], entry["what"]) for entry in entries]


async def test_a_call_by_its_linkedid(config: Path) -> None:
    assert await told(config, CALL) == [
        ("callback", "777", "rings for the caller, ClientId 10: told"),
        ("call list", "777", "incoming, talked 7 s, ClientId 10, recorded as in-777.wav"),
        ("callback", "778", "rings for the caller, ClientId 10: refused by the CRM"),
        ("request", "778", "incomingCall: no such extension (20 ms)"),
        ("request", "777", "incomingCall: HTTP 500 (50 ms)"),
        ("request", "777", "incomingCall: success (31 ms)"),
        ("callback", "777", "talks with the caller, ClientId 10: dropped by hand"),
    ]


async def test_a_click_by_its_linkedid(config: Path) -> None:
    assert await told(config, CLICK) == [
        ("click", "777", "asked for by crm:203.0.113.7, ClientId 10"),
        ("call list", "777", "outgoing, talked 22 s, ClientId 10"),
        ("click", "777", "ended: answered, they talked 22 s"),
    ]


async def test_all_calls_with_a_number_in_any_spelling(config: Path) -> None:
    found = await told(config, "+972 3-300-4799")
    assert found == await told(config, NUMBER)
    assert len(found) == 13
    assert (
        "click",
        "7",
        "asked for by crm:203.0.113.7, ClientId 10: refused, extension_not_allowed: sExt is no extension",
    ) in found
    assert ("callback", "777", "rings for the caller, ClientId 10: waits to be told") in found
    code, table = await output("story", NUMBER, "--config", str(config))
    assert code == 0
    assert table.count(CALL) == 7
    assert "0501234567" not in table


async def test_a_call_that_nobody_knows(config: Path) -> None:
    assert await output("story", "1795413178.1", "--config", str(config)) == (0, "nothing is known of 1795413178.1\n")


async def test_a_call_list_that_is_away_keeps_nothing_else_back(config: Path) -> None:
    text = config.read_text()
    config.write_text(text.replace("[store]", '[store]\nurl = "mysql+asyncmy://u:s3cret@127.0.0.1:9/x"'))
    found = await told(config, CALL)
    assert len(found) == 6
    assert all(source != "call list" for source, _, _ in found)

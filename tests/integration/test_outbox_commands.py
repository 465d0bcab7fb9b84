"""`crmbridge outbox list|retry|drop` as support types them, beside no daemon."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_bridge import COMMAND, LIMIT_S, write
from tests.integration.test_outbox import AT, ATTEMPT, answer, ring

from crmbridge.calls.events import State
from crmbridge.store.outbox import open_outbox

STATES = [State.QUEUED, State.CONFIRMED, State.REFUSED, State.EXPIRED, State.EXPIRED]


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """An outbox with five calls an hour apart, ids 1 to 5, in the states above; the last to another phone."""
    async with open_outbox(tmp_path / "outbox.db") as outbox:
        calls = [ring(f"c{n}", at=AT + timedelta(hours=n), number=f"03300479{n}") for n in range(4)]
        added = await outbox.add([*calls, answer("c4", "778")])
        for one, state in zip(added, STATES, strict=True):
            if state is not State.QUEUED:
                await outbox.record(one.id, ATTEMPT, state)
    return write(tmp_path, ami_port=1, url="http://127.0.0.1:9/x")


async def outbox(config: Path, *arguments: str, keyboard: bytes | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors; with `keyboard`, at a terminal."""
    ours, theirs = pty.openpty() if keyboard is not None else (None, None)
    if ours is not None:
        os.write(ours, keyboard or b"")
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "outbox", *arguments, "--config", str(config)),
        stdin=asyncio.subprocess.DEVNULL if theirs is None else theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            out, errors = await process.communicate()
    finally:
        for end in (ours, theirs):
            if end is not None:
                os.close(end)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def listed(config: Path, *arguments: str) -> list[dict[str, Any]]:
    code, out, _ = await outbox(config, "list", "--json", *arguments)
    assert code == 0
    rows: list[dict[str, Any]] = json.loads(out)
    return rows


async def states(config: Path, *arguments: str) -> dict[int, str]:
    return {row["id"]: row["state"] for row in await listed(config, *arguments)}


def local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%dT%H:%M:%S}"


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ([], [5, 4, 3, 2, 1]),
        (["--limit", "2"], [5, 4]),
        (["--state", "expired"], [5, 4]),
        (["--ext", "778"], [5]),
        (["--number", "033004792"], [3]),
        (["--call", "c3"], [4]),
        (["--since", local(AT + timedelta(hours=1)), "--until", local(AT + timedelta(hours=3))], [3, 2]),
        (["--state", "expired", "--ext", "777"], [4]),
        (["--dropped"], []),
    ],
)
async def test_list_narrows_down(config: Path, arguments: list[str], ids: list[int]) -> None:
    assert [row["id"] for row in await listed(config, *arguments)] == ids


async def test_list_is_a_table_for_people(config: Path) -> None:
    code, out, _ = await outbox(config, "list", "--state", "refused")
    assert code == 0
    assert "033004792" in out
    assert "HTTP 500: oops" in out
    assert "033004791" not in out
    assert (await outbox(config, "list", "--ext", "999"))[1] == "no callbacks\n"


async def test_retry_by_a_filter_takes_what_can_be_sent_again_and_says_how_many(config: Path) -> None:
    code, out, _ = await outbox(config, "retry", "--since", "2024-01-01", "--yes")
    assert (code, out) == (0, "3 queued again\n")
    assert await states(config) == {1: "queued", 2: "confirmed", 3: "queued", 4: "queued", 5: "queued"}


async def test_drop_by_a_filter_and_back_again(config: Path) -> None:
    assert (await outbox(config, "drop", "--state", "expired", "--yes"))[:2] == (0, "2 dropped\n")
    assert await states(config) == {1: "queued", 2: "confirmed", 3: "refused"}
    assert await states(config, "--dropped") == {4: "expired", 5: "expired"}
    assert (await outbox(config, "retry", "--dropped", "--ext", "778", "--yes"))[:2] == (0, "1 queued again\n")
    assert (await states(config))[5] == "queued"


async def test_without_a_terminal_nothing_is_done_to_many_unasked(config: Path) -> None:
    code, out, errors = await outbox(config, "drop", "--ext", "777")
    assert (code, out) == (1, "")
    assert errors == "crmbridge: 4 callbacks would be dropped; nothing was done: say --yes\n"
    assert len(await listed(config)) == 5


@pytest.mark.parametrize(("keyboard", "code", "left"), [(b"n\n", 1, 5), (b"\n", 1, 5), (b"y\n", 0, 3)])
async def test_at_a_terminal_it_asks_and_says_how_many(config: Path, keyboard: bytes, code: int, left: int) -> None:
    ended, _, errors = await outbox(config, "drop", "--state", "expired", keyboard=keyboard)
    assert ended == code
    assert "2 callbacks will be dropped. Go on?" in errors
    assert len(await listed(config)) == left


async def test_ids_need_no_question_and_each_that_is_none_is_named(config: Path) -> None:
    code, out, errors = await outbox(config, "retry", "3", "4", "2", "99")
    assert (code, out) == (1, "2 queued again\n")
    assert "no callback to do that with: 2, 99 (see `crmbridge outbox list`)" in errors
    assert (await outbox(config, "drop", "3"))[:2] == (0, "1 dropped\n")


@pytest.mark.parametrize("arguments", [["retry"], ["drop"], ["drop", "1", "--ext", "777"]])
async def test_either_ids_or_a_filter(config: Path, arguments: list[str]) -> None:
    code, _, errors = await outbox(config, *arguments)
    assert code == 2
    assert "either ids or a filter" in errors
    assert len(await listed(config)) == 5


async def test_a_filter_that_finds_nothing_does_nothing(config: Path) -> None:
    assert (await outbox(config, "retry", "--ext", "999"))[:2] == (0, "no callbacks\n")


async def test_a_damaged_outbox_is_named_and_left_to_the_daemon(config: Path) -> None:
    file = config.with_name("outbox.db")
    file.write_text("no database " * 500)
    code, _, errors = await outbox(config, "list")
    assert code == 74
    assert errors.startswith(f"crmbridge: {file} is no SQLite database")
    assert "begins anew" in errors

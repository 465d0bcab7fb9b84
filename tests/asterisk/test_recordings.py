"""Recordings that a real Asterisk makes, from its record to the sound: while the call goes on, and when it is over."""

# ruff: noqa: ASYNC240  # small files
from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.asterisk.lab.bridge import COMMAND, ask, configured, fetched, started
from tests.asterisk.lab.pbx import SIP, Pbx
from tests.asterisk.lab.phone import Phone, Plan

pytestmark = pytest.mark.needs("asterisk")

LIMIT_S = 30
PICK_UP = Plan(ring=None, after_s=0)
HEADER = 44


def said(wav: bytes) -> tuple[int, int]:
    """What a header says: bytes behind its first eight, and bytes of sound."""
    assert wav[:4] == b"RIFF"
    assert wav[8:16] == b"WAVEfmt "
    assert wav[36:40] == b"data"
    return struct.unpack_from("<I", wav, 4)[0], struct.unpack_from("<I", wav, 40)[0]


async def until_recorded(pbx: Pbx, name: str, size: int) -> bytes:
    """The recording as it is served, once it has so many bytes."""
    while True:
        status, body = await fetched(pbx.network, f"/recordings/{name}")
        if status == 200 and len(body) >= size:
            return body
        assert status in {200, 404}
        await asyncio.sleep(0.05)


async def listed(pbx: Pbx, number: str) -> list[dict[str, Any]]:
    while True:
        _, answer = await ask(pbx.network, f"/calls?number={number}")
        if answer["result"]:
            lines: list[dict[str, Any]] = answer["result"]
            return lines
        await asyncio.sleep(0.05)


async def test_a_recording_while_it_grows_and_when_it_is_whole(pbx: Pbx, tmp_path: Path) -> None:
    monitor = Path(f"/proc/{pbx.pid}/root/var/spool/asterisk/monitor")
    before = set(monitor.iterdir()) if monitor.exists() else set()
    config = configured(tmp_path)
    config.write_text(f'{config.read_text()}\n[cdr]\nrecordings_dir = "{monitor}"\n')
    async with (
        asyncio.timeout(LIMIT_S),
        started(pbx.network.command(COMMAND, "run", "--config", str(config))),
        Phone(pbx.network, "127.0.0.77", "777", pbx=SIP) as agent,
        Phone(pbx.network, "127.0.0.2", "trunk", pbx=SIP) as trunk,
    ):
        agent.plan = PICK_UP
        customer = trunk.dial("0723456777", caller="033004799")
        ringing = await agent.called()
        await asyncio.gather(ringing.audio.until_hears(customer.audio), customer.audio.until_hears(ringing.audio))
        while not (new := set(monitor.iterdir()) - before):  # noqa: ASYNC110  # another's folder sets no event
            await asyncio.sleep(0.05)
        (file,) = new
        growing = await until_recorded(pbx, file.name, 16_000)
        as_written = file.read_bytes()[:HEADER]
        assert said(as_written) == (0, 0), "so a header needs mending while a recording grows"
        assert said(growing) == (len(growing) - 8, len(growing) - HEADER)
        await customer.hang_up()
        await ringing.until_over()
        (line,) = await listed(pbx, "033004799")
        assert line["filename"] == file.name
        status, whole = await fetched(pbx.network, line["link"], password="")
        assert status == 200
        assert whole == file.read_bytes()
        assert said(whole) == (len(whole) - 8, len(whole) - HEADER), "and none when it is whole"
        assert whole.startswith(growing[HEADER:], HEADER)

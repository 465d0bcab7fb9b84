"""`crmbridge record`, the installed command, against a simulated PBX: what is in the file, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.integration.test_bridge import COMMAND, LIMIT_S, output, trace, write

from crmbridge.demo.simulated_pbx import SimulatedPbx

CALL = trace("01_did_to_ext_answered")


@asynccontextmanager
async def recording(config: Path, file: Path, *options: str) -> AsyncIterator[Process]:
    arguments = ("record", "--config", str(config), str(file), *options)
    process = await asyncio.create_subprocess_exec(COMMAND, *arguments, stderr=PIPE)
    try:
        async with asyncio.timeout(LIMIT_S):
            yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line(process: Process) -> str:
    assert process.stderr is not None
    return (await process.stderr.readline()).decode()


async def until_holds(file: Path, what: bytes) -> None:
    async with asyncio.timeout(LIMIT_S):
        while what not in file.read_bytes():  # noqa: ASYNC110, ASYNC240  # a file has no event
            await asyncio.sleep(0.05)


async def replayed(file: Path) -> list[tuple[str, str, str]]:
    code, said = await output("replay", str(file))
    assert code == 0
    told = [json.loads(one) for one in said.splitlines()]
    return [(one["operation"], one["sExt"], one["sNumber"]) for one in told]


@pytest.mark.parametrize("anonymous", [False, True])
async def test_a_recorded_call_is_replayed(pbx: SimulatedPbx, tmp_path: Path, anonymous: bool) -> None:
    config, file = write(tmp_path, ami_port=pbx.port, url="http://127.0.0.1:9/x"), tmp_path / "call.ami"
    async with recording(config, file, *(["--anonymize"] if anonymous else [])) as process:
        assert await line(process) == "recording; place the call, Ctrl-C ends it\n"
        await pbx.play(CALL, speed=1000)
        await until_holds(file, b"Event: Hangup\r\n")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    raw = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"s3cret" not in raw
    assert b"Event: CoreShowChannelsComplete" in raw
    told = await replayed(file)
    assert [one[:2] for one in told] == [one[:2] for one in CALL.expected]
    if anonymous:
        assert not {number for *_, number in told} & {number for *_, number in CALL.expected}
    else:
        assert tuple(told) == CALL.expected


async def test_what_is_there_already_is_not_overwritten(pbx: SimulatedPbx, tmp_path: Path) -> None:
    config, file = write(tmp_path, ami_port=pbx.port, url="http://127.0.0.1:9/x"), tmp_path / "call.ami"
    file.write_bytes(b"precious")
    async with recording(config, file) as process:
        assert "is there already" in await line(process)
        assert await process.wait() == 74
    assert file.read_bytes() == b"precious"


def recordings(folder: Path) -> list[Path]:
    return list(folder.glob("*.ami"))


async def test_a_refused_login_and_an_asterisk_that_is_away_are_told(pbx: SimulatedPbx, tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/x"
    wrong = write(tmp_path, ami_port=pbx.port, url=url, secret="wrong")
    async with recording(wrong, tmp_path / "one.ami") as process:
        assert "refuses the AMI login" in await line(process)
        assert await process.wait() == 69
    away = write(tmp_path, ami_port=1, url=url)
    async with recording(away, tmp_path / "two.ami") as process:
        assert "connection refused" in await line(process)
        assert await process.wait() == 69
    assert not recordings(tmp_path), "the next try must not stumble over a file of no use"


async def test_a_connection_that_ends_is_told_and_what_came_is_kept(pbx: SimulatedPbx, tmp_path: Path) -> None:
    config, file = write(tmp_path, ami_port=pbx.port, url="http://127.0.0.1:9/x"), tmp_path / "call.ami"
    async with recording(config, file) as process:
        await line(process)
        await until_holds(file, b"CoreShowChannelsComplete")
        pbx.cut()
        assert "connection to Asterisk was lost" in await line(process)
        assert await process.wait() == 69
    assert b"CoreShowChannelsComplete" in file.read_bytes()

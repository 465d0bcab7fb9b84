"""`crmbridge record` on a live Asterisk: a call is recorded, and its recording replayed."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

import pytest
from tests.asterisk.lab.pbx import SECRET, Pbx
from tests.asterisk.lab.stage import perform
from tests.asterisk.scenarios import SCENARIOS
from tests.integration.test_bridge import COMMAND, LIMIT_S, output, write

pytestmark = pytest.mark.needs("asterisk")


@pytest.mark.parametrize("options", [(), ("--anonymize",)])
async def test_a_call_is_recorded_and_replayed(pbx: Pbx, tmp_path: Path, options: tuple[str, ...]) -> None:
    config = write(tmp_path, ami_port=5038, url="http://127.0.0.1:9/x", secret=SECRET)
    file = tmp_path / "call.ami"
    command = pbx.network.command(COMMAND, "record", "--config", str(config), str(file), *options)
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE)
    try:
        async with asyncio.timeout(LIMIT_S):
            assert process.stderr is not None
            assert (await process.stderr.readline()).startswith(b"recording; place the call")
            recorded = await perform(pbx, SCENARIOS["did_answered"])
            while file.read_bytes().count(b"Event: Hangup\r\n") < 2:  # noqa: ASYNC110  # a file has no event
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    code, said = await output("replay", "--config", str(config), str(file))
    told = [json.loads(one) for one in said.splitlines()]
    assert code == 0
    assert [(one["operation"], one["sExt"]) for one in told] == [(one.operation, one.ext) for one in recorded.expected]
    is_as_it_was = [one["sNumber"] for one in told] == [one.number for one in recorded.expected]
    assert is_as_it_was == (not options)
    assert SECRET.encode() not in file.read_bytes()

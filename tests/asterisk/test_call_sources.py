"""The bridge with a CDR table, and with a file, behind a real Asterisk: what ends before it runs, while it runs, and
while the database hangs is in the call list, and no popup waits for any of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab import sipp
from tests.asterisk.lab.bridge import ANSWER, COMMAND, CRM, RING, Bridge, ask, configured, started
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.test_record_files import by_odbc, inside, with_odbc

from crmbridge.demo.receiver import Receiver

pytestmark = pytest.mark.needs("asterisk", "mariadb", "sipp")

LIMIT_S = 120
FILE = "/var/log/asterisk/cdr-custom/crmbridge.csv"
TABLE = "mysql+asyncmy://crmbridge:REPLACE-ME-TOO@127.0.0.1/asteriskcdrdb"

assert with_odbc is not None  # a fixture


@asynccontextmanager
async def running(pbx: Pbx, folder: Path, source: str) -> AsyncIterator[tuple[Bridge, Receiver]]:
    async with Receiver() as receiver:
        await receiver.start(sock=pbx.network.bound(CRM))
        command = pbx.network.command(COMMAND, "run", "--config", str(configured(folder)))
        environment = {"CRMBRIDGE_CDR__SOURCE": source, "CRMBRIDGE_CDR__TIMEZONE": "UTC"}
        async with started(command, environment) as bridge:
            yield bridge, receiver


async def a_call(network: Network, folder: Path) -> None:
    """033004799 calls the number of 777, who answers; then the caller hangs up."""
    async with (
        sipp.answering(network, "127.0.0.77", ring_s=0.2, folder=folder) as phone,
        sipp.calling(network, "0723456777", caller="033004799", talk_s=1.2, folder=folder) as caller,
    ):
        await asyncio.gather(caller.done(), phone.done())


async def listed(network: Network, calls: int) -> None:
    """Wait until the call list has so many calls, each once and whole."""
    while True:
        status, answer = await ask(network, "/calls?number=033004799")
        assert status == 200
        assert len(answer["result"]) <= calls
        if len(answer["result"]) == calls:
            break
        await asyncio.sleep(0.05)
    for call in answer["result"]:
        assert (call["ext"], call["incoming"]) == ("777", True)
        assert call["duration"] >= 1
        assert call["filename"].startswith("in-0723456777-")


async def test_a_table(root: tuple[str, Path], with_odbc: Path, tmp_path: Path) -> None:
    with by_odbc(root, with_odbc) as (pbx, database):
        async with asyncio.timeout(LIMIT_S):
            await a_call(pbx.network, tmp_path)
            async with running(pbx, tmp_path, TABLE) as (bridge, crm):
                await listed(pbx.network, 1)
                await a_call(pbx.network, tmp_path)
                await listed(pbx.network, 2)
                assert crm.targets == [RING, ANSWER]
                server = int(Path(database.run("SELECT @@pid_file").splitlines()[1]).read_text())  # noqa: ASYNC240
                os.kill(server, signal.SIGSTOP)
                try:
                    await a_call(pbx.network, tmp_path)
                    await crm.wait_for(4)
                    assert crm.targets == [RING, ANSWER] * 2, "no popup waits for it"
                finally:
                    os.kill(server, signal.SIGCONT)
                await listed(pbx.network, 3)
            assert bridge.process.returncode == 0
            assert "REPLACE-ME-TOO" not in "".join(bridge.lines)


async def test_a_file(root: tuple[str, Path], tmp_path: Path) -> None:
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network) as pbx:
        pbx.cli("module load cdr_custom.so")
        file = inside(pbx, FILE)
        async with asyncio.timeout(LIMIT_S):
            await a_call(network, tmp_path)
            async with running(pbx, tmp_path, str(file)):
                await listed(network, 1)
                await a_call(network, tmp_path)
                await listed(network, 2)
            await a_call(network, tmp_path)
            shutil.move(file, f"{file}.1")
            await a_call(network, tmp_path)
            async with running(pbx, tmp_path, str(file)) as (bridge, _):
                await listed(network, 4)
                assert not bridge.count("cdr.follows"), "it goes on where it was"

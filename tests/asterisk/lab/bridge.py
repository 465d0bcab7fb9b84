"""The bridge as it is installed and run, in a PBX's network, and a receiver there that plays the CRM."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from tests.asterisk.lab.changes import Changes
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import AMI, SECRET, USER

COMMAND = str(Path(sys.executable).with_name("crmbridge"))
CRM = ("127.0.0.3", 8080)
HTTP = ("127.0.0.1", 6560)
PASSWORD = "lab-password-of-the-crm"
RING = "/webservice.php?operation=incomingCall&sExt=777&sNumber=033004799&ClientId=10"
ANSWER = "/webservice.php?operation=incomingCallAnswered&sExt=777&sNumber=033004799&ClientId=10"


class Bridge:
    """A running `crmbridge run`, and what it logs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.times: list[float] = []
        """When each line came, on the event loop's clock."""
        self._changes = Changes()

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            self.times.append(asyncio.get_running_loop().time())
            self._changes.notify()
        self._changes.notify()

    def count(self, event: str) -> int:
        return sum(json.loads(line)["event"] == event for line in self.lines if line.startswith("{"))

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until this is so, or it has ended; looked at with each line that it logs."""
        await self._changes.until(lambda: is_so() or self.process.returncode is not None)

    async def logged(self, event: str, times: int = 1) -> None:
        """Wait until it has logged an event so often."""
        await self.until(lambda: self.count(event) >= times)
        assert self.count(event) >= times, "".join(self.lines)


def configured(
    folder: Path,
    *,
    ami: tuple[str, int] = AMI,
    crm: tuple[str, int] = CRM,
    http: tuple[str, int] = HTTP,
    pbxes: str = "",
) -> Path:
    """The settings of a bridge in the lab, its state in this folder. `pbxes`: sections in place of `ami`."""
    config = folder / "config.toml"
    short = f"""
        [ami]
        host = "{ami[0]}"
        port = {ami[1]}
        username = "{USER}"
        secret = "{SECRET}"
    """
    config.write_text(
        f"""
        [crm]
        url = "http://{crm[0]}:{crm[1]}/webservice.php"
        client_id = 10
        {pbxes or short}
        [http]
        listen = "{http[0]}:{http[1]}"
        username = "crm"
        password = "{PASSWORD}"
        [store]
        state_dir = "{folder}"
        [log]
        level = "debug"
        format = "json"
        """
    )
    return config


@asynccontextmanager
async def bridge(
    network: Network,
    folder: Path,
    *,
    ami: tuple[str, int] = AMI,
    crm: tuple[str, int] = CRM,
    http: tuple[str, int] = HTTP,
) -> AsyncIterator[Bridge]:
    """The bridge, connected and listening; ended as systemd would."""
    config = configured(folder, ami=ami, crm=crm, http=http)
    async with started(network.command(COMMAND, "run", "--config", str(config))) as running:
        yield running


@asynccontextmanager
async def started(command: list[str], env: Mapping[str, str] | None = None, *, pbxes: int = 1) -> AsyncIterator[Bridge]:
    """The bridge that this command runs, connected with so many PBXes and listening; ended as systemd would."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    running = Bridge(process)
    reading = asyncio.create_task(running.read())
    try:
        await running.logged("ami.connected", times=pbxes)
        await running.logged("http.listening")
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def ask(network: Network, path: str, *, password: str = PASSWORD) -> tuple[int, Any]:
    """The CRM's question, from within the PBX's network."""
    status, body = await fetched(network, path, password=password)
    return status, json.loads(body)


async def fetched(network: Network, path: str, *, password: str = PASSWORD) -> tuple[int, bytes]:
    """The same for what is no JSON; without a password nobody is named."""
    connector = aiohttp.TCPConnector(socket_factory=lambda address: network.new_socket(address[0], address[1]))
    headers = {"Authorization": aiohttp.encode_basic_auth("crm", password)} if password else {}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.get(f"http://{HTTP[0]}:{HTTP[1]}{path}") as answer,
    ):
        return answer.status, await answer.read()

"""The whole bridge in a thread of its own, as `crmbridge run` runs it, for tests that hold their sockets by hand."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from tests.integration.test_bridge import write

from crmbridge import app, config
from crmbridge.demo.simulated_pbx import SimulatedPbx

LIMIT_S = 20


class BridgeThread:
    """A bridge between a simulated PBX and a CRM that is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self._listening.getsockname()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def configured(self, ami_port: int) -> Path:
        """Write the settings."""
        return write(self.folder, ami_port=ami_port, url="http://127.0.0.1:1/")

    @asynccontextmanager
    async def way_to(self, ami_port: int) -> AsyncIterator[int]:
        """A port that leads to the PBX's; here just that."""
        yield ami_port

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        pbx = SimulatedPbx(username="crmbridge", secret="s3cret")
        await pbx.start()
        async with self.way_to(pbx.port) as port:
            settings = config.load(self.configured(port))
            bridge = asyncio.create_task(app.run(settings, self._stop, http=self._listening))
            await asyncio.wait([bridge, asyncio.create_task(pbx.logged_in())], return_when=asyncio.FIRST_COMPLETED)
            self._ready.set()
            await bridge
        await pbx.stop()

    def raw(self, request: bytes, source: str = "127.0.0.1") -> bytes:
        """Send bytes from an address, and read until the other end closes."""
        with socket.create_connection(self.address, LIMIT_S, (source, 0)) as stream:
            try:
                stream.sendall(request)
                return b"".join(iter(lambda: stream.recv(65536), b""))
            except (ConnectionResetError, BrokenPipeError):
                return b""

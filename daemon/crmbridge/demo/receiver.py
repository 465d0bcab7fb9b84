"""A receiver that plays the CRM: it notes every callback as it came, and misbehaves on request.

For the demo and for tests, over a real socket. It must not know who calls it or why.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

SUCCESS = b'{"success":true,"result":[]}'
"""The CRM's answer, to the byte (client's questionnaire)."""

PATH = "/webservice.php"


class Manner(Enum):
    """How a request is treated."""

    ANSWER = "answer"
    NEVER = "never"
    """Take the request and never answer."""
    ABORT = "abort"
    """Cut the connection without an answer."""
    ENDLESS = "endless"
    """Answer, and never stop."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request gets."""

    status: int = 200
    body: bytes = SUCCESS
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    manner: Manner = Manner.ANSWER
    hold: asyncio.Event | None = None
    """Answer only when this is set."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request, as it came."""

    target: str
    """The request line's target, to the byte: `/webservice.php?operation=…`."""
    at: datetime
    """Aware UTC."""
    headers: Mapping[str, str]

    @property
    def idempotency_key(self) -> str:
        """The header of that name; empty when there was none."""
        return self.headers.get("Idempotency-Key", "")

    def __getitem__(self, parameter: str) -> str:
        """A parameter's decoded value, such as `sExt`. Raises KeyError."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)[parameter][0]


class Receiver:
    """Start it, give its URL to a bridge, and read `received`."""

    def __init__(self, on_callback: Callable[[Received], None] | None = None) -> None:
        """`on_callback` hears of each request as it comes, before it is answered."""
        self.received: list[Received] = []
        self.default = Reply()
        """What a request gets when nothing is scripted."""
        self.most_at_once = 0
        """The highest number of requests that were under way at the same time."""
        self._on_callback = on_callback
        self._script: deque[Reply] = deque()
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()
        self._under_way = 0
        self._runner: web.AppRunner | None = None

    @property
    def targets(self) -> list[str]:
        """The request targets alone."""
        return [each.target for each in self.received]

    def script(self, *replies: Reply) -> None:
        """The next requests get these, in this order; those after them get `default`."""
        self._script.extend(replies)

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        sock: socket.socket | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> str:
        """Listen, and return the URL to send callbacks to.

        A given `sock` is bound already, and may live in another network namespace; it is closed with the receiver.
        """
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site: web.BaseSite
        if sock is not None:
            site = web.SockSite(self._runner, sock, ssl_context=ssl_context)
        else:
            site = web.TCPSite(self._runner, host, port, ssl_context=ssl_context)
        await site.start()
        bound_host, bound_port = self._runner.addresses[0][:2]
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        return f"{'https' if ssl_context else 'http'}://{shown}:{bound_port}{PATH}"

    async def close(self) -> None:
        """Let go of all requests and stop listening."""
        self._closing.set()
        if self._runner:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        """Not listening yet: `start` says where."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def wait_for(self, count: int) -> list[Received]:
        """Return what was received once it is at least `count` requests. Waits without limit."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        received = Received(request.raw_path, datetime.now(UTC), dict(request.headers))
        reply = self._script.popleft() if self._script else self.default
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            await self._note(received)
            return await self._reply(request, reply)
        finally:
            self._under_way -= 1

    async def _note(self, received: Received) -> None:
        async with self._changed:
            self.received.append(received)
            self._changed.notify_all()
        if self._on_callback:
            self._on_callback(received)

    async def _reply(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        if reply.hold:
            await self._either(reply.hold)
        match reply.manner:
            case Manner.NEVER:
                await self._closing.wait()
            case Manner.ABORT:
                if request.transport:
                    request.transport.abort()
            case Manner.ENDLESS:
                return await self._endless(request, reply)
            case Manner.ANSWER:
                pass
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    async def _either(self, hold: asyncio.Event) -> None:
        """Wait for `hold`, but not longer than the receiver lives."""
        waits = [asyncio.create_task(each.wait()) for each in (hold, self._closing)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _endless(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        await response.prepare(request)
        while not self._closing.is_set():
            try:
                await response.write(b" " * 16384)
            except ConnectionError:
                break
        return response

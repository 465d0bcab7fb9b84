"""A CRM that misbehaves on request, at one address, and notes what it took and what it let fail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web
from tests.asterisk.faults.judge import Request
from tests.asterisk.faults.surroundings import Place

from crmbridge.demo.receiver import SUCCESS, Manner, Receiver, Reply

PORT = 8443


class _Noting(Receiver):
    """A receiver that knows which requests it took."""

    def __init__(self, note: Callable[[Request], None], delay_s: Callable[[], float]) -> None:
        super().__init__()
        self._note_request, self._delay_s = note, delay_s

    async def _reply(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key", "")
        at = asyncio.get_running_loop().time()
        one = Request(request.query["sNumber"], request.query["operation"], key, at, accepted=False)
        self._note_request(one)
        if delay_s := self._delay_s():
            await asyncio.sleep(delay_s)
        answer = await super()._reply(request, reply)
        is_there = request.transport is not None and not request.transport.is_closing()
        one.accepted = is_there and reply.manner is Manner.ANSWER and (reply.status, reply.body) == (200, SUCCESS)
        return answer


class FaultyCrm:
    """Open it, and shut it or change its `reply` meanwhile. `requests` are those of its whole life."""

    def __init__(self, place: Place, host: str) -> None:
        self._place, self._host = place, host
        self._receiver: _Noting | None = None
        self.address: tuple[str, int] | None = None
        self.requests: list[Request] = []
        self.reply = Reply()
        self.delay_s = 0.0
        """How long it thinks before it replies."""

    async def open(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen, at the same address as before."""
        place = self._place
        sock = place.again(self.address) if self.address else place.bound(self._host, PORT)
        self.address = sock.getsockname()[:2]
        self._receiver = _Noting(self.requests.append, lambda: self.delay_s)
        self._receiver.default = self.reply
        await self._receiver.start(sock=sock, ssl_context=tls)

    def behave(self, reply: Reply) -> None:
        """Reply like this from now on."""
        self.reply = reply
        if self._receiver is not None:
            self._receiver.default = reply

    async def shut(self) -> None:
        """Listen no more, and end all connections."""
        if self._receiver is not None:
            await self._receiver.close()
            self._receiver = None

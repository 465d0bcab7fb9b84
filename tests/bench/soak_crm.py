"""A CRM that counts: what is due, what was told, and what was told that was not due. Cheap: many requests a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count

from crmbridge.demo.receiver import PATH, SUCCESS
from crmbridge.demo.traces import Told

REFUSED = b'{"success":false,"error":{"code":"NOT_HERE","message":"no such extension"}}'
FAIL_EVERY = 1000
"""Of so many requests one is answered with 503: the callback must come again."""
REFUSE_EVERY = 500
"""Of so many requests one is refused for good."""
_RING, _ANSWER = "operation=incomingCall&", "operation=incomingCallAnswered&"


class Crm:
    """Takes callbacks over HTTP."""

    def __init__(self) -> None:
        self.due: set[str] = set()
        """Request targets that must come yet."""
        self.told = self.refused = self.failed = 0
        self.doubled: list[str] = []
        self.out_of_order: list[str] = []
        self._requests = count(1)
        self._waiter: tuple[int, asyncio.Future[None]] | None = None

    def expect(self, told: Iterable[Told]) -> None:
        """These are due. Raises ValueError where one of them is due already: it could not be told from the other."""
        for operation, extension, number in told:
            target = f"{PATH}?operation={operation}&sExt={extension}&sNumber={number}&ClientId=10"
            if target in self.due:
                raise ValueError(f"{target} is due twice")
            self.due.add(target)

    async def at_most(self, due: int) -> None:
        """Wait until no more than so many are due."""
        if len(self.due) > due:
            self._waiter = (due, asyncio.get_running_loop().create_future())
            await self._waiter[1]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen on loopback; the URL to send callbacks to."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"

    def answer(self, target: str) -> bytes:
        """Take one request."""
        number = next(self._requests)
        if number % FAIL_EVERY == 0:
            self.failed += 1
            return _answer(b"503 Service Unavailable", b"busy")
        self._note(target)
        if number % REFUSE_EVERY == REFUSE_EVERY // 2:
            self.refused += 1
            return _answer(b"200 OK", REFUSED)
        return _answer(b"200 OK", SUCCESS)

    def _note(self, target: str) -> None:
        if target not in self.due:
            self.doubled.append(target)
            return
        self.due.remove(target)
        self.told += 1
        if _ANSWER in target and target.replace(_ANSWER, _RING) in self.due:
            self.out_of_order.append(target)
        if self._waiter is not None and len(self.due) <= self._waiter[0]:
            waiter, self._waiter = self._waiter[1], None
            if not waiter.done():
                waiter.set_result(None)


class _Connection(asyncio.Protocol):
    """One connection, kept alive. Requests have no body."""

    def __init__(self, crm: Crm) -> None:
        self._crm = crm
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._crm.answer(request.split(b" ", 2)[1].decode()))


def _answer(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)

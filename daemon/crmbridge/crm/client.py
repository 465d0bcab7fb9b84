"""One request to the CRM and what came of it. The only module that speaks HTTP to the CRM.

It must not know when or how often a callback is sent. Nothing that the CRM or the network does raises out of `send`:
whatever goes wrong becomes a verdict with a reason that an administrator can act on. The CRM's address never appears in
a reason as it stands in the settings, since it may hold a password.
"""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Self

import aiohttp
import yarl

from crmbridge import __version__
from crmbridge.calls.events import CallEvent
from crmbridge.crm.callback import Answer, Verdict, check_url, idempotency_key, judge, printable, request_url
from crmbridge.crm.resolver import Resolver

ANSWER_LIMIT_BYTES = 64 * 1024
"""The CRM's answer is some 30 bytes; a PHP error page fits in this."""

CONNECT_TIMEOUT_S = 5.0
"""DNS, TCP and TLS together; more than this and nobody would look at the popup any more."""

IDLE_CONNECTION_S = 4.0
"""A connection is kept for the next callback for so long: a TLS handshake costs more than the callback itself. Less
than Apache's KeepAliveTimeout of 5 s, so that a callback isn't sent into a connection that is just being closed."""


DEAD_S = 2.0
"""Where another bridge may have a better line to the CRM: for so long it may leave unanswered that we connect, or
unacknowledged what we send. A CRM that is slow, but there, acknowledges at once."""


class NotAllowedError(Exception):
    """The request was not sent: when its turn came, it might not be any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request."""

    verdict: Verdict
    status: int | None = None
    """HTTP status; None when there was no answer."""
    retry_after: str | None = None
    """The header as it came, where the CRM as a whole asks to be left alone (429, 503)."""
    date: str | None = None
    """The header as it came: what the CRM's clock says."""


class CrmClient:
    """Keeps connections to the CRM. To be made and used within a running event loop, and closed."""

    def __init__(
        self,
        url: str,
        timeout_s: float,
        ssl_context: ssl.SSLContext | None,
        connections: int,
        *,
        dead_s: float | None = None,
    ) -> None:
        """`timeout_s` is for the whole request. Without `ssl_context`, the system's certificates are trusted.

        `dead_s`: after so long without a sign from the CRM's machine the line counts as dead. Raises ValueError when
        `url` can't be used.
        """
        check_url(url)
        self._url = url
        self._timeout_s = timeout_s
        self._connect_s = min(dead_s or CONNECT_TIMEOUT_S, timeout_s)
        self._server = yarl.URL(url).host or ""
        self._connector = aiohttp.TCPConnector(
            limit=connections,
            ssl=ssl_context or True,
            keepalive_timeout=IDLE_CONNECTION_S,
            resolver=Resolver(),
            socket_factory=_watched(dead_s) if dead_s is not None else None,
        )
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            # Nothing that one answer sets may change the next request.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_s, connect=self._connect_s),
            headers={
                "User-Agent": f"crmbridge/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            # A small compressed answer can unfold into gigabytes: _unpacked() does it within limits.
            auto_decompress=False,
            trace_configs=[_asking()] if dead_s is not None else None,
        )
        # aiohttp would send a GET again, by itself and at once, when the connection breaks: every request here is
        # counted, recorded and followed by a pause instead. There is no public switch.
        self._session._retry_connection = False  # noqa: SLF001 (see above)

    async def send(self, event: CallEvent, allowed: Callable[[], bool] | None = None) -> Outcome:
        """Tell the CRM, once.

        `allowed` is asked right before the request goes out, on a connection that is there: making one takes its time.
        Raises NotAllowedError where it says no.
        """
        try:
            return await self._send(event, allowed)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                self._connector.clear_dns_cache()  # the CRM may have moved
            return Outcome(Verdict(Answer.RETRY, self._words(error)))

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        """Nothing is connected before the first callback."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self.close()

    async def _send(self, event: CallEvent, allowed: Callable[[], bool] | None) -> Outcome:
        url = yarl.URL(request_url(self._url, event), encoded=True)
        headers = {"Idempotency-Key": idempotency_key(event)}
        get = self._session.get(url, headers=headers, allow_redirects=False, trace_request_ctx=allowed)
        async with get as response:
            status = response.status
            body = await _read(response)
            if body is None:
                reason = f"HTTP {status}: the answer is longer than {ANSWER_LIMIT_BYTES // 1024} KiB; check crm.url"
                return Outcome(Verdict(Answer.RETRY, reason), status)
            retry_after = response.headers.get("Retry-After") if status in {429, 503} else None
            verdict = judge(status, body, response.headers.get("Location"))
            return Outcome(verdict, status, retry_after, response.headers.get("Date"))

    def _words(self, error: Exception) -> str:
        server = self._server
        match error:
            case aiohttp.ClientConnectorError():
                words = _no_connection(server, error)
            case aiohttp.ConnectionTimeoutError():
                words = f"no connection to {server} within {self._connect_s:g} s"
            case TimeoutError():
                words = f"no whole answer from {server} within {self._timeout_s:g} s (crm.timeout_s)"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                words = f"{server} closed the connection without an answer"
            case aiohttp.ClientPayloadError():
                words = f"{server} closed the connection within its answer"
            case aiohttp.ClientResponseError():
                words = f"{server} answers, but not with HTTP: {printable(error.message)}"
            case _:
                words = f"{type(error).__name__}: {printable(str(error))}"
        return words


def _watched(
    dead_s: float, make: Callable[[int, int, int], socket.socket] = socket.socket
) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Makes sockets on which what the other end doesn't acknowledge in time is an error."""

    def made(address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, proto, _, _ = address
        made = make(family, kind, proto)
        # The one for what we have sent, the others for an answer that we wait for.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_s * 1000))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        return made

    return made


def _asking() -> aiohttp.TraceConfig:
    """Asks what `send` was handed before a request's first byte."""

    async def ask(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        del session, params
        allowed = context.trace_request_ctx
        if allowed is not None and not allowed():
            raise NotAllowedError

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(ask)
    return trace


def _no_connection(server: str, error: aiohttp.ClientConnectorError) -> str:
    why = printable(error.os_error.strerror or str(error.os_error))
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"no address found for {server}: check crm.url and this host's DNS ({why})"
        case aiohttp.ClientConnectorCertificateError():
            why = printable(str(error.certificate_error))
            return f"{server} shows a TLS certificate that is not trusted: {why}"
        case aiohttp.ClientConnectorSSLError():
            return f"no TLS connection to {server}: {why}"
    return f"cannot connect to {error.host}:{error.port}: {why}"


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The answer's body; None when it is too long, and then the connection is given up."""
    body = bytearray()
    while chunk := await response.content.read(ANSWER_LIMIT_BYTES):
        body += chunk
        if len(body) > ANSWER_LIMIT_BYTES:
            response.close()
            return None
    return _unpacked(bytes(body), response.headers.get("Content-Encoding", ""))


def _unpacked(body: bytes, encoding: str) -> bytes | None:
    """The body, should the CRM have compressed it though asked not to; None when that is too long."""
    if encoding.lower() not in {"gzip", "deflate"}:
        return body
    try:
        unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it is
        unpacked = unpacker.decompress(body, ANSWER_LIMIT_BYTES + 1)
    except zlib.error:
        return body
    return unpacked if len(unpacked) <= ANSWER_LIMIT_BYTES else None

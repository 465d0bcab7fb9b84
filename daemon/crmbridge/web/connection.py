"""One HTTP connection, and the line that is logged for each request.

What aiohttp answers by itself (broken requests, its own errors) is made to look like all our answers, and without its
version. It must not know what is served.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import unquote_plus

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from crmbridge.web.access import Access, Grant
from crmbridge.web.answers import SERVER, problem_of
from crmbridge.web.tls import Doorway

log = structlog.get_logger("crmbridge.http")

CLIENT = web.RequestKey("client", str)
"""The address of who asks, once that is known."""
GRANT = web.RequestKey("grant", Grant)
"""What they may ask for, once they have shown credentials."""

MOST_CONNECTIONS = 256
"""At once, from those who may ask; each costs a file descriptor and some 50 kB."""
MOST_READERS = 64
"""At once, from addresses that may do nothing but follow links to recordings (which may be the whole world)."""
MOST_STRANGERS = 16
"""At once, from addresses that would only be told that they may not ask."""
IDLE_S = 30.0
"""How long a connection may be idle, or take to send a request's head."""
LINGER_S = 2.0
"""How long a body that nobody wants is read on, so that the client reads our answer before its write fails."""
LONGEST_QUERY_LOGGED = 300

_HIDDEN = "***"


class Connections:
    """Makes connections for a server, not more than it can bear."""

    def __init__(
        self, server: web.Server, access: Access, hidden: Collection[str], tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = server
        self._access = access
        self._log_class = access_log(hidden)
        self._tls = tls
        self._open: dict[Connection | Doorway, str] = {}
        """Each with the kind of those with whom it shares a limit: nobody takes the CRM's places by holding others."""
        self.loop = asyncio.get_running_loop()

    def __call__(self) -> Connection | Doorway:
        """A new connection's protocol, for `create_server`."""
        if self._tls is None:
            return self._http()
        return Doorway(self._tls, admit=self.admit, leave=self.gone, inside=self._http)

    def _http(self) -> Connection:
        return Connection(self, self._server, self._log_class)

    def close(self) -> None:
        """End what has not come as far as HTTP; the rest is aiohttp's."""
        for connection in list(self._open):
            if isinstance(connection, Doorway):
                connection.close()

    def admit(self, connection: Connection | Doorway, peer: str | None) -> bool:
        """Take up a connection, or say that there are too many of its kind."""
        if self._access.may_connect(peer):
            kind, most = "known", MOST_CONNECTIONS
        elif self._access.may_connect_for_links(peer):
            kind, most = "readers", MOST_READERS
        else:
            kind, most = "strangers", MOST_STRANGERS
        if sum(1 for one in self._open.values() if one == kind) >= most:
            log.warning("http.too_many_connections", address=peer, most=most)
            return False
        self._open[connection] = kind
        return True

    def gone(self, connection: Connection | Doorway) -> None:
        """Forget a connection."""
        self._open.pop(connection, None)


class Connection(web.RequestHandler):
    """aiohttp's protocol, with our limits and our answers."""

    def __init__(self, owner: Connections, server: web.Server, log_class: type[AbstractAccessLogger]) -> None:
        super().__init__(
            server,
            loop=owner.loop,
            keepalive_timeout=IDLE_S,
            max_headers=64,
            lingering_time=LINGER_S,
            auto_decompress=False,  # nobody needs it; a body that won't unpack is a traceback in the log
            access_log_class=log_class,
        )
        self._owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse what is too much before anything is spent on it."""
        if self._owner.admit(self, peer_of(transport)):
            super().connection_made(transport)
        elif isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The other end, or we, have closed it."""
        self._owner.gone(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # quotes what was sent, which may hold a password
    ) -> web.StreamResponse:
        """Answer what never reached a handler."""
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("http.malformed", address=request.remote, error=type(exc).__name__)
        else:
            log.error("http.failed", address=request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        response = problem_of(status).answer()
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer. What aiohttp raised outside of our middleware (Expect) is made like ours."""
        if isinstance(resp, web.HTTPException) and resp.status >= HTTPStatus.BAD_REQUEST:
            resp = problem_of(resp.status).answer()
        if not resp.prepared:
            resp.headers["Server"] = SERVER
        return await super().finish_response(request, resp, start_time)


def peer_of(transport: asyncio.BaseTransport | None) -> str | None:
    """The address at the other end."""
    peer = transport.get_extra_info("peername") if transport else None
    return str(peer[0]) if isinstance(peer, tuple) else None


def access_log(hidden: Collection[str]) -> type[AbstractAccessLogger]:
    """A class (so aiohttp wants it) that logs one line for each request; see `shown_query`."""

    class AccessLog(AbstractAccessLogger):
        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            log.info(
                "http.request",
                address=request.get(CLIENT) or request.remote,
                method=request.method,
                path=shown_query(request.rel_url.raw_path, hidden),
                query=shown_query(request.rel_url.raw_query_string, hidden),
                status=response.status,
                duration_ms=round(time * 1000, 1),
            )

    return AccessLog


def shown_query(raw: str, hidden: Collection[str]) -> str:
    """A query string, or a path, for the log: percent-encoded as it came, without the values of these parameters.

    `hidden`: in lower case. Who writes them wrongly (`password[]=`, `;password=`, escaped twice, no `?` before them)
    must not find the password in the log either: whatever has such a word in it is hidden as a whole.
    """
    return "&".join(_shown_pair(pair, hidden) for pair in raw.split("&"))[:LONGEST_QUERY_LOGGED]


def _shown_pair(pair: str, hidden: Collection[str]) -> str:
    name, equals, _ = pair.partition("=")
    if equals and unquote_plus(name).strip().lower() in hidden:
        return f"{name}={_HIDDEN}"
    plain = unquote_plus(unquote_plus(pair)).lower()
    return _HIDDEN if any(word in plain for word in hidden) else pair

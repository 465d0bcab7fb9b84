"""The HTTP server: who may come in, errors as JSON, start and stop. What is served are its parts' routes.

Every request passes the address list first, then needs the credentials, whatever the path; who fails too often must
wait. Only open parts (health, readiness) ask for no credentials, and answer this machine itself, too; and a signed link
(to a recording) is followed without any, also from addresses that may do nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import structlog
from aiohttp import web

from crmbridge.web import parameters
from crmbridge.web.access import CHALLENGE, Access, Address, Denied, Grant, address
from crmbridge.web.answers import ProblemError, problem_of
from crmbridge.web.attempts import Attempts
from crmbridge.web.connection import CLIENT, GRANT, Connections, peer_of, shown_query

log = structlog.get_logger("crmbridge.http")

LARGEST_BODY = 64 * 1024
"""Bytes; a form of three parameters."""
STOP_S = 5.0
"""How long requests in progress may take when the server stops."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Part(Protocol):
    """Something that is served."""

    needs_credentials: bool

    def routes(self) -> Iterable[web.RouteDef]:
        """Paths, methods and handlers."""

    async def close(self) -> None:
        """End what is still under way; no request comes any more."""


@runtime_checkable
class Linked(Part, Protocol):
    """A part to which signed links lead."""

    def follows(self, request: web.Request) -> bool:
        """Whether a link in this request opens what it asks for. Raises ProblemError where it has a bad one."""


class Server:
    """Serves its parts at one address."""

    def __init__(
        self,
        *,
        listen: str | socket.socket,
        access: Access,
        parts: Iterable[Part],
        tls: ssl.SSLContext | None = None,
        hidden_parameters: Collection[str] = parameters.CREDENTIALS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`listen`: `address:port`, `[v6 address]:port`, or a socket that is bound already (it is closed at the end).

        `hidden_parameters`: query parameters whose values no log shows. `clock`: seconds of a monotonic clock.
        """
        self._listen = listen
        self._access = access
        self._parts = tuple(parts)
        self._tls = tls
        self._hidden = frozenset(name.lower() for name in hidden_parameters)
        self._clock = clock
        self._attempts = Attempts()
        self._open: set[object] = set()
        self._follows: dict[object, Callable[[web.Request], bool]] = {}
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._connections: Connections | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def start(self) -> None:
        """Begin to listen. Raises OSError with a message for the administrator where that can't be."""
        runner = web.AppRunner(self._application(), shutdown_timeout=STOP_S, access_log=None)
        await runner.setup()
        if runner.server is None:
            raise RuntimeError("aiohttp's runner has made no server")
        try:
            self._connections = Connections(runner.server, self._access, self._hidden, self._tls)
            self._server = await self._bind(self._connections)
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        log.info("http.listening", address="{}:{}".format(*self.address), tls=self._tls is not None)

    async def stop(self) -> None:
        """Take no more requests, and end those in progress within a few seconds."""
        if self._server is None or self._runner is None or self._connections is None:
            return
        self._server.close()
        self._connections.close()
        await self._runner.cleanup()
        for part in self._parts:
            await part.close()
        self._server = self._runner = None
        log.info("http.stopped")

    async def _bind(self, connections: Connections) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if isinstance(self._listen, socket.socket):
            return await loop.create_server(connections, sock=self._listen)
        host, port = host_and_port(self._listen)
        try:
            return await loop.create_server(connections, host, port)
        except OSError as error:
            raise OSError(error.errno, _why(error, self._listen)) from error

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._errors, self._guard], client_max_size=LARGEST_BODY)
        for part in self._parts:
            for route in application.add_routes(part.routes()):
                if not part.needs_credentials:
                    self._open.add(route.handler)
                if isinstance(part, Linked):
                    self._follows[route.handler] = part.follows
        return application

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ProblemError as problem:
            return problem.answer()
        except web.HTTPException as error:
            if error.status < HTTPStatus.BAD_REQUEST:
                raise
            allow = error.headers.get("Allow")
            return problem_of(error.status, {"Allow": allow} if allow else None).answer()
        except Exception:
            # One request that fails must not take the connection, and others waiting on it, along.
            log.exception(
                "http.failed", address=request.remote, path=shown_query(request.rel_url.raw_path, self._hidden)
            )
            return problem_of(500).answer()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        peer, forwarded = peer_of(request.transport), request.headers.getall("X-Forwarded-For", [])
        client = self._access.client(peer, forwarded)
        if client is not None:
            request[CLIENT] = str(client)
        follows = self._follows.get(request.match_info.handler)
        if follows is not None and self._access.may_follow(client) and follows(request):
            return await handler(request)
        is_open = request.match_info.handler in self._open
        itself = client or (None if forwarded else address(peer or ""))
        if not (self._access.may_ask(client) or (is_open and itself is not None and itself.is_loopback)):
            log.warning("http.address_refused", address=_name(client, request))
            raise ProblemError(403, "address_not_allowed", "this address may not ask (http.allow)")
        if not is_open:
            request[GRANT] = await self._login(request, client)
        return await handler(request)

    async def _login(self, request: web.Request, client: Address | None) -> Grant:
        """What the request's credentials open. Raises ProblemError."""
        given = request.headers.getall("Authorization", [])
        usernames, passwords = list[str](), list[str]()
        if not given and self._access.credentials_as_parameters:
            values = await parameters.read(request)
            usernames, passwords = (values.getall(name, []) for name in parameters.CREDENTIALS)
        # From here to the verdict nothing may be awaited, or many could guess at the same instant.
        if given or usernames or passwords:
            self._check_pause(client)
        found = self._access.login(client, given, usernames, passwords)
        if isinstance(found, Grant):
            return found
        if found is Denied.NOT_GIVEN or client is None:  # no guess: some ask without at first, to be told how
            log.info("http.login_missing", address=_name(client, request))
        else:
            pause_s = self._attempts.failed(client, self._clock())
            log.warning("http.login_failed", address=_name(client, request), reason=found.value, pause_s=pause_s)
        raise ProblemError(
            401, "not_authenticated", "username and password are wrong or missing", {"WWW-Authenticate": CHALLENGE}
        )

    def _check_pause(self, client: Address | None) -> None:
        wait_s = math.ceil(self._attempts.wait_s(client, self._clock())) if client is not None else 0
        if wait_s > 0:
            message = f"too many logins failed from this address: none is looked at for {wait_s} s"
            raise ProblemError(429, "too_many_failed_logins", message, {"Retry-After": str(wait_s)})


def host_and_port(text: str) -> tuple[str, int]:
    """Take `address:port` or `[v6 address]:port` apart. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and int(port) <= 65535):
        raise ValueError(f"http.listen = {text!r} is not ADDRESS:PORT, such as 127.0.0.1:6560 or [::1]:6560")
    return host, int(port)


def _why(error: OSError, listen: str) -> str:
    """What an administrator can do about it."""
    where = f"http.listen = {listen!r}: can't listen there"
    if isinstance(error, socket.gaierror):
        return f"{where}, this name has no address: write the machine's address itself"
    advice = {
        errno.EADDRINUSE: "another program has this port (`ss -ltnp` shows which): stop it, or choose another port",
        errno.EADDRNOTAVAIL: "this machine has no such address (`ip address` shows those it has)",
        errno.EACCES: "ports below 1024 are not for this user: choose a higher one",
        errno.EAFNOSUPPORT: "this machine has no IPv6"
        if ":" in listen.rpartition(":")[0]
        else "no such kind of address",
    }
    # From Python 3.13 on, asyncio passes an address that this machine doesn't have over, and says so without a number.
    number = error.errno or errno.EADDRNOTAVAIL
    return f"{where}, {advice.get(number, error.strerror or str(error))}"


def _name(client: Address | None, request: web.Request) -> str:
    return str(client) if client is not None else f"unknown behind {request.remote}"

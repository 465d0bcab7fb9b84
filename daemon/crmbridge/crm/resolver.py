"""The CRM's addresses, asked of the system on threads of their own.

asyncio asks on a pool of a few threads that all parts share and that is waited for at the end. A name server that is
silent holds a thread for ten seconds and more: the pool would be full of them, a connection to Asterisk that is to be
made anew would wait behind them, and a stop would outlast systemd's patience. It must not know what is asked for.
"""

from __future__ import annotations

import asyncio
import socket
import threading

from aiohttp.abc import AbstractResolver, ResolveResult


class Resolver(AbstractResolver):
    """Asks the system, as getaddrinfo does: files, DNS, whatever the host is set up for."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """All addresses, in the system's order. Raises OSError (gaierror)."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(answer: list[ResolveResult] | OSError) -> None:
            if found.done():
                return  # nobody waits any more
            if isinstance(answer, OSError):
                found.set_exception(answer)
            else:
                found.set_result(answer)

        def ask() -> None:
            answer: list[ResolveResult] | OSError
            try:
                answer = _addresses(host, port, family)
            except OSError as error:
                answer = error
            except UnicodeError as error:  # a label that is too long or empty
                answer = socket.gaierror(socket.EAI_NONAME, str(error))
            try:
                loop.call_soon_threadsafe(settle, answer)
            except RuntimeError:
                return  # the process ends; it did not wait for us

        threading.Thread(target=ask, name="resolver", daemon=True).start()
        return await found

    async def close(self) -> None:
        """Nothing is kept."""


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=kind,
            proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, proto, _, address in found
    ]

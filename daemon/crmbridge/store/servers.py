"""The servers of one database: one, or the nodes of a cluster, of which any will do.

They are tried in turn, beginning with the one that served last. Of several, one that refuses to write, or is not in
sync with its cluster, is passed over, and one that says nothing is not waited for as long as an only one would be.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:  # and else where it is used: 2 MB that a bridge without MySQL does without
    import asyncmy

log = structlog.get_logger("crmbridge.store")

CONNECT_S = 3.0
"""To connect to an only server and log in. With a database in another country that is half a second."""
CONNECT_EACH_S = 1.0
"""The same where there are others to go to."""
PORT = 3306

SILENT = 2012  # CR_SERVER_HANDSHAKE_ERR
NOT_IN_SYNC = 1047  # ER_UNKNOWN_COM_ERROR: what a Galera node says to all but SHOW and SET
READ_ONLY = 1836  # ER_READ_ONLY_MODE

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:,]+)(?::(?P<port>\d{1,5}))?")


class Host(NamedTuple):
    """One server."""

    name: str
    port: int

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}"


def address(url: str | URL) -> URL:
    """An address in which several hosts may stand: mysql+asyncmy://USER:PASSWORD@HOST1:PORT,HOST2/NAME.

    Its `host` then is their list, as `listed` reads it. Raises ArgumentError.
    """
    if isinstance(url, URL):
        return url
    begin, at, rest = url.rpartition("@")
    hosts, slash, name = rest.partition("/")
    if "," not in hosts:
        try:
            return make_url(url)
        except ValueError as error:  # a port that is no number
            raise ArgumentError(str(error)) from None
    several = [_host(one) for one in hosts.split(",")]
    return make_url(f"{begin}{at}several{slash}{name}").set(host=",".join(map(str, several)))


def listed(address: URL) -> list[Host]:
    """The servers of an address. Raises ArgumentError."""
    if "," in (address.host or ""):
        return [_host(one) for one in str(address.host).split(",")]
    return [Host(address.host or "localhost", address.port or PORT)]


def shown_hosts(address: URL) -> str:
    """Hosts and ports."""
    return ",".join(map(str, listed(address)))


def _host(text: str) -> Host:
    found = _HOST.fullmatch(text.strip())
    if found is None or not 0 < int(found["port"] or PORT) < 65536:
        raise ArgumentError(f"{text} is no host")
    return Host(found["name"].strip("[]"), int(found["port"] or PORT))


class Servers:
    """Whose turn it is."""

    def __init__(
        self,
        hosts: Sequence[Host],
        connect: Callable[..., Awaitable[Any]] | None = None,
        *,
        limit_s: float | None = None,
    ) -> None:
        """`connect`: in place of asyncmy's, with its arguments. `limit_s`: to connect to one, for who has less time."""
        self._hosts = list(hosts)
        self._connect = connect
        self._limit_s = limit_s or (CONNECT_EACH_S if self.several else CONNECT_S)
        self._passed_over: set[Host] = set()
        self.turn = 0
        """Counts how often another server came to its turn."""

    @property
    def several(self) -> bool:
        """Whether there are others to go to."""
        return len(self._hosts) > 1

    def leave(self, turn: int) -> None:
        """Go on with the next server, unless somebody has done so since it was this turn."""
        if self.turn == turn:
            self.turn += 1

    async def connected(self, **how: Any) -> asyncmy.Connection:  # noqa: ANN401  # asyncmy's arguments
        """A connection to the first that can be used, by asyncmy's arguments but host and port.

        Raises what the first one tried said where none can be.
        """
        from asyncmy.errors import MySQLError  # noqa: PLC0415  # 3 MB, for those alone who have such a database

        errors: list[BaseException] = []
        for turn, host in self._in_turn():
            try:
                connection = await self._one(host, how)
            except (MySQLError, OSError) as error:
                errors.append(error)
                self._pass_over(host, error)
                continue
            self._passed_over.discard(host)
            self.turn = max(self.turn, turn)
            return connection
        raise errors[0]

    def _in_turn(self) -> Iterator[tuple[int, Host]]:
        begin = self.turn
        for turn in range(begin, begin + len(self._hosts)):
            yield turn, self._hosts[turn % len(self._hosts)]

    def _pass_over(self, host: Host, error: BaseException) -> None:
        if self.several and host not in self._passed_over:
            self._passed_over.add(host)
            log.warning("store.server_passed_over", server=str(host), reason=str(error), effect="the next one is tried")

    async def _one(self, host: Host, how: dict[str, Any]) -> asyncmy.Connection:
        """Connect and log in, within a time of its own.

        Whoever waits sets a limit, too, but Python 3.11's wait_for, by which asyncmy connects, forgets a cancellation
        that comes as the TCP connection is made (gh-86296), and then waits for a silent server's greeting for ever.
        """
        from asyncmy.errors import OperationalError  # noqa: PLC0415  # see `connected`

        from crmbridge.store import driver  # noqa: PLC0415  # see `connected`

        connect = self._connect or driver.connected
        how |= {"host": host.name, "port": host.port, "connect_timeout": self._limit_s}
        try:
            async with asyncio.timeout(self._limit_s):
                connection: asyncmy.Connection = await connect(**how)
                if self.several:
                    try:
                        await _see_that_it_is_usable(connection)
                    except BaseException:
                        connection.close()
                        raise
                return connection
        except TimeoutError:
            raise OperationalError(SILENT, "no greeting") from None


async def _see_that_it_is_usable(connection: asyncmy.Connection) -> None:
    from asyncmy.errors import OperationalError  # noqa: PLC0415  # see `connected`

    async with connection.cursor() as cursor:
        # SHOW, which a node that has lost its cluster answers, too.
        await cursor.execute("SHOW GLOBAL STATUS LIKE 'wsrep_ready'")
        ready = await cursor.fetchone()
        await cursor.execute("SHOW GLOBAL VARIABLES WHERE variable_name IN ('read_only', 'wsrep_on')")
        found = {name.lower(): value for name, value in await cursor.fetchall()}
    # A MariaDB without a cluster says of itself that it is not ready for one.
    if ready is not None and ready[1] == "OFF" and found.get("wsrep_on") == "ON":
        raise OperationalError(NOT_IN_SYNC, "not in sync with its cluster")
    if found.get("read_only", "OFF") not in {"OFF", "NO"}:
        raise OperationalError(READ_ONLY, "read-only")

"""The CRM's own user of the call list's database: it may read the three views, from the CRM's addresses, and no more.

The views run with the rights of who made them, which is crmbridge's own user: the CRM's has none on the tables. One
client's user reads views of the same names in a database of its own, which hold that client's calls.

What is written here is for a person's eyes and for `mariadb` to read, as well as to be done by us; every value is
quoted for a session whose sql_mode is empty, and the first statement makes it so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from crmbridge.store import mysql
from crmbridge.store.async_engine import AsyncConnection
from crmbridge.store.call_tables import CLIENT_CALLS, SCHEMA, VIEWS
from crmbridge.store.engine import explain, parsed
from crmbridge.store.migration import BEING_SET_UP, VERSIONS, claimed_by_hand, make_views_anew
from crmbridge.store.schema import StoreError, mysql_code
from crmbridge.store.servers import address

ANYWHERE = "%"
_SESSION = ("SET SESSION sql_mode = ''", "SET NAMES utf8mb4")
LIMIT_S = 10.0
"""Seconds for all statements together."""

_LOCAL = "localhost"
"""What MySQL calls who comes over its socket; with name resolution, who comes from these, too."""
_LOOPBACK = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
_MAY_NOT = {1044, 1142, 1227, 1410}
"""Access denied, in four ways."""
_CLAIMED = {1062, 1213}
"""ER_DUP_ENTRY, and the same at another node of a cluster: nothing else of ours can be there already."""
_LONGEST_NAME, _LONGEST_USER = 64, 32
"""Characters; of a user in MySQL, MariaDB takes more."""
_WHOSE = {"outgoing_calls": " AND incoming = 0", "incoming_calls": " AND incoming = 1", "all_calls": ""}
_SHOWN = "time, ext, number, duration, filename, incoming"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """What kind of server it is."""

    version: str
    has_tls: bool
    account: str
    """Who crmbridge itself is there, in SQL."""

    @property
    def is_mariadb(self) -> bool:
        """MariaDB knows a limit on a user's statements, MySQL doesn't."""
        return "mariadb" in self.version.lower()


@dataclass(frozen=True, slots=True)
class Host:
    """From where the user may come, as MySQL writes it."""

    pattern: str
    local: bool
    """Whether it is this machine: nobody listens in between."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The CRM's user."""

    name: str
    password: str
    hosts: Sequence[Host]
    connections: int
    """At the same time, from each of its addresses."""
    statement_s: int
    """Seconds that one statement may take, where the server can see to that."""


async def ask(url: str | URL) -> Server:
    """What server this is. Raises StoreError."""
    query = "SHOW VARIABLES WHERE variable_name IN ('version', 'have_ssl', 'ssl_cert')"
    rows, ((account,),) = await _run(url, [query, "SELECT CURRENT_USER()"])
    user, _, host = str(account).rpartition("@")
    found = {str(name).lower(): str(value) for name, value in rows}
    # MySQL 8.4 has no have_ssl any more; a server without a certificate has no TLS.
    has_tls = found["have_ssl"] == "YES" if "have_ssl" in found else bool(found.get("ssl_cert"))
    return Server(found["version"], has_tls, f"{quoted(user)}@{quoted(host)}")


async def make_views(url: str | URL) -> None:
    """Make the views anew as of crmbridge's own user; the tables must be there. Raises StoreError."""
    await _connected(url, lambda connection: connection.run_sync(make_views_anew, SCHEMA))


async def apply(url: str | URL, statements: Sequence[str]) -> None:
    """Run them one by one: what one has done stays done if the next fails, and all may be run again.

    Raises StoreError.
    """
    await _run(url, statements)


async def _run(url: str | URL, statements: Sequence[str]) -> list[list[tuple[object, ...]]]:
    async def answers(connection: AsyncConnection) -> list[list[tuple[object, ...]]]:
        found: list[list[tuple[object, ...]]] = []
        for statement in statements:
            # Not to be taken for a place for a value.
            result = await connection.exec_driver_sql(statement.replace("%", "%%"))
            found.append([tuple(row) for row in result] if result.returns_rows else [])
        return found

    return await _connected(url, answers)


async def _connected(url: str | URL, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    none = StoreError("that is no database address: mysql+asyncmy://USER:PASSWORD@HOST/")
    try:
        where = parsed(address(url))
    except ArgumentError:
        raise none from None
    if where.get_backend_name() == "sqlite":
        raise none
    # Each statement commits by itself, as where `mariadb` reads them: see claimed_by_hand.
    engine = mysql.make_engine(where, connections=1, only_reads=True)
    try:
        async with asyncio.timeout(LIMIT_S), engine.connect() as connection:
            return await work(connection)
    except StoreError as error:
        raise StoreError(f"{mysql.shown(engine.url)} {error}") from None
    except TimeoutError:
        raise StoreError(f"{mysql.shown(engine.url)} does not answer within {LIMIT_S:g} s") from None
    except (SQLAlchemyError, OSError) as error:
        words = explain(error)
        if mysql_code(error) in _MAY_NOT:
            words = "does not let this user make users: name one who may (--admin), or hand the statements to its root"
        if mysql_code(error) in _CLAIMED:
            words = BEING_SET_UP
        raise StoreError(f"{mysql.shown(engine.url)} {words}") from None  # a statement may hold the password
    finally:
        await engine.dispose()


def hosts(networks: Iterable[str]) -> list[Host]:
    """MySQL's patterns for these addresses and networks. Raises ValueError where MySQL has none."""
    found: dict[Host, None] = {}
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        if network.is_loopback and any(one in network for one in _LOOPBACK):
            found[Host(_LOCAL, local=True)] = None
        found[Host(_pattern(network), local=network.is_loopback)] = None
    return list(found)


def _pattern(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    if network.prefixlen == 0:
        return ANYWHERE
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    if isinstance(network, ipaddress.IPv4Network):
        return f"{network.network_address}/{network.netmask}"
    # MySQL compares the text of an IPv6 address. What it begins with is certain only where no group of it is 0: that
    # may be written as ::, or not.
    count, rest = divmod(network.prefixlen, 16)
    groups = [f"{int(group, 16):x}" for group in network.network_address.exploded.split(":")[:count]]
    if rest or "0" in groups:
        raise ValueError(f"{network}: MySQL can't be told this network of IPv6 addresses; name each address")
    return ":".join(groups) + ":%"


def client_database(database: str, client_id: str) -> str:
    """The database of one client's views: of no other client, however ids are spelled. Raises ValueError."""
    made = f"{database}_client_{_plain(client_id)}"
    if len(made) > _LONGEST_NAME:
        raise ValueError(f"{made} is longer than the {_LONGEST_NAME} characters that the name of a database may have")
    return made


def client_user(client_id: str) -> str:
    """What its user is called where nothing else is said. Raises ValueError."""
    made = f"crm_{_plain(client_id)}"
    if len(made) > _LONGEST_USER:
        raise ValueError(
            f"{made} is longer than the {_LONGEST_USER} characters that a user's name may have: see --user"
        )
    return made


def _plain(client_id: str) -> str:
    """With small letters and digits only, and two never the same: capitals are no others on some servers."""
    quoted(client_id)
    if client_id != client_id.strip():
        raise ValueError("it must not begin or end with a space, by which MySQL does not tell texts apart")
    return re.sub("[^a-z0-9]", lambda one: "".join(f"_{byte:02x}" for byte in one[0].encode()), client_id)


def _client_views(server: Server, database: str, client_id: str) -> list[str]:
    own, whose = name(client_database(database, client_id)), f"client_id = {quoted(client_id)}"
    query = f"SELECT {_SHOWN} FROM {name(database)}.{name(CLIENT_CALLS)} WHERE {whose}"  # noqa: S608  # quoted
    create = f"CREATE OR REPLACE DEFINER = {server.account} SQL SECURITY DEFINER VIEW"
    return [f"{create} {own}.{name(view)} AS {query}{_WHOSE[view]}" for view in VIEWS]


def _claimed(database: str, statements: Sequence[str]) -> list[str]:
    """While nobody else does the like: in a cluster CREATE DATABASE and GRANT hang beside CREATE VIEW, too."""
    return claimed_by_hand(SCHEMA, f"{name(database)}.{name(VERSIONS)}", statements)


def removal(reader: Reader, database: str, client_id: str | None) -> list[str]:
    """What takes the user away again, and its client's views."""
    accounts = [f"{quoted(reader.name)}@{quoted(host.pattern)}" for host in reader.hosts]
    gone = [f"DROP USER IF EXISTS {account}" for account in accounts]
    if client_id is not None:
        own = name(client_database(database, client_id))
        gone += [f"DROP VIEW IF EXISTS {own}.{name(view)}" for view in VIEWS]
    return [*_SESSION, *_claimed(database, gone)]


def statements(reader: Reader, server: Server, database: str, client_id: str | None = None) -> list[str]:
    """What makes the user, or makes it what it should be, whatever it was before; and one client's views."""
    if client_id is None:
        return [*_SESSION, *_claimed(database, _user(reader, server, database))]
    own = client_database(database, client_id)
    made = [f"CREATE DATABASE IF NOT EXISTS {name(own)} CHARACTER SET utf8mb4"]
    made += [*_client_views(server, database, client_id), *_user(reader, server, own)]
    return [*_SESSION, *_claimed(database, made)]


def _user(reader: Reader, server: Server, database: str) -> list[str]:
    limits = f"MAX_USER_CONNECTIONS {reader.connections}"
    if server.is_mariadb:
        limits += f" MAX_STATEMENT_TIME {reader.statement_s}"
    password = quoted(reader.password)
    made = []
    for host in reader.hosts:
        account = f"{quoted(reader.name)}@{quoted(host.pattern)}"
        require = "SSL" if server.has_tls and not host.local else "NONE"
        made += [
            f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY {password}",
            f"ALTER USER {account} IDENTIFIED BY {password} REQUIRE {require} WITH {limits}",
            f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {account}",
        ]
        made += [f"GRANT SELECT ON {name(database)}.{name(view)} TO {account}" for view in VIEWS]
    return made


def quoted(text: str) -> str:
    """A value in SQL. Raises ValueError where it is none that a user or a password may be."""
    if not text or not text.isprintable():
        raise ValueError("it must not be empty, and hold no line breaks or other control characters")
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def name(text: str) -> str:
    """A name in SQL."""
    return "`" + text.replace("`", "``") + "`"

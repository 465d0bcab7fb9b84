"""The CRM's own user of the call list's database: it may read the three views, from the CRM's addresses, and no more.

The views run with the rights of who made them, which is crmbridge's own user: the CRM's has none on the tables.
What is written here is for a person's eyes and for `mariadb` to read, as well as to be done by us; every value is
quoted for a session whose sql_mode is empty, and the first statement makes it so.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from crmbridge.store import mysql
from crmbridge.store.call_tables import VIEWS
from crmbridge.store.engine import explain, make_engine
from crmbridge.store.schema import StoreError, mysql_code
from crmbridge.store.servers import address

ANYWHERE = "%"
LIMIT_S = 10.0
"""Seconds for all statements together."""

_LOCAL = "localhost"
"""What MySQL calls who comes over its socket; with name resolution, who comes from these, too."""
_LOOPBACK = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
_MAY_NOT = {1044, 1142, 1227, 1410}
"""Access denied, in four ways."""


@dataclass(frozen=True, slots=True)
class Server:
    """What kind of server it is."""

    version: str
    has_tls: bool

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
    (rows,) = await _run(url, [query])
    found = {str(name).lower(): str(value) for name, value in rows}
    # MySQL 8.4 has no have_ssl any more; a server without a certificate has no TLS.
    has_tls = found["have_ssl"] == "YES" if "have_ssl" in found else bool(found.get("ssl_cert"))
    return Server(found["version"], has_tls)


async def apply(url: str | URL, statements: Sequence[str]) -> None:
    """Run them one by one: what one has done stays done if the next fails, and all may be run again.

    Raises StoreError.
    """
    await _run(url, statements)


async def _run(url: str | URL, statements: Sequence[str]) -> list[list[tuple[object, ...]]]:
    try:
        engine = make_engine(address(url), connections=1)
    except ArgumentError:
        raise StoreError("that is no database address: mysql+asyncmy://USER:PASSWORD@HOST/") from None
    answers: list[list[tuple[object, ...]]] = []
    try:
        async with asyncio.timeout(LIMIT_S), engine.connect() as connection:
            for statement in statements:
                # Not to be taken for a place for a value.
                result = await connection.exec_driver_sql(statement.replace("%", "%%"))
                answers.append([tuple(row) for row in result] if result.returns_rows else [])
    except TimeoutError:
        raise StoreError(f"{mysql.shown(engine.url)} does not answer within {LIMIT_S:g} s") from None
    except (SQLAlchemyError, OSError) as error:
        words = explain(error)
        if mysql_code(error) in _MAY_NOT:
            words = "does not let this user make users: name one who may (--admin), or hand the statements to its root"
        raise StoreError(f"{mysql.shown(engine.url)} {words}") from None  # a statement may hold the password
    finally:
        await engine.dispose()
    return answers


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


def statements(reader: Reader, server: Server, database: str) -> list[str]:
    """What makes the user, or makes it what it should be, whatever it was before."""
    limits = f"MAX_USER_CONNECTIONS {reader.connections}"
    if server.is_mariadb:
        limits += f" MAX_STATEMENT_TIME {reader.statement_s}"
    password = quoted(reader.password)
    made = ["SET SESSION sql_mode = ''", "SET NAMES utf8mb4"]
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

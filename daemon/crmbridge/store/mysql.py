"""MySQL and MariaDB: how we connect, what their errors mean, and which of them pass by themselves.

Numbers of errors are the servers' own (mysqld_error.h; MariaDB's share them up to 1900). It must not know any tables.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError

from crmbridge.store.async_engine import AsyncEngine, create_async_engine
from crmbridge.store.schema import StoreError, mysql_code
from crmbridge.store.servers import NOT_IN_SYNC, READ_ONLY, SILENT, Servers, listed, shown_hosts

if TYPE_CHECKING:  # see servers.py
    import asyncmy

LOCK_WAIT_S = 2
"""Seconds that the server lets us wait for another's lock, before we try anew."""
RECYCLE_S = 240
"""Seconds for which a connection is used: firewalls forget idle ones after five minutes, and tell neither end."""

_SESSION = (
    "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
    f"innodb_lock_wait_timeout = {LOCK_WAIT_S}, lock_wait_timeout = {LOCK_WAIT_S}"
)
"""Whatever the server's settings are. In this sql_mode a backslash escapes, as asyncmy takes for granted.

lock_wait_timeout: while a change of a table waits for one transaction that uses it, all others wait behind it.
"""

_OURS = {"init_command": _SESSION, "program_name": "crmbridge"}

_PREPARED = 16
"""Statements that the server keeps prepared for a connection. To MariaDB many rows then go at once, in binary: a fifth
of the work less at both ends than with one long text."""

_LOST = {
    1205,  # ER_LOCK_WAIT_TIMEOUT
    1213,  # ER_LOCK_DEADLOCK; Galera's certification failure, too
    1684,  # ER_WARN_I_S_SKIPPED_TABLE: somebody is making that table at this moment
    1020,  # ER_CHECKREAD: MariaDB 11 with innodb_snapshot_isolation
}
_LEFT = {
    NOT_IN_SYNC,
    1053,  # ER_SERVER_SHUTDOWN
    1180,  # ER_ERROR_DURING_COMMIT: its Galera node lost the others meanwhile
}
"""Errors of a server, not of a statement: its connections are of no use any more."""
_OTHER_TABLES = {
    1054,  # ER_BAD_FIELD_ERROR
    1146,  # ER_NO_SUCH_TABLE
    1364,  # ER_NO_DEFAULT_FOR_FIELD
}
"""The tables are not as they were when we came."""
_LEFT_FOR_ANOTHER = {1290, 1792, READ_ONLY}
"""The same where there are other servers."""
_MANY = (
    "has no connection left for us: raise max_connections, or this user's limit, "
    "or see who holds them (SHOW PROCESSLIST)"
)
_READ_ONLY = "is read-only: it may be a replica, or be locked for maintenance (SET GLOBAL read_only = 0 ends that)"
_RIGHTS = (
    "does not let this user do that: "
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, CREATE VIEW on it"
)
_AWAY = "is not there: see that the server runs and listens on that address, and the firewall"
_WORDS = {
    1040: _MANY,  # ER_CON_COUNT_ERROR
    1203: _MANY,  # ER_TOO_MANY_USER_CONNECTIONS
    1226: _MANY,  # ER_USER_LIMIT_REACHED
    1290: _READ_ONLY,  # ER_OPTION_PREVENTS_STATEMENT (--read-only)
    1792: _READ_ONLY,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    READ_ONLY: _READ_ONLY,
    1045: "refuses this user or password: see store.url, and SHOW GRANTS for the user from this host's address",
    1698: "lets this user in by its operating system's user only: give crmbridge a user with a password",
    1044: _RIGHTS,  # ER_DBACCESS_DENIED_ERROR
    1142: _RIGHTS,  # ER_TABLEACCESS_DENIED_ERROR
    1143: _RIGHTS,  # ER_COLUMNACCESS_DENIED_ERROR
    1227: _RIGHTS,  # ER_SPECIFIC_ACCESS_DENIED_ERROR
    1049: "does not exist on that server: CREATE DATABASE it, or mend store.url",
    1129: "shut this host out after too many failed connections: FLUSH HOSTS there",
    1130: "does not let this host connect: the user must be allowed from its address",
    1820: "wants this user's password changed: it has expired",
    1862: "wants this user's password changed: it has expired",
    3118: "has this user's account locked",
    4151: "has this user's account locked",
    3159: "wants TLS: add ?ssl_ca=FILE to store.url",
    1021: "is out of disk space",
    1114: "is out of disk space (a table is full)",
    1028: "is out of disk space",
    1030: "can't read or write its files: see the server's own log",
    SILENT: "does not answer: it hangs, or is no database server",
    NOT_IN_SYNC: "is a Galera node that is not in sync with its cluster (SHOW STATUS LIKE 'wsrep%' there)",
    1180: "is a Galera node that lost its cluster while it committed",
    1053: "is shutting down",
    1146: "lacks one of crmbridge's tables: somebody dropped it; drop schema_versions, too, and all are made anew",
    1205: "keeps our rows locked: see who does that (SHOW ENGINE INNODB STATUS)",
    1213: "keeps our rows locked: see who does that (SHOW ENGINE INNODB STATUS)",
    1665: "has binlog_format = STATEMENT: crmbridge needs ROW or MIXED",
    1969: "took too long (max_statement_time)",
    2002: _AWAY,
    2003: _AWAY,
    2005: "has a host name that is unknown",
    2006: "has closed the connection",
    2013: "has closed the connection",
    1927: "has closed the connection",
}


# asyncmy logs each warning of the server's, of tables that are there already and of values, numbers among them.
logging.getLogger("asyncmy").setLevel(logging.ERROR)


def make_engine(
    address: URL, connections: int, *, only_reads: bool = False, servers: Servers | None = None
) -> AsyncEngine:
    """With up to so many connections; none is made yet. Raises StoreError.

    `servers`: those of the address, where other engines connect to them, too. `only_reads`: each statement stands for
    itself, which saves the round trip of a commit; a reader at READ COMMITTED sees no more by it.
    """
    reads: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "pool_reset_on_return": None,
    }
    if not (address.password or "").isascii():
        raise StoreError("the database's password must be of ASCII characters: asyncmy can't send others")
    servers = servers or Servers(listed(address))

    async def connected(host: str, port: int | None = None, **how: Any) -> asyncmy.Connection:  # noqa: ANN401  # asyncmy's arguments
        del host, port  # the servers' own
        return await servers.connected(**how)

    engine = create_async_engine(
        _in_utf8(address),
        # READ COMMITTED: no locks on gaps, in which two writers wait for each other
        **(reads if only_reads else {"isolation_level": "READ COMMITTED"}),
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
        pool_recycle=RECYCLE_S,
        connect_args={**_OURS, "stmt_cache_size": _PREPARED, "async_creator_fn": connected},
    )
    left = _LEFT | _LEFT_FOR_ANOTHER if servers.several else _LEFT

    def judge(context: ExceptionContext) -> None:
        if mysql_code(context.original_exception) in left:
            context.is_disconnect = True

    event.listen(engine.sync_engine, "handle_error", judge)
    return engine


def arguments(address: URL) -> dict[str, Any]:
    """What the driver itself is told to connect, but for the host and port; each statement stands for itself then."""
    _, how = address.get_dialect()().create_connect_args(_in_utf8(address))
    return {name: value for name, value in how.items() if name not in {"host", "port"}} | _OURS | {"autocommit": True}


def _in_utf8(address: URL) -> URL:
    return address.update_query_dict({"charset": "utf8mb4"})


def explain(error: BaseException) -> str | None:
    """What it means and what to do, to be read after the database's name; None where we don't know more than it."""
    return _WORDS.get(mysql_code(error))


def lost(error: BaseException) -> bool:
    """Whether the transaction lost against another, and may win when it is tried anew."""
    return mysql_code(error) in _LOST


def away(error: BaseException) -> bool:
    """Whether it is the server that can't serve us, and not what was asked of it that can't be done."""
    code = mysql_code(error)
    return 2000 <= code < 3000 or code in _LEFT | _LEFT_FOR_ANOTHER or code in {1040, 1203, 1226, 1927}


def other_tables(error: BaseException) -> bool:
    """Whether somebody has changed the tables since we looked."""
    return mysql_code(error) in _OTHER_TABLES


def cut(error: BaseException) -> bool:
    """Whether the connection was lost, so that another may serve."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def shown(address: URL) -> str:
    """Without the password, and without options, in which there may be secrets, too."""
    return f"{address.username or ''}@{shown_hosts(address)}/{address.database or ''}"

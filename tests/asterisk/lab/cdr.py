"""Where the lab's Asterisks write their call records: FreePBX's table, in a real MariaDB, through cdr_adaptive_odbc.

One server does for all Asterisks of a process, a database for each. A running Asterisk is told of it when a test first
asks for records, as an administrator would tell it, so that tests without records have no database to wait for. Its
network has no way out of it: it reaches the server by the socket's file.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.asterisk.lab.mariadb import Database
from tests.asterisk.lab.pbx import Pbx

Row = dict[str, str]
"""A row of the table, by column."""

LIMIT_S = 10
AGAIN_S = 0.02
EMPTY_WAV = 44
"""Bytes: a header alone."""

# FreePBX's own (cdr module): no primary key, no time of insertion, no index on src or channel.
TABLE = """
CREATE TABLE {name}.cdr (
  calldate datetime NOT NULL DEFAULT '0000-00-00 00:00:00', clid varchar(80) NOT NULL DEFAULT '',
  src varchar(80) NOT NULL DEFAULT '', dst varchar(80) NOT NULL DEFAULT '', dcontext varchar(80) NOT NULL DEFAULT '',
  channel varchar(80) NOT NULL DEFAULT '', dstchannel varchar(80) NOT NULL DEFAULT '',
  lastapp varchar(80) NOT NULL DEFAULT '', lastdata varchar(80) NOT NULL DEFAULT '',
  duration int(11) NOT NULL DEFAULT 0, billsec int(11) NOT NULL DEFAULT 0, disposition varchar(45) NOT NULL DEFAULT '',
  amaflags int(11) NOT NULL DEFAULT 0, accountcode varchar(20) NOT NULL DEFAULT '',
  uniqueid varchar(32) NOT NULL DEFAULT '', userfield varchar(255) NOT NULL DEFAULT '',
  did varchar(50) NOT NULL DEFAULT '', recordingfile varchar(255) NOT NULL DEFAULT '',
  cnum varchar(80) NOT NULL DEFAULT '', cnam varchar(80) NOT NULL DEFAULT '',
  outbound_cnum varchar(80) NOT NULL DEFAULT '', outbound_cnam varchar(80) NOT NULL DEFAULT '',
  dst_cnam varchar(80) NOT NULL DEFAULT '', linkedid varchar(32) NOT NULL DEFAULT '',
  peeraccount varchar(80) NOT NULL DEFAULT '', sequence int(11) NOT NULL DEFAULT 0,
  KEY calldate (calldate), KEY dst (dst), KEY accountcode (accountcode), KEY uniqueid (uniqueid), KEY did (did)
) DEFAULT CHARSET=utf8mb4
"""
_SOCKET = "/run/asterisk/mariadb"
_ODBC = """
[asteriskcdr]
Driver = MariaDB Unicode
Socket = {socket}
Database = {name}
User = root
InitStmt = SET SESSION sql_mode = '{mode}'
"""
_RES_ODBC = """
[asteriskcdrdb]
enabled = yes
dsn = asteriskcdr
username = root
pre-connect = yes
"""
_ADAPTIVE = """
[asteriskcdrdb]
connection = asteriskcdrdb
table = cdr
alias start => calldate
"""
STRICT, LENIENT = "STRICT_TRANS_TABLES", "NO_ENGINE_SUBSTITUTION"
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = {"n": "\n", "t": "\t", "0": "\0"}


@dataclass(frozen=True)
class CdrTable:
    """The table that one Asterisk writes into."""

    database: Database
    name: str

    def rows(self) -> list[Row]:
        """All rows, in the order of their sequence."""
        text = self.database.run(f"SELECT * FROM {self.name}.cdr ORDER BY sequence, dstchannel")
        names, *lines = [line.split("\t") for line in text.split("\n")[:-1]] or [[]]
        return [dict(zip(names, map(_unescaped, line), strict=True)) for line in lines]

    async def rows_of(self, events: int) -> list[Row]:
        """The rows, when there are as many as Asterisk has sent `Cdr` events. Raises TimeoutError."""
        async with asyncio.timeout(LIMIT_S):
            while len(rows := self.rows()) < events:  # noqa: ASYNC110  # a table tells nobody that it has grown
                await asyncio.sleep(AGAIN_S)
        return rows

    def clear(self) -> None:
        self.database.run(f"DELETE FROM {self.name}.cdr")


def attached(pbx: Pbx, database: Database, *, strict: bool = False, name: str | None = None) -> CdrTable:
    """Have a running Asterisk write its records into a new table of the server. Raises CalledProcessError.

    `name`: of the database; one of its own where several share the server. `strict`: the server refuses values that it
    can't store as they are, as MariaDB does by default.
    """
    name = name or f"asteriskcdrdb_{pbx.pid}"
    database.run(f"CREATE DATABASE {name}; {TABLE.format(name=name)}")
    pbx.configure("../odbc.ini", _ODBC.format(name=name, socket=_SOCKET, mode=STRICT if strict else LENIENT))
    pbx.configure("res_odbc.conf", _RES_ODBC)
    pbx.configure("cdr_adaptive_odbc.conf", _ADAPTIVE)
    in_its_mounts = ["nsenter", f"--target={pbx.pid}", "--mount", "--"]
    mount = f'touch "$1" && mount --bind "{database.socket}" "$1"'
    subprocess.run(
        [*in_its_mounts, "sh", "-c", mount, "sh", f"/run/root{_SOCKET}"],
        check=True,
        capture_output=True,
        timeout=20,
    )
    pbx.cli("module reload res_odbc.so")
    pbx.cli("module load cdr_adaptive_odbc.so")
    assert "Adaptive ODBC" in pbx.cli("cdr show status"), pbx.log()[-2000:]
    return CdrTable(database, name)


def recordings(pbx: Pbx) -> list[str]:
    """The files under the spool that hold any audio, by name."""
    spool = Path(f"/proc/{pbx.pid}/root/var/spool/asterisk/monitor")
    return [file.name for file in spool.rglob("*.wav") if file.stat().st_size > EMPTY_WAV]


def _unescaped(value: str) -> str:
    return _ESCAPED.sub(lambda found: _PLAIN.get(found[1], found[1]), value)

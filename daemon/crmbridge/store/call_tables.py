"""The call list's tables, and the views of them that the CRM reads by direct SQL.

A lookup reads one range of one index: a number's lines lie together, by time, in the primary key itself. So that this
holds for every spelling and for the views, too, numbers stand apart (`numbers`), each once, and a line has its id.

Ids are computed (`calls.identity`), and each table has a primary key, which a Galera cluster needs. `time` is the
PBX's wall time, which the CRM reads; what sorts and pages is `epoch_s`, which has no hour twice.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    text,
)
from sqlalchemy.dialects import mysql

from crmbridge.calls.cdr import LONGEST_PATH, MAX_LENGTH
from crmbridge.calls.identity import number_id
from crmbridge.store.schema import Schema, create

_ALL_CALLS = (
    "SELECT c.time, c.extension AS ext, n.number, c.talk_s AS duration, c.filename, c.incoming "
    "FROM calls c JOIN numbers n ON n.id = c.number_id"
)
VIEWS = {
    "outgoing_calls": f"{_ALL_CALLS} WHERE c.incoming = 0",
    "incoming_calls": f"{_ALL_CALLS} WHERE c.incoming = 1",
    "all_calls": _ALL_CALLS,
}
"""What the CRM may read: where the store is MySQL or MariaDB."""
CLIENT_CALLS = "client_calls"
"""The view of which those of a single client are made (`sql_access`): it follows the tables, and they needn't."""

_TABLES = MetaData()
_PBX, _TEXT, _NUMBER = String(64), String(MAX_LENGTH), String(64)
_ID = BigInteger()
_BINARY: dict[str, Any] = {
    # Clustered by the primary key in both; compared by bytes in both.
    "sqlite_with_rowid": False,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

numbers = Table(
    "numbers",
    _TABLES,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("number", _NUMBER, nullable=False),
    Column("number_key", _NUMBER, nullable=False),
    Index("numbers_by_number", "number"),
    Index("numbers_by_key", "number_key"),
    **_BINARY,
)

calls = Table(
    "calls",
    _TABLES,
    Column("number_id", _ID, primary_key=True, autoincrement=False),
    Column("epoch_s", BigInteger, primary_key=True, autoincrement=False),
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("pbx", _PBX, nullable=False),
    Column("linkedid", _TEXT, nullable=False),
    Column("client_id", _TEXT, nullable=False),
    Column("extension", _TEXT, nullable=False),
    Column("time", String(19).with_variant(mysql.DATETIME(), "mysql"), nullable=False),
    Column("talk_s", Integer, nullable=False),
    Column("filename", String(LONGEST_PATH), nullable=False),
    Column("incoming", Boolean, nullable=False),
    Index("calls_by_call", "linkedid", "pbx"),
    Index("calls_by_extension", "extension", "time"),
    Index("calls_by_time", "time"),
    **_BINARY,
)

cdrs = Table(
    "cdrs",
    _TABLES,
    # Cdr's fields, in their order. The key is Cdr.key: a call's records lie together.
    Column("pbx", _PBX, primary_key=True),
    Column("linkedid", _TEXT, primary_key=True),
    Column("uniqueid", _TEXT, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("channel", _TEXT, nullable=False),
    Column("dstchannel", _TEXT, primary_key=True),
    Column("src", _TEXT, nullable=False),
    Column("dst", _TEXT, nullable=False),
    Column("did", _TEXT, nullable=False),
    Column("start_epoch_s", BigInteger, nullable=False),
    Column("duration_s", Integer, nullable=False),
    Column("billsec_s", Integer, nullable=False),
    Column("disposition", _TEXT, nullable=False),
    Column("recordingfile", String(LONGEST_PATH), nullable=False),
    Index("cdrs_by_start", "pbx", "start_epoch_s"),
    **_BINARY,
)

progress = Table(
    "progress",
    _TABLES,
    Column("pbx", _PBX, primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("value", String(1000), nullable=False),
    **_BINARY,
)

turns = Table(
    "turns",
    _TABLES,
    # Who writes a PBX's calls writes its row first: see call_writes.
    Column("pbx", _PBX, primary_key=True),
    Column("turn", BigInteger, nullable=False),
    Column("prunings", BigInteger, nullable=False),
    **_BINARY,
)


def _to_version_2(connection: Connection) -> None:
    """Numbers apart, computed ids, wall times. Version 1 was only ever kept in SQLite, where DDL is transactional.

    Whose call a line is was not kept, and in which zone the PBX writes its times is not known here: the client stays
    empty and the time is this machine's, until a record of the call comes again or `crmbridge sync` has been there.
    """
    for table in ("calls", "cdrs"):
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {table}_1"))
    for index in ("calls_by_number", "calls_by_call"):
        connection.execute(text(f"DROP INDEX {index}"))
    create(connection, _TABLES)
    found = connection.execute(text("SELECT DISTINCT number, number_key FROM calls_1")).all()
    if found:
        values = [{"id": number_id(*one), "number": one.number, "number_key": one.number_key} for one in found]
        connection.execute(insert(numbers), values)
    # The row's own id serves as well as a computed one until then; what pages is in the same order.
    connection.execute(text(_LINES_OF_1))
    connection.execute(text(_RECORDS_OF_1))
    for table in ("calls", "cdrs"):
        connection.execute(text(f"DROP TABLE {table}_1"))


_LINES_OF_1 = """
INSERT INTO calls (number_id, epoch_s, id, pbx, linkedid, client_id, extension, time, talk_s, filename, incoming)
SELECT n.id, CAST(strftime('%s', c.started_at) AS INTEGER), c.id, c.pbx, c.linkedid, '', c.extension,
       datetime(c.started_at, 'localtime'), c.talk_s, c.filename, c.incoming
FROM calls_1 c JOIN numbers n ON n.number = c.number AND n.number_key = c.number_key
"""
_RECORDS_OF_1 = """
INSERT INTO cdrs (pbx, linkedid, uniqueid, sequence, dstchannel, channel, src, dst, did, start_epoch_s, duration_s,
                  billsec_s, disposition, recordingfile)
SELECT pbx, linkedid, uniqueid, sequence, dstchannel, channel, src, dst, did,
       CAST(strftime('%s', start_at) AS INTEGER),
       max(0, CAST(strftime('%s', coalesce(end_at, start_at)) AS INTEGER) - CAST(strftime('%s', start_at) AS INTEGER)),
       billsec_s, disposition, recordingfile
FROM cdrs_1
"""

SCHEMA = Schema(
    "call_list",
    _TABLES,
    (_to_version_2,),
    views={**VIEWS, CLIENT_CALLS: _ALL_CALLS.replace(" FROM", ", c.client_id FROM")},
)

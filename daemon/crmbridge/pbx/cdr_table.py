"""Reads the PBX's CDR table in MySQL or MariaDB, as a user who may do nothing but that.

The table is not ours: old and new Asterisks and FreePBXes have different columns, so which there are is asked from
information_schema, and the one index that all of them have is that on `calldate`. Hence every query is for a half-open
range of it, has a time limit at the server, and locks nothing. Ranges are wall times in seconds as if the clock showed
UTC (`calls.wall_time`), because that is what the table holds; which instant each row means is settled per row.

Rows go from the driver to records without anything in between: it is millions of them. It must not know what becomes
of records.
"""

# ruff: noqa: S608  # what is put into queries are names: those of information_schema, and a setting that is checked
from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from crmbridge.calls.cdr import Cdr, from_rows
from crmbridge.calls.wall_time import WallTime
from crmbridge.pbx.cdr_columns import EPOCH_S, NO_INDEX, Column, Shape, shape

log = structlog.get_logger("crmbridge.cdr")

CONNECT_S = 5
QUERY_S = 10
"""What one query may take at the server; a range of time that takes longer is asked for in smaller parts."""
_ANSWER_S = QUERY_S + 5.0
"""Until a server that says nothing at all is given up: it hangs, or its host is gone."""
_AT_ONCE = 500
"""Rows that are made records in one go (a millisecond), before others have their turn."""
EARLIEST_S, LATEST_S = 0, 253402300799
"""1970 and 9999: what MySQL can hold, and what is no mere zero."""

_HINTS = {
    1044: "give the user SELECT on the table: docs/call-records.md has the statement",
    1045: "check user and password in cdr.source, and from which host the user may come",
    1049: "check the database's name in cdr.source (asteriskcdrdb on FreePBX)",
    1142: "give the user SELECT on the table: docs/call-records.md has the statement",
    1040: "it has no connection left: see max_connections there",
    1203: "this user has no connection left: see max_user_connections there",
    1226: "this user may do no more this hour: see MAX_QUERIES_PER_HOUR and the like there",
}
_NO_TIME = {1969, 3024, 1317}
"""max_statement_time, max_execution_time, somebody's KILL QUERY."""
_UNKNOWN = {1064, 1193}
"""A syntax, or a variable, of later versions."""


class SourceError(Exception):
    """Call records can't be read. The message says why, and what an administrator can do."""


class TooSlowError(SourceError):
    """A query was given up: the range must be smaller."""


class CdrTable:
    """The table, read through one connection, which is made when it is needed, and again after it was lost."""

    def __init__(self, url: str, table: str, *, pbx: str, timezone: tzinfo) -> None:
        """`timezone`: of the wall times in the table. Raises SourceError where `url` is none."""
        self._options = _options(url)
        self._schema, _, self._table = table.rpartition(".")
        self._from_rows = from_rows(pbx, wall_time := WallTime(timezone))
        self.wall_time = wall_time
        self._connection: Any = None
        self._shape: Shape | None = None
        self._told = False

    async def close(self) -> None:
        """End the connection; the next question makes another."""
        connection, self._connection = self._connection, None
        self._shape = None
        if connection is not None:
            connection.close()

    async def shape(self) -> Shape:
        """What the table is like; asked once for each connection. Raises SourceError."""
        if self._connection is None:
            await self._connect()
        if self._shape is None:
            self._shape = await self._examine()
            self._tell(self._shape)
        return self._shape

    async def read(self, since_s: int, until_s: int, linkedids: Collection[str] = ()) -> list[Cdr]:
        """The records that started in this range of wall time, until_s not included, in no order.

        `linkedids`: only those of these calls; some hundred at a time. Raises SourceError, of it TooSlowError.
        """
        shape = await self.shape()
        query = f"SELECT {shape.select} FROM {self._name} WHERE {shape.calldate} >= %s AND {shape.calldate} < %s"
        values: list[str] = [_datetime(since_s), _datetime(until_s)]
        if linkedids:
            query += f" AND {shape.linkedid} IN ({', '.join(['%s'] * len(linkedids))})"
            values += linkedids
        rows = await self._rows(query, values)
        records: list[Cdr] = []
        for start in range(0, len(rows), _AT_ONCE):
            records += self._from_rows(rows[start : start + _AT_ONCE])
            await asyncio.sleep(0)
        return records

    async def span(self) -> tuple[int, int] | None:
        """The wall times of the first and the last record, None where there is none. Raises SourceError."""
        column = (await self.shape()).calldate
        ends = [f"TO_SECONDS({which}({column})) - {EPOCH_S}" for which in ("MIN", "MAX")]
        query = f"SELECT {', '.join(ends)} FROM {self._name} WHERE {column} >= %s"
        ((first, last),) = await self._rows(query, [_datetime(EARLIEST_S)])
        return None if first is None else (first, last)

    async def clock_s(self) -> float:
        """By how many seconds the server's clock is ahead of ours. Raises SourceError."""
        if self._connection is None:
            await self._connect()
        asked_at = datetime.now(UTC).timestamp()
        ((told,),) = await self._rows("SELECT UTC_TIMESTAMP(3)")
        between = (asked_at + datetime.now(UTC).timestamp()) / 2
        return float(told.replace(tzinfo=UTC).timestamp() - between)

    @property
    def _name(self) -> str:
        return f"`{self._schema}`.`{self._table}`" if self._schema else f"`{self._table}`"

    async def _connect(self) -> None:
        import asyncmy  # noqa: PLC0415  # 2 MB that a bridge without MySQL does without

        try:
            async with asyncio.timeout(CONNECT_S):
                self._connection = await asyncmy.connect(**self._options)
            ((version,),) = await self._rows("SELECT VERSION()")
            limit = f"max_statement_time = {QUERY_S}"
            if "mariadb" not in version.lower():
                limit = f"max_execution_time = {QUERY_S * 1000}"
            for asked in ("TRANSACTION ISOLATION LEVEL READ COMMITTED", "TRANSACTION READ ONLY", limit):
                await self._set(asked)
        except BaseException as error:
            await self.close()
            if isinstance(error, SourceError) or not isinstance(error, Exception):
                raise
            raise self._explained(error) from error

    async def _set(self, asked: str) -> None:
        """Ask for this in our session. MariaDB before 10.1 and MySQL before 5.7 know less, and are read as well."""
        try:
            async with asyncio.timeout(_ANSWER_S), self._connection.cursor() as cursor:
                await cursor.execute(f"SET SESSION {asked}")
        except Exception as error:
            if _code(error) not in _UNKNOWN:
                raise

    async def _rows(self, query: str, values: Sequence[str] = ()) -> Sequence[tuple[Any, ...]]:
        try:
            async with asyncio.timeout(_ANSWER_S), self._connection.cursor() as cursor:
                await cursor.execute(query, values or None)
                rows: Sequence[tuple[Any, ...]] = await cursor.fetchall()
                return rows
        except BaseException as error:
            if _code(error) not in _NO_TIME:
                await self.close()  # half an answer may still be on its way
            if not isinstance(error, Exception):
                raise
            raise self._explained(error) from error

    async def _examine(self) -> Shape:
        schema = "%s" if self._schema else "DATABASE()"
        where = f"TABLE_SCHEMA = {schema} AND TABLE_NAME = %s"
        named = [self._schema, self._table] if self._schema else [self._table]
        described = await self._rows(
            "SELECT COLUMN_NAME, DATA_TYPE, IS_NULLABLE, CHARACTER_MAXIMUM_LENGTH FROM information_schema.COLUMNS"
            f" WHERE {where}",
            named,
        )
        if not described:
            raise SourceError(
                f"{self._where} has no table {self._name}, or its user may not read it: check cdr.table, and give the"
                " user SELECT on it (docs/call-records.md)"
            )
        columns = {row[0].lower(): Column(*row) for row in described}
        kinds = await self._rows(f"SELECT TABLE_TYPE FROM information_schema.TABLES WHERE {where}", named)
        firsts = None  # what a view's index is, nobody tells
        if not kinds or kinds[0][0] != "VIEW":
            firsts = {row[4].lower() for row in await self._rows(f"SHOW INDEX FROM {self._name}") if row[3] == 1}
        try:
            return shape(columns, firsts)
        except ValueError as error:
            raise SourceError(f"{self._where}: {self._name} {error}") from None

    def _tell(self, shape: Shape) -> None:
        if self._told:
            return
        self._told = True
        log.info("cdr.table", database=self._where, table=self._name, lacking=list(shape.lacking))
        if not shape.indexed:
            log.error("cdr.no_index", table=self._name, hint=NO_INDEX.format(column=shape.calldate, table=self._name))

    @property
    def _where(self) -> str:
        options = self._options
        host = options.get("unix_socket") or f"{options.get('host', 'localhost')}:{options.get('port', 3306)}"
        return f"the CDR database {options.get('db', '')} at {host}"

    def _explained(self, error: Exception) -> SourceError:
        if isinstance(error, SourceError):
            return error
        if isinstance(error, TimeoutError):
            return SourceError(f"{self._where} does not answer: it hangs, or a firewall drops what is sent to it")
        code = _code(error)
        kind = TooSlowError if code in _NO_TIME else SourceError
        said = error.args[1] if code and len(error.args) > 1 else error
        hint = f" ({_HINTS[code]})" if code in _HINTS else ""
        return kind(f"{self._where} can't be read: {said}{hint}")


def _options(url: str) -> dict[str, Any]:
    """What the driver is to be told of a database's address."""
    try:
        address = make_url(url)
        _, options = address.get_dialect()().create_connect_args(address)
    except (ArgumentError, ValueError):
        raise SourceError(
            "cdr.source is no database address: write mysql+asyncmy://USER:PASSWORD@HOST/asteriskcdrdb"
        ) from None
    return {
        "charset": "utf8mb4",
        **options,
        "autocommit": True,
        "connect_timeout": CONNECT_S,
        "program_name": "crmbridge",
    }


def _datetime(wall_s: int) -> str:
    at = datetime.fromtimestamp(min(max(wall_s, EARLIEST_S), LATEST_S), UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S")


def _code(error: BaseException) -> int:
    """MySQL's error number, 0 where it is none of MySQL's."""
    from asyncmy.errors import MySQLError  # noqa: PLC0415  # as above

    if not isinstance(error, MySQLError) or not error.args:
        return 0
    found = re.search(r"\d+", str(error.args[0]))
    return int(found.group()) if found else 0

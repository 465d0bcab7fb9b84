"""What a CDR table is like, from what information_schema says of it, and how its rows are selected. Pure.

Asterisk's backends write the columns that they find: cdr_adaptive_odbc's and FreePBX's tables differ, and old ones lack
what Asterisk learned later. What is missing is selected as a constant, so that a row is always the same tuple.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from crmbridge.calls.cdr import COLUMNS, LONGEST_PATH, MAX_LENGTH

EPOCH_S = 62167219200
"""TO_SECONDS('1970-01-01')"""

_NUMBERS = {"tinyint", "smallint", "mediumint", "int", "bigint"}
_BYTES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_TIMES = {"datetime", "timestamp", "char", "varchar"}

NO_INDEX = (
    "no index begins with {column}, so every look at the table reads all of it and slows the PBX's database down: "
    "CREATE INDEX calldate ON {table} (calldate)"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the table is like."""

    select: str
    """What makes a row of `calls.cdr.COLUMNS`."""
    calldate: str
    linkedid: str
    indexed: bool
    lacking: tuple[str, ...]
    """Columns that this table doesn't have and calls are read worse without."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column, as information_schema.COLUMNS has it."""

    name: str
    kind: str
    nullable: str
    length: int | None

    def text(self, most: int) -> str:
        """SQL for it as text of so many characters at most."""
        sql = f"`{self.name}`"
        if self.kind in _BYTES or self.length is None:
            sql = f"CONVERT({sql} USING utf8mb4)"
        if self.length is None or self.length > most:
            sql = f"LEFT({sql}, {most})"
        return f"IFNULL({sql}, '')" if self.nullable == "YES" else sql

    def number(self) -> str:
        """SQL for it as a whole number, or NULL."""
        sql = f"`{self.name}`"
        if self.kind not in _NUMBERS:
            sql = f"CAST(FLOOR({sql}) AS SIGNED)"
        return sql

    def amount(self) -> str:
        """SQL for it as a whole number."""
        return f"IFNULL({self.number()}, 0)" if self.nullable == "YES" else self.number()


def shape(columns: Mapping[str, Column], firsts: Collection[str] | None) -> Shape:
    """How rows are selected. `columns`: by name in small letters; `firsts`: those that an index begins with.

    Raises ValueError, to be read after the table's name, where it lacks what no record can be made without.
    """
    calldate = columns.get("calldate") or columns.get("start")
    if calldate is None or "uniqueid" not in columns:
        lacks = "calldate (or start)" if calldate is None else "uniqueid"
        raise ValueError(
            f"has no column {lacks}, and without it records can't be told apart: add it (Asterisk fills it from then"
            " on), or choose another cdr.source (docs/call-records.md)"
        )
    if calldate.kind not in _TIMES:
        raise ValueError(f"has {calldate.name} as {calldate.kind}; what can be read is datetime or timestamp")
    linkedid = columns.get("linkedid") or columns["uniqueid"]

    def selected(name: str) -> str:
        if name == "calldate":
            return f"TO_SECONDS(`{calldate.name}`) - {EPOCH_S}"
        column = linkedid if name == "linkedid" else columns.get(name)
        if name == "sequence":
            return column.number() if column else "NULL"
        if name in {"duration", "billsec"}:
            return column.amount() if column else "0"
        most = LONGEST_PATH if name == "recordingfile" else MAX_LENGTH
        return column.text(most) if column else "''"

    return Shape(
        select=", ".join(map(selected, COLUMNS)),
        calldate=f"`{calldate.name}`",
        linkedid=f"`{linkedid.name}`",
        indexed=firsts is None or calldate.name.lower() in firsts,
        lacking=tuple(name for name in COLUMNS if name not in columns and name != "calldate"),
    )

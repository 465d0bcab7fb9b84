"""Call records in the CSV files that Asterisk writes: one line, one `Cdr`. Pure.

Two kinds of lines are known, and told apart line by line, since a file goes on when the configuration changes:

- ours (asterisk-conf/*/cdr_custom.conf), which begins with `crmbridge-1` and has all that makes a call: its start is
  epoch seconds, so no time zone matters;
- Master.csv of cdr_csv: 16 columns, then as `cdr.conf` says the unique id (`loguniqueid`), the user field
  (`loguserfield`), and peer account, linkedid and sequence together (`newcdrcolumns`). Without linkedid a call through
  Local channels falls apart into its records, as with an AMI event that has none.

A value may hold line breaks, in quotes. Where files are and how they grow is not known here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo

from crmbridge.calls.cdr import LONGEST_PATH, MAX_LENGTH, Cdr, clean, count, epoch, instant

OURS = "crmbridge-1"
"""What a line of our own format begins with. Another set of columns will be crmbridge-2."""
MOST_LINES = 50
"""A value with more line breaks than this is none, but a quote that somebody forgot to close."""

_OUR_COLUMNS = 14
_MASTER_COLUMNS = 16
_UNIQUEID = re.compile(r"(?:.*-)?[0-9]{9,10}\.[0-9]+", re.ASCII)


def split(text: str, *, whole: bool = False) -> tuple[list[tuple[str, int]], str]:
    """Cut a file's text into records, each with how many lines it takes, and what is left: half a line or record.

    `whole`: the file has ended, nothing will follow.
    """
    records: list[tuple[str, int]] = []
    lines = text.split("\n")
    rest = lines.pop()
    if whole and rest:
        lines.append(rest)
        rest = ""
    at = 0
    while at < len(lines):
        end, quotes = at, lines[at].count('"')
        while quotes % 2 and end + 1 < len(lines) and end - at < MOST_LINES:
            end += 1
            quotes += lines[end].count('"')
        if quotes % 2 and end - at < MOST_LINES and not whole:
            break  # it goes on in what is not there yet
        if quotes % 2:
            end = at  # never closed: this line alone is wrong
        records.append(("\n".join(lines[at : end + 1]), end + 1 - at))
        at = end + 1
    return records, "\n".join([*lines[at:], rest])


def from_line(pbx: str, timezone: tzinfo) -> Callable[[str], Cdr | None]:
    """What makes a record of such a text. It raises ValueError where it can't, and gives None for an empty line.

    `timezone`: of Master.csv's times (UTC with `usegmtime` in cdr.conf).
    """

    def read(text: str) -> Cdr | None:
        if not text.strip("\r\n \0"):
            return None
        try:
            (fields,) = csv.reader([text], strict=True)
        except csv.Error as error:
            raise ValueError(f"no CSV ({error})") from None
        values = [clean(value)[:LONGEST_PATH] for value in fields]
        if values[0] == OURS:
            return _ours(pbx, values)
        return _master(pbx, timezone, values)

    return read


def _ours(pbx: str, values: Sequence[str]) -> Cdr:
    if len(values) != _OUR_COLUMNS:
        raise ValueError(f"{len(values)} columns, where {OURS} has {_OUR_COLUMNS}")
    _, linkedid, uniqueid, sequence, channel, dstchannel, src, dst, did, start, *others = values
    seconds, _, _ = start.partition(".")
    if not seconds.isdecimal():
        raise ValueError(f"its start is {start!r}, no epoch seconds")
    start_at = datetime.fromtimestamp(int(seconds), UTC)
    return _made(pbx, linkedid, uniqueid, sequence, (channel, dstchannel, src, dst, did), start_at, others)


def _master(pbx: str, timezone: tzinfo, values: Sequence[str]) -> Cdr:
    if not _MASTER_COLUMNS < len(values) <= _MASTER_COLUMNS + 5:
        raise ValueError(f"{len(values)} columns: neither {OURS} nor Master.csv with loguniqueid = yes")
    _, src, dst, _, _, channel, dstchannel, _, _, start, _, _, duration, billsec, disposition, _, *more = values
    linkedid = sequence = ""
    if len(more) > 2:  # peer account, linkedid and sequence come together
        *more, _, linkedid, sequence = more
    uniqueid = more[0] if more and _UNIQUEID.fullmatch(more[0]) else ""
    start_at = instant(start, timezone, epoch(uniqueid) or epoch(linkedid))
    if start_at is None:
        raise ValueError("no start")
    others = (duration, billsec, disposition, "")
    return _made(pbx, linkedid, uniqueid, sequence, (channel, dstchannel, src, dst, ""), start_at, others)


def _made(
    pbx: str,
    linkedid: str,
    uniqueid: str,
    sequence: str,
    names: tuple[str, str, str, str, str],
    start_at: datetime,
    others: Sequence[str],
) -> Cdr:
    if not uniqueid:
        raise ValueError("no unique id; Master.csv has one with loguniqueid = yes in cdr.conf, section [csv]")
    channel, dstchannel, src, dst, did = names
    duration, billsec, disposition, recordingfile = others
    return Cdr(
        pbx,
        linkedid[:MAX_LENGTH] or uniqueid[:MAX_LENGTH],
        uniqueid[:MAX_LENGTH],
        count(sequence, otherwise=-int(start_at.timestamp())),
        channel[:MAX_LENGTH],
        dstchannel[:MAX_LENGTH],
        src[:MAX_LENGTH],
        dst[:MAX_LENGTH],
        did[:MAX_LENGTH],
        start_at,
        count(duration, otherwise=0),
        count(billsec, otherwise=0),
        disposition.upper(),
        recordingfile,
    )

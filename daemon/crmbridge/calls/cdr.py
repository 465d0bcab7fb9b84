"""One call record (CDR) of the PBX, and how it is read: from what cdr_manager sends, from a table's row. Pure.

Whatever it is read from, the same record has the same key. Lines of files are `cdr_csv`'s; what several records say
about a call is `history`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple

from crmbridge.calls.wall_time import WallTime, seconds

MAX_LENGTH = 150
"""Characters kept of a value: AST_MAX_UNIQUEID, the longest that Asterisk puts into a record's key."""

LONGEST_PATH = 255
"""Characters kept of a recording's name: the CDR table of FreePBX has as many."""

_EPOCH = re.compile(r"(?<![0-9])[0-9]{10}(?![0-9])", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Cdr(NamedTuple):
    """One call record. A tuple: a table of ten million of them is read in one go."""

    pbx: str
    linkedid: str
    uniqueid: str
    sequence: int
    """Asterisk's own count of records (it restarts with Asterisk). Where the PBX doesn't send it: a negative number
    made from the start, so that two records of the same pair of channels stay two."""
    channel: str
    dstchannel: str
    src: str
    dst: str
    did: str
    start_at: datetime
    """Aware UTC, whole seconds. `calldate` in a CDR table."""
    duration_s: int
    """Seconds from start to end."""
    billsec_s: int
    """Seconds since A was answered, whatever B did."""
    disposition: str
    recordingfile: str

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What makes this the same record, from wherever it comes and however often."""
        return (self.pbx, self.linkedid, self.uniqueid, self.sequence, self.dstchannel)


def from_event(event: Mapping[str, str], *, pbx: str, timezone: tzinfo) -> Cdr:
    """The record in an AMI `Cdr` event (cdr_manager).

    `timezone`: in which the PBX writes its times (UTC with `usegmtime`). Headers that only `[mappings]` in
    cdr_manager.conf adds (linkedid, sequence, recordingfile, did) may be missing and may have any case; without
    linkedid, a call through Local channels falls apart into its records. Raises ValueError where the event has no
    unique id or no readable start.
    """
    told = {name.lower(): clean(value)[:LONGEST_PATH] for name, value in event.items()}
    mapped = {name: value[:MAX_LENGTH] for name, value in told.items()}
    uniqueid = mapped.get("uniqueid", "")
    if not uniqueid:
        raise ValueError("a Cdr event without UniqueID")
    linkedid = mapped.get("linkedid") or uniqueid
    start_at = instant(mapped.get("starttime", ""), timezone, epoch(uniqueid) or epoch(linkedid))
    if start_at is None:
        raise ValueError("a Cdr event without StartTime")
    return Cdr(
        pbx=pbx,
        linkedid=linkedid,
        uniqueid=uniqueid,
        sequence=count(mapped.get("sequence", ""), otherwise=-int(start_at.timestamp())),
        channel=mapped.get("channel", ""),
        dstchannel=mapped.get("destinationchannel", ""),
        src=mapped.get("source", ""),
        dst=mapped.get("destination", ""),
        did=mapped.get("did", ""),
        start_at=start_at,
        duration_s=count(mapped.get("duration", ""), otherwise=0),
        billsec_s=count(mapped.get("billableseconds", ""), otherwise=0),
        disposition=mapped.get("disposition", "").upper(),
        recordingfile=told.get("recordingfile", ""),
    )


COLUMNS = (
    *("linkedid", "uniqueid", "sequence", "channel", "dstchannel", "src", "dst", "did"),
    *("calldate", "duration", "billsec", "disposition", "recordingfile"),
)
"""What a CDR table's row must be selected as, in this order, for `from_rows`: `calldate` in seconds as if it were UTC,
`sequence` a number or None, `duration` and `billsec` numbers, all else text."""


def from_rows(pbx: str, wall_time: WallTime) -> Callable[[Iterable[tuple[Any, ...]]], list[Cdr]]:
    """What makes records of a table's rows; those without a unique id are left out: nothing would tell them apart.

    Ten million rows go through here, at some 2 µs each.
    """
    make, steady, from_epoch = tuple.__new__, wall_time.steady, datetime.fromtimestamp

    def read(rows: Iterable[tuple[Any, ...]]) -> list[Cdr]:
        records: list[Cdr] = []
        for row in rows:
            linkedid, uniqueid, sequence, channel, dstchannel, src, dst, did, wall_s, duration, billsec, said, file = (
                row
            )
            if not f"{linkedid}{uniqueid}{channel}{dstchannel}{src}{dst}{did}{said}{file}".isprintable():
                texts = (linkedid, uniqueid, channel, dstchannel, src, dst, did, said, file)
                linkedid, uniqueid, channel, dstchannel, src, dst, did, said, file = (clean(one) for one in texts)
            if not uniqueid:
                continue
            offset = steady(wall_s)
            at_s = wall_s - offset if offset is not None else _settled(wall_time, wall_s, uniqueid, linkedid)
            if sequence is None:
                sequence = -at_s
            values = (pbx, linkedid or uniqueid, uniqueid, sequence, channel, dstchannel, src, dst, did)
            times = (from_epoch(at_s, UTC), max(duration, 0), max(billsec, 0))
            records.append(make(Cdr, (*values, *times, _DISPOSITIONS.get(said) or said.upper(), file)))
        return records

    return read


def _settled(wall_time: WallTime, wall_s: int, uniqueid: str, linkedid: str) -> int:
    return wall_time.epoch(wall_s, epoch(uniqueid) or epoch(linkedid))


_DISPOSITIONS = {said: said for said in ("ANSWERED", "NO ANSWER", "BUSY", "FAILED", "CONGESTION")}
"""One text each, however many records say it."""


def clean(text: str) -> str:
    """Without control characters."""
    return _CONTROL.sub("", text)


def count(text: str, *, otherwise: int) -> int:
    """A number of a record, or `otherwise`, where it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else otherwise


def epoch(identity: str | None) -> int | None:
    """When a channel was made: `1795413177.274`, `pbx1-1795413177.274`; None where the id tells nothing."""
    found = _EPOCH.search(identity) if identity else None
    return int(found.group()) if found else None


_wall_time = lru_cache(maxsize=8)(WallTime)
"""One for all records: a day's offset is then looked for once a day (40 µs)."""


def instant(text: str, timezone: tzinfo, not_before: int | None) -> datetime | None:
    """A wall time as an instant. In the hour that a clock change repeats, the first that is not before `not_before`.

    Raises ValueError.
    """
    if not text:
        return None
    told = datetime.fromisoformat(text)
    if told.tzinfo is not None:
        return told.astimezone(UTC)
    return datetime.fromtimestamp(_wall_time(timezone).epoch(seconds(text), not_before), UTC)

"""One call record (CDR) of the PBX, and how it is read from what cdr_manager sends. Pure.

What several records say about a call is `history`'s business. Later sources of records (the CDR table, Master.csv) make
the same `Cdr`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

MAX_LENGTH = 150
"""Characters kept of a value: AST_MAX_UNIQUEID, the longest that Asterisk puts into a record's key."""

LONGEST_PATH = 255
"""Characters kept of a recording's name: the CDR table of FreePBX has as many."""

_EPOCH = re.compile(r"(?<![0-9])[0-9]{10}(?![0-9])", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SLACK = timedelta(seconds=2)


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
    clean = {name.lower(): _CONTROL.sub("", value)[:LONGEST_PATH] for name, value in event.items()}
    mapped = {name: value[:MAX_LENGTH] for name, value in clean.items()}
    uniqueid = mapped.get("uniqueid", "")
    if not uniqueid:
        raise ValueError("a Cdr event without UniqueID")
    linkedid = mapped.get("linkedid") or uniqueid
    start_at = _instant(mapped.get("starttime", ""), timezone, _epoch(uniqueid) or _epoch(linkedid))
    if start_at is None:
        raise ValueError("a Cdr event without StartTime")
    return Cdr(
        pbx=pbx,
        linkedid=linkedid,
        uniqueid=uniqueid,
        sequence=_count(mapped.get("sequence", ""), otherwise=-int(start_at.timestamp())),
        channel=mapped.get("channel", ""),
        dstchannel=mapped.get("destinationchannel", ""),
        src=mapped.get("source", ""),
        dst=mapped.get("destination", ""),
        did=mapped.get("did", ""),
        start_at=start_at,
        duration_s=_count(mapped.get("duration", ""), otherwise=0),
        billsec_s=_count(mapped.get("billableseconds", ""), otherwise=0),
        disposition=mapped.get("disposition", "").upper(),
        recordingfile=clean.get("recordingfile", ""),
    )


def _count(text: str, *, otherwise: int) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else otherwise


def _epoch(identity: str) -> datetime | None:
    """When a channel was made: `1795413177.274`, `pbx1-1795413177.274`; None where the id tells nothing."""
    found = _EPOCH.search(identity)
    return datetime.fromtimestamp(int(found.group()), UTC) if found else None


def _instant(text: str, timezone: tzinfo, not_before: datetime | None) -> datetime | None:
    """A wall time as an instant. In the hour that a clock change repeats, the first that is not before `not_before`."""
    if not text:
        return None
    wall = datetime.fromisoformat(text)
    if wall.tzinfo is not None:
        return wall.astimezone(UTC)
    first, second = (wall.replace(tzinfo=timezone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if not_before is not None and first < not_before - _SLACK and first < second:
        return second
    return first

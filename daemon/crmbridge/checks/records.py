"""Call records and what is made of them: their source and how far it is behind, the call list, the recordings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from crmbridge import build
from crmbridge.calls import recordings as names
from crmbridge.calls.cdr import Cdr
from crmbridge.calls.wall_time import WallTime
from crmbridge.checks.link import Link, broken, good, judged, some, weak
from crmbridge.config import Settings
from crmbridge.pbx.cdr_columns import NO_INDEX
from crmbridge.pbx.cdr_table import CdrTable, SourceError
from crmbridge.store.schema import StoreError
from crmbridge.web import folder

SOURCE, LIST, RECORDINGS = "call records", "call list", "recordings"

QUIET = timedelta(days=4)
"""So long there may be no call: a long weekend."""
AHEAD = timedelta(seconds=60)
"""So far a record may lie in the future: clocks differ."""
_RECENT_S = 3600
"""Seconds before the latest record in which those are looked at whose recordings should be there."""
_MOST_LOOKED_FOR = 20


async def source(settings: Settings) -> tuple[Link, list[Cdr], float | None]:
    """Where call records come from; with some of the latest, and by how many seconds that source's clock is ahead."""
    address = settings.cdr.source.get_secret_value()
    if address == "ami":
        return good(SOURCE, "AMI events: what ends without a session is in no call list"), [], None
    try:
        if address.startswith("/"):
            link, latest = await asyncio.to_thread(_files, settings)
            return link, latest, None
        return await _table(settings)
    except SourceError as error:
        return broken(SOURCE, str(error)), [], None


def _files(settings: Settings) -> tuple[Link, list[Cdr]]:
    files = build.cdr_files(settings)
    told = ", ".join(map(str, files.all()))
    span = files.span()
    latest = []
    if span is not None:
        latest = [one for one in files.read(files.since(span[1] - _RECENT_S)).records if one.recordingfile]
    return _lag(told, span[1] if span else None, settings), latest


async def _table(settings: Settings) -> tuple[Link, list[Cdr], float | None]:
    table = build.cdr_table(settings)
    try:
        shape, span, ahead_s = await table.shape(), await table.span(), await table.clock_s()
        if not shape.indexed:
            hint = NO_INDEX.format(column=shape.calldate, table=settings.cdr.table)
            return broken(SOURCE, hint), [], ahead_s
        latest = await _latest(table, span[1]) if span else []
    finally:
        await table.close()
    lacking = f"; it has no {', '.join(shape.lacking)} (docs/call-records.md)" if shape.lacking else ""
    at = WallTime(build.pbx_timezone(settings.cdr)).epoch(span[1]) if span else None
    return _lag(f"table {settings.cdr.table}", at, settings, lacking), latest, ahead_s


async def _latest(table: CdrTable, last_s: int) -> list[Cdr]:
    return [one for one in await table.read(last_s - _RECENT_S, last_s + 1) if one.recordingfile]


def _lag(where: str, at: int | None, settings: Settings, lacking: str = "") -> Link:
    """`at`: when the latest record starts, in epoch seconds."""
    if at is None:
        return good(SOURCE, f"{where}, the latest of none yet{lacking}")
    timezone: tzinfo = build.pbx_timezone(settings.cdr)
    age = datetime.now(UTC) - datetime.fromtimestamp(at, UTC)
    found = f"{where}, the latest of {datetime.fromtimestamp(at, timezone):%Y-%m-%d %H:%M:%S}"
    if age < -AHEAD:
        mend = "set cdr.timezone to the zone of the PBX's clock, and the clocks right"
        return broken(SOURCE, f"{found}, which lies {_spoken(-age)} in the future: {mend}")
    if age > QUIET:
        mend = "does Asterisk still write there (`cdr show status`), and is cdr.source the one that it writes?"
        return weak(SOURCE, f"{found}, {_spoken(age)} ago: {mend}{lacking}")
    return good(SOURCE, f"{found}, {_spoken(age)} ago{lacking}")


def _spoken(age: timedelta) -> str:
    seconds = max(0, round(age.total_seconds()))
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


async def call_list(settings: Settings) -> Link:
    """Where calls are listed. In a server's database this makes the tables, as the daemon would."""
    path = settings.store.state_dir / build.CALL_LIST
    if settings.store.url is None and not path.exists():
        return good(LIST, f"none yet; it will be made in {path.parent}")
    try:
        async with build.call_list(settings, lambda _: []) as calls:
            newest = await calls.newest()
    except StoreError as error:
        return broken(LIST, str(error))
    return good(LIST, f"its newest call is of {newest}" if newest else "no calls in it yet")


def recordings(settings: Settings, latest: Iterable[Cdr]) -> list[Link]:
    """Whether the folder can be read, and holds what the latest records name."""
    path = settings.cdr.recordings_dir
    if path is None:
        return []
    try:
        with os.scandir(path):
            reads = os.access(path, os.X_OK)
    except PermissionError:  # by a folder above it, too: Debian's /var/spool/asterisk is its group's alone
        reads = False
    except OSError:
        return [broken(RECORDINGS, f"{path} is no folder: see cdr.recordings_dir")]
    if not reads:
        advice = "let the service's user into the group that may (SupplementaryGroups=, docs/operations.md)"
        return [broken(RECORDINGS, f"{path} can't be read by this user: {advice}")]
    return [_holds(path, [one.recordingfile for one in latest if one.recordingfile][-_MOST_LOOKED_FOR:])]


def _holds(path: Path, named: list[str]) -> Link:
    if not named:
        return good(RECORDINGS, f"{path} can be read")
    try:
        missing = [name for name in named if not _is_there(path, name)]
    except OSError as error:
        advice = "can this user read the files, too (groups), is its disk there?"
        return broken(RECORDINGS, f"{path}: {error.strerror}; {advice}")
    if len(missing) == len(named):
        advice = (
            "set cdr.recordings_dir to the folder that Asterisk records into (FreePBX: /var/spool/asterisk/monitor)"
        )
        found = f"{path} holds none of the {len(named)} recordings that the latest records name ({some(missing, 2)})"
        return broken(RECORDINGS, f"{found}: {advice}")
    remarks = []
    if len(missing) * 2 > len(named):
        remarks.append(f"{len(missing)} of the {len(named)} latest recordings are not in {path}: are they moved away?")
    found = f"{path} can be read, and holds {len(named) - len(missing)} of the {len(named)} latest recordings"
    return judged(RECORDINGS, found, faults=[], remarks=remarks)


def _is_there(path: Path, filename: str) -> bool:
    name = names.name_of(filename, (str(path), folder.real(str(path))))
    opened = folder.open_first(str(path), names.places(name)) if name else None
    if opened is None:
        return False
    os.close(opened.fd)
    return True

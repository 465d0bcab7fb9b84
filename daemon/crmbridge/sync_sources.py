"""Where `crmbridge sync` has the PBX's history from: the CDR table, or files.

A table is read by time and can be asked for a call again. A file is read from end to end; its records are in the order
in which calls ended, so a call is whole when a day has passed, and what was rotated away is gone.
"""

from __future__ import annotations

from asyncio import get_running_loop, sleep, to_thread
from collections.abc import AsyncIterator, Collection
from time import process_time

import structlog

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.gathering import LONGEST_CALL_S, Gathering
from crmbridge.pbx.cdr_file import CdrFiles
from crmbridge.pbx.cdr_table import CdrTable, TooSlowError
from crmbridge.pbx.pace import Pace
from crmbridge.sync import Piece

log = structlog.get_logger("crmbridge.sync")

ROWS = 4000
"""That one query gives, about."""
_LONGEST_READ_S = 86400
"""The most time in one query that reads calls again: it goes through all records of it."""


class TableHistory:
    """The history that a CDR table is."""

    def __init__(self, table: CdrTable) -> None:
        """`table` stays the caller's."""
        self._table = table
        self._pace = Pace(ROWS)
        self._rested_at = 0.0
        """On the loop's clock: until then the database is left alone."""

    async def span(self) -> tuple[int, int] | None:
        """When the first and the last record start. Raises SourceError."""
        walls = await self._table.span()
        if walls is None:
            return None
        both = self._table.wall_time.both
        return min(both(walls[0])), max(both(walls[1]))

    def gathering(self, since: int) -> Gathering:
        """What makes calls of its records."""
        return Gathering(since)

    async def pieces(self, since: int, last: int) -> AsyncIterator[Piece]:
        """Ranges of time, each as long as holds some thousand rows."""
        wall_time = self._table.wall_time
        at, end = wall_time.reach(since, last + 1)
        while at < end:
            span_s = min(self._pace.span_s, end - at)
            records = await self._timed(at, at + span_s)
            if records is not None:
                at += span_s
                yield Piece(records, min(wall_time.both(at)))

    async def again(self, linkedids: Collection[str], since: int, until: int) -> list[Cdr]:
        """All records of these calls that start then."""
        at, end = self._table.wall_time.reach(since, until)
        found: list[Cdr] = []
        longest_s = _LONGEST_READ_S
        while at < end:
            span_s = min(longest_s, end - at)
            records = await self._timed(at, at + span_s, linkedids)
            if records is None:
                longest_s = max(1, longest_s // 4)
                continue
            found += records
            at += span_s
        return found

    async def _timed(self, since_s: int, until_s: int, linkedids: Collection[str] = ()) -> list[Cdr] | None:
        """The records; None where there were too many to be read in time."""
        clock = get_running_loop().time
        await sleep(max(0.0, self._rested_at - clock()))
        began, used = clock(), process_time()
        try:
            records = await self._table.read(since_s, until_s, linkedids)
        except TooSlowError as error:
            if until_s - since_s <= 1:
                raise
            log.debug("sync.slow", reason=str(error), span_s=until_s - since_s)
            self._pace.too_slow()
            return None
        ended = clock()
        if not linkedids:
            # What this process did meanwhile, with other records too, is nothing that the database took.
            took_s = max(0.0, ended - began - (process_time() - used))
            self._rested_at = ended + self._pace.took(len(records), took_s)
        return records


class FileHistory:
    """The history that is in a file and in what it was called before it was rotated."""

    def __init__(self, files: CdrFiles) -> None:
        """`files` names wrong lines by itself."""
        self._files = files

    async def span(self) -> tuple[int, int] | None:
        """When the first and the last record start. Raises SourceError."""
        return await to_thread(self._files.span)

    def gathering(self, since: int) -> Gathering:
        """What makes calls of its records."""
        return Gathering(since, slack_s=LONGEST_CALL_S, guess=False)

    async def pieces(self, since: int, last: int) -> AsyncIterator[Piece]:
        """A file's part at a time."""
        del last
        until = since
        for file in await to_thread(self._files.all):
            place = self._files.beginning(file)
            more = True
            while more:
                part = await to_thread(self._files.part, file, place, whole=True)
                place, more = part.place, part.more
                until = max([until, *(int(one.start_at.timestamp()) + one.duration_s for one in part.records)])
                yield Piece([one for one in part.records if one.start_at.timestamp() >= since], until)

    async def again(self, linkedids: Collection[str], since: int, until: int) -> None:
        """Nothing: a file is read once."""
        del linkedids, since, until

"""Follows the PBX's CDR table: what is in it gets into the call list, each record once, most of them within a second.

AMI's `Cdr` event is only the bell: it says when a record began, and the table is looked at there, again and again until
the row is there, since it may be written later than it is told (`batch = yes`: minutes). What no bell rang for is
found by going over the table: the last minutes every few seconds where no bell rings at all, the last hour every
minute, and every ten minutes all that may have come since the last time. That is a day more than the time since, for a
call's row appears when it ends, with the time at which it began.

The call list knows which records it has; what is in the table and isn't there is new, whatever happened to the table.
Nothing is ever taken out of the list because it is gone from the table.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from crmbridge.calls.cdr import Cdr, epoch
from crmbridge.calls.gathering import LONGEST_CALL_S
from crmbridge.calls.wall_time import around, seconds
from crmbridge.following import Follower
from crmbridge.pbx.cdr_table import CdrTable, TooSlowError
from crmbridge.pbx.pace import Pace
from crmbridge.records import Store, say_stored, say_unreadable

log = structlog.get_logger("crmbridge.cdr")

PROGRESS = "table"
"""Under which name the call list keeps until when all was read."""
ROWS = 2000
"""That one query gives, about: some ten milliseconds of this process."""
AT_ONCE = 500
"""Records that are taken up in one transaction."""
MOST_BELLS = 10_000
"""That are waited for at a time; what is beyond them, going over the table finds."""
_MOST_LOOKS = 20
"""Places that are looked at before others have their turn."""
_AHEAD_S = 86400
"""How far ahead of ours the PBX's clock may be."""
_KEEP_EVERY_S = 30.0
_NO_INDEX_PAUSE_S = 60.0
"""Between looks at a table that must be read from end to end for each."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How often is looked, in seconds."""

    bell: tuple[float, ...] = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160)
    """After a bell, from one look to the next: five minutes in all, which is cdr.conf's `time` for `batch = yes`."""
    sweeps: tuple[tuple[int, float], ...] = ((300, 5.0), (3600, 60.0))
    """How much of the past is looked at, and how often; the first only where no bell rang in that time."""
    settle_s: float = 600.0
    """From one time over all that may have come to the next."""


@dataclass(slots=True)
class _Bell:
    uniqueid: str
    dstchannel: str
    places: tuple[int, ...]
    """Wall times at which the record may have begun."""
    rang_at: float
    due: float
    tries: int = 0

    def rang_for(self, one: Cdr) -> bool:
        """A table may keep less of a text than the event tells."""
        return self.uniqueid.startswith(one.uniqueid) and self.dstchannel.startswith(one.dstchannel)


@dataclass(slots=True)
class _Sweep:
    """One way over the table."""

    past_s: int | None
    """None: since all was read, and a day."""
    every_s: float
    due: float = 0.0
    at: int | None = None
    """Wall time that it has come to; None: it is not under way."""
    end: int = 0
    began: int = 0
    since: int = 0
    """Epoch seconds."""
    new: int = 0
    once_more: bool = field(default=False)


class TableRecords(Follower):
    """Follows the table."""

    def __init__(
        self,
        *,
        pbx: str,
        table: CdrTable,
        store: Store,
        timing: Timing | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`table` is this one's from now on."""
        super().__init__()
        self._pbx = pbx
        self._table = table
        self._store = store
        self._timing = timing or Timing()
        self._now = now
        self._bells: dict[tuple[str, str, str], _Bell] = {}
        self._last_bell = float("-inf")
        self._pace = Pace(ROWS)
        self._rested_at = 0.0
        self._is_first = False
        """Nothing was ever read before."""
        self._read_until: int | None = None
        """Epoch seconds: what was in the table then has been read."""
        self._kept_at = float("-inf")
        self._told_late = False
        self._quick, *others = (_Sweep(past_s, every_s) for past_s, every_s in self._timing.sweeps)
        self._all = _Sweep(None, self._timing.settle_s)
        self._sweeps = [self._quick, *others, self._all]

    def take(self, event: Mapping[str, str]) -> None:
        """Take an AMI `Cdr` event as the bell. Returns at once."""
        told = {name.lower(): value for name, value in event.items()}
        uniqueid, dstchannel, start = (told.get(name, "") for name in ("uniqueid", "destinationchannel", "starttime"))
        places = set()
        with suppress(ValueError):
            places.add(seconds(start))
        # With `usegmtime` the table's times are not the event's.
        if (made := epoch(uniqueid)) is not None:
            places.update(self._table.wall_time.reach(made, made))
        if not places or not uniqueid:
            say_unreadable(event, "a Cdr event without UniqueID or StartTime")
            return
        now = asyncio.get_running_loop().time()
        self._last_bell = now
        if len(self._bells) >= MOST_BELLS:
            self._hurry()
            return
        self._bells[uniqueid, dstchannel, start] = _Bell(uniqueid, dstchannel, tuple(sorted(places)), now, now)
        self.wake()

    def told_of(self) -> Sequence[float]:
        """When the bells rang that are waited for."""
        return [bell.rang_at for bell in self._bells.values()]

    def connected(self, event: Mapping[str, str]) -> None:
        """Look for what happened without an AMI session."""
        del event
        self._hurry()

    def came_back(self) -> None:
        """Look for what happened during an outage."""
        self._hurry()

    async def close(self) -> None:
        """End the connection."""
        await self._table.close()

    def _hurry(self) -> None:
        self._all.due = 0.0
        self._all.once_more = self._all.at is not None
        self.wake()

    async def step(self) -> float:
        """Do what is due; seconds until something will be. Raises SourceError and StoreError."""
        clock = asyncio.get_running_loop().time
        if self._read_until is None:
            await self._recall()
        resting_s = self._rested_at - clock()
        if resting_s > 0:
            return await self._rest(resting_s)
        now = clock()
        bells = [bell for bell in self._bells.values() if bell.due <= now]
        if bells:
            await self._look(bells[:_MOST_LOOKS])
        elif sweep := self._due(now):
            await self._go_on(sweep)
        else:
            coming = [bell.due for bell in self._bells.values()] + [one.due for one in self._sweeps]
            return max(0.0, min(coming) - now)
        if not (await self._table.shape()).indexed:
            self._rested_at = max(self._rested_at, clock() + _NO_INDEX_PAUSE_S)
        return 0.0

    async def _rest(self, seconds: float) -> float:
        """Leave the database alone; bells are no reason not to."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return 0.0

    async def _recall(self) -> None:
        kept = await self._store.progress(self._pbx, PROGRESS)
        now = int(self._now().timestamp())
        if kept is None:
            self._is_first = True
            since = datetime.fromtimestamp(now - LONGEST_CALL_S, UTC).isoformat()
            log.info("cdr.follows", since=since, hint="`crmbridge sync` brings what is older into the call list")
        self._read_until = now if kept is None else int(json.loads(kept)["at"])

    # Bells

    async def _look(self, bells: Sequence[_Bell]) -> None:
        """See whether the rows are there for which these bells rang."""
        found: list[Cdr] = []
        for since, until in around(place for bell in bells for place in bell.places):
            records = await self._timed(since, until)
            await self._take_up(records, since, until)
            found += records
        now = asyncio.get_running_loop().time()
        answered = {id(bell) for bell in bells if any(bell.rang_for(one) for one in found)}
        for key, bell in list(self._bells.items()):
            if id(bell) in answered:
                del self._bells[key]
        for bell in bells:
            if id(bell) not in answered:
                self._later(bell, now)

    def _later(self, bell: _Bell, now: float) -> None:
        pauses = self._timing.bell
        if bell.tries < len(pauses):
            bell.due = now + pauses[bell.tries]
            bell.tries += 1
            return
        self._bells = {key: one for key, one in self._bells.items() if one is not bell}
        tell = log.debug if self._told_late else log.warning
        self._told_late = True
        tell(
            "cdr.no_row",
            uniqueid=bell.uniqueid,
            waited_s=round(sum(pauses)),
            hint="Asterisk told of a record that the table does not have: see its log for the CDR backend, cdr.conf's"
            " batch settings, and cdr.table; the row is looked for on. Said once.",
        )

    # Going over the table

    def _due(self, now: float) -> _Sweep | None:
        """The shortest one that is under way or due."""
        quick = self._quick
        if quick.at is None and now - self._last_bell < (quick.past_s or 0):
            quick.due = max(quick.due, self._last_bell + (quick.past_s or 0))
        return next((one for one in self._sweeps if one.at is not None or one.due <= now), None)

    async def _go_on(self, sweep: _Sweep) -> None:
        wall_time = self._table.wall_time
        if sweep.at is None:
            self._begin(sweep)
        at = sweep.at if sweep.at is not None else 0
        until = min(at + self._pace.span_s, sweep.end)
        try:
            records = await self._timed(at, until)
        except TooSlowError:
            if until - at <= 1:
                raise
            self._pace.too_slow()
            return
        sweep.new += await self._take_up(records, at, until, begun=sweep.since if sweep is self._all else None)
        sweep.at = until
        if sweep is self._all:
            await self._keep(min(*wall_time.both(until), sweep.began), done=until >= sweep.end)
        if until >= sweep.end:
            self._end(sweep)

    def _begin(self, sweep: _Sweep) -> None:
        now = int(self._now().timestamp())
        past = now - sweep.past_s if sweep.past_s is not None else min(self._read_until or now, now) - LONGEST_CALL_S
        sweep.began, sweep.since, sweep.new = now, past, 0
        sweep.at, sweep.end = self._table.wall_time.reach(past, now + _AHEAD_S)

    def _end(self, sweep: _Sweep) -> None:
        now = asyncio.get_running_loop().time()
        sweep.at = None
        sweep.due = 0.0 if sweep.once_more else now + sweep.every_s
        sweep.once_more = False
        self._is_first = self._is_first and sweep is not self._all
        if sweep.new:
            tell = log.info if sweep is self._all else log.debug
            tell("cdr.found", records=sweep.new, since=datetime.fromtimestamp(sweep.since, UTC).isoformat())

    async def _keep(self, until: int, *, done: bool) -> None:
        self._read_until = max(self._read_until or 0, until) if not done else until
        now = asyncio.get_running_loop().time()
        if done or now - self._kept_at >= _KEEP_EVERY_S:
            self._kept_at = now
            await self._store.set_progress(self._pbx, PROGRESS, json.dumps({"at": self._read_until}))

    # Reading and storing

    async def _timed(self, since_s: int, until_s: int, linkedids: Sequence[str] = ()) -> list[Cdr]:
        clock = asyncio.get_running_loop().time
        began = clock()
        records = await self._table.read(since_s, until_s, linkedids)
        if not linkedids:
            self._rested_at = clock() + self._pace.took(len(records), clock() - began)
        return records

    async def _take_up(self, records: Sequence[Cdr], since_s: int, until_s: int, begun: int | None = None) -> int:
        """Have those stored that the call list does not know, all that there are from this range; how many.

        `begun`: where the reading began; of calls that may have begun before that, the records from before, too.
        """
        if not records:
            return 0
        both = self._table.wall_time.both
        since, until = min(both(since_s)), max(both(until_s))
        known = await self._store.known(self._pbx, _instant(since), _instant(until))
        new = [one for one in records if one.key not in known]
        if begun is not None and since < begun + LONGEST_CALL_S:
            # At the very first, what a shorter sweep has taken up is as new.
            new = await self._from_before(records if self._is_first else new, begun) + new
        for start in range(0, len(new), AT_ONCE):
            await self._store.add(new[start : start + AT_ONCE])
        self.taken_up += len(new)
        say_stored(new)
        return len(new)

    async def _from_before(self, some: Sequence[Cdr], begun: int) -> list[Cdr]:
        told = {one.linkedid: _may_have_begun(one) for one in some}
        early = [linkedid for linkedid, at in told.items() if at < begun]
        found: list[Cdr] = []
        for start in range(0, len(early), 200):
            names = early[start : start + 200]
            since, until = self._table.wall_time.reach(min(told[one] for one in names) - 2, begun + 1)
            found += await self._timed(since, until, names)
        return found


def _may_have_begun(one: Cdr) -> int:
    """Since when its call may go on, in epoch seconds."""
    start = int(one.start_at.timestamp())
    told = epoch(one.linkedid)
    return told if told is not None and start - LONGEST_CALL_S <= told <= start else start - LONGEST_CALL_S


def _instant(epoch_s: int) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)

"""Call records on their way from the PBX to the call list, where AMI's `Cdr` events are the records.

A popup must not wait for the call list, so records have a task of their own. While the store refuses them they wait in
memory and are tried again. What happens without an AMI session is lost here: `table_records` and `file_records` follow
sources that keep what they had to say.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol

import structlog

from crmbridge.calls.cdr import Cdr
from crmbridge.store.schema import StoreError

log = structlog.get_logger("crmbridge.cdr")

MOST_WAITING = 50_000
"""Records kept while the store refuses them (some 50 MB); beyond it the newest are dropped, loudly."""
AT_ONCE = 500
"""Records that are taken up in one transaction."""
MOST_NAMED = 100
"""Calls that have a line of their own where so many are taken up at once; more come after an outage only."""
RETRY_S = 5.0
GATHER_S = 0.5
"""How long a record waits for others at most. A transaction is eight statements and a flush of the disk, whatever
number of records it takes up, some 1.2 ms of processor time in its threads, and nobody waits for the call list. All
PBXes wait for the same instants, so that theirs go together: with fifty of them, each for itself, a call cost nearly
twice as much (section pbxes)."""


@dataclass(frozen=True, slots=True)
class Behind:
    """How far the call list is behind the source of its records."""

    waiting: int
    """Records that were told of and are not listed yet."""
    lag_s: float
    """How long the oldest of them has waited, or source or store have been away; 0 when nothing waits."""
    taken_up: int
    """Records taken up since the start."""
    source_away: bool = False
    store_away: bool = False


class Source(Protocol):
    """Where call records come from."""

    def behind(self) -> Behind:
        """How far the call list is behind."""

    def take(self, event: Mapping[str, str]) -> None:
        """Take an AMI `Cdr` event. Returns at once."""

    def connected(self, event: Mapping[str, str]) -> None:
        """There is a new AMI session, and there may have been records before it."""

    def stop(self) -> None:
        """Ask `run` to end soon."""

    async def run(self) -> None:
        """Have records stored, until `stop`."""


class Store(Protocol):
    """What the call list does for records."""

    async def add(self, records: Sequence[Cdr]) -> int:
        """Take up those that are new; how many."""

    async def known(self, pbx: str, since_at: datetime, until_at: datetime) -> set[tuple[str, str, str, int, str]]:
        """The keys of those that are there."""

    async def progress(self, pbx: str, name: str) -> str | None:
        """What was kept under this name."""

    async def set_progress(self, pbx: str, name: str, value: str) -> None:
        """Keep a small text."""


class Together:
    """Has what several PBXes hand in at the same time taken up in one transaction."""

    def __init__(self, add: Callable[[Sequence[Cdr]], Awaitable[Mapping[str, int]]]) -> None:
        """`add`: takes up records of any PBXes; how many of each were new."""
        self._add = add
        self._waiting: deque[tuple[Sequence[Cdr], asyncio.Future[int]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def add(self, records: Sequence[Cdr]) -> int:
        """Take up those of one PBX that are new; how many. Raises what `add` does."""
        taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, taken))
        if self._work is None:
            self._work = asyncio.create_task(self._take_up())
        return await taken

    async def _take_up(self) -> None:
        await asyncio.sleep(0)  # others have woken up with us
        while self._waiting:
            some = [self._waiting.popleft()]
            while self._waiting and sum(len(records) for records, _ in some) < AT_ONCE:
                some.append(self._waiting.popleft())
            try:
                new = await self._add([one for records, _ in some for one in records])
            except Exception as error:  # noqa: BLE001  # whose it is can't be told: each hears of it
                for _, taken in some:
                    if not taken.done():  # else whoever waited has given up
                        taken.set_exception(error)
            else:
                for records, taken in some:
                    if not taken.done():
                        taken.set_result(new.get(records[0].pbx, 0))
        self._work = None


class EventRecords:
    """Takes the events as records and has them stored."""

    def __init__(
        self,
        *,
        read: Callable[[Mapping[str, str]], Cdr],
        add: Callable[[Sequence[Cdr]], Awaitable[int]],
        retry_s: float = RETRY_S,
        gather_s: float = GATHER_S,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """`read` makes a record of an AMI `Cdr` event and raises ValueError where it can't. `add`: see `Store.add`."""
        self._read = read
        self._add = add
        self._most_waiting = most_waiting
        self._retry_s = retry_s
        self._gather_s = gather_s
        self._waiting: deque[Cdr] = deque()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._waits_since = 0.0
        self._taken_up = 0
        self._away = False

    def behind(self) -> Behind:
        """How far the call list is behind."""
        lag_s = asyncio.get_running_loop().time() - self._waits_since if self._waiting else 0.0
        return Behind(len(self._waiting), lag_s, self._taken_up, store_away=self._away)

    def take(self, event: Mapping[str, str]) -> None:
        """Take an AMI `Cdr` event. Returns at once."""
        try:
            one = self._read(event)
        except ValueError as error:
            say_unreadable(event, str(error))
            return
        if len(self._waiting) >= self._most_waiting:
            log.error("cdr.dropped", linkedid=one.linkedid, hint="the call list's store refuses for too long")
            return
        if not self._waiting:
            self._waits_since = asyncio.get_running_loop().time()
        self._waiting.append(one)
        self._wake.set()

    def connected(self, event: Mapping[str, str]) -> None:
        """Do nothing: nobody can tell what was missed."""

    def stop(self) -> None:
        """Ask `run` to end once it has tried to store what has come."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Store what comes, until `stop`."""
        while not self._stopping.is_set():
            await self._wake.wait()
            await self._stopped_within(self._gather_s - asyncio.get_running_loop().time() % self._gather_s)
            self._wake.clear()
            while self._waiting and await self._stored(list(islice(self._waiting, AT_ONCE))):
                pass
            if self._waiting:
                await self._pause()

    async def _pause(self) -> None:
        await self._stopped_within(self._retry_s)  # records that come meanwhile are no reason to try sooner
        self._wake.set()

    async def _stopped_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _stored(self, some: Sequence[Cdr]) -> bool:
        try:
            new = await self._add(some)
        except StoreError as error:
            log.error("cdr.not_stored", error=str(error), waiting=len(self._waiting))
            self._away = True
            return False
        self._away = False
        self._taken_up += new
        self._waits_since = asyncio.get_running_loop().time()
        for _ in some:
            self._waiting.popleft()
        say_stored(some)
        log.debug("cdr.taken_up", records=len(some), new=new)
        return True


def say_unreadable(event: Mapping[str, str], reason: str) -> None:
    """An AMI `Cdr` event that is no record."""
    ids = {name.lower(): value for name, value in event.items() if name.lower() in {"linkedid", "uniqueid"}}
    log.warning("cdr.unreadable", reason=reason, **ids)


def say_stored(records: Sequence[Cdr]) -> None:
    """One line for each call, while there are not so many that this is history."""
    calls = Counter(one.linkedid for one in records)
    if len(calls) <= MOST_NAMED:
        for linkedid, count in calls.items():
            log.info("cdr.stored", linkedid=linkedid, records=count)

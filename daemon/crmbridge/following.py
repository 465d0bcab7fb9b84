"""What following a source of call records needs, whatever the source: to go on through outages, and to stop in time.

Neither the source nor the call list's database must be there: while one is away, that is said once, and tried again
with growing pauses.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog

from crmbridge.pbx.cdr_table import SourceError
from crmbridge.records import Behind
from crmbridge.store.schema import StoreError

log = structlog.get_logger("crmbridge.cdr")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between attempts while the source or the store is away."""
GRACE_S = 1.5
"""How long a stop waits for what is under way; what is cut off is read again at the next start."""


class Follower(ABC):
    """Follows a source: does one step after the other."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._away_since: float | None = None
        self._away_is_source = False
        self.taken_up = 0
        """Records taken up since the start."""
        self._pause_s = FIRST_PAUSE_S

    @abstractmethod
    async def step(self) -> float:
        """Do what is due; seconds until something will be. Raises SourceError and StoreError."""

    @abstractmethod
    def came_back(self) -> None:
        """After an outage."""

    @abstractmethod
    async def close(self) -> None:
        """The end."""

    @abstractmethod
    def take(self, event: Mapping[str, str]) -> None:
        """Take an AMI `Cdr` event. Returns at once."""

    @abstractmethod
    def connected(self, event: Mapping[str, str]) -> None:
        """There is a new AMI session, and there may have been records before it."""

    def behind(self) -> Behind:
        """How far the call list is behind the source."""
        now = asyncio.get_running_loop().time()
        away = self._away_since is not None
        told_at = self.told_of()
        since = min([at for at in (self._away_since, *told_at) if at is not None], default=now)
        source_away = away and self._away_is_source
        return Behind(len(told_at), now - since, self.taken_up, source_away, store_away=away and not source_away)

    def told_of(self) -> Sequence[float]:
        """When there was told of records that were not found yet, on the loop's clock."""
        return ()

    def wake(self) -> None:
        """Something is due earlier than was thought."""
        self._wake.set()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stop.set()
        self._wake.set()

    async def run(self) -> None:
        """Follow, until `stop`; then end within some two seconds."""
        work = asyncio.create_task(self._work(), name="following")
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([work], timeout=GRACE_S)
        finally:
            stopped.cancel()
            work.cancel()
            await asyncio.wait([work, stopped])
            await self.close()
        if not work.cancelled():
            work.result()

    async def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                wait_s = await self.step()
            except (SourceError, StoreError) as error:
                await self._while_away(error)
                continue
            if self._away_since is not None:
                self._back()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def _while_away(self, error: SourceError | StoreError) -> None:
        self._away_is_source = isinstance(error, SourceError)
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            log.error(
                "cdr.source_away" if self._away_is_source else "cdr.store_away",
                reason=str(error),
                effect="the call list is not brought up to date; it is tried again and will catch up",
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s):
                await self._stop.wait()  # records that come meanwhile are no reason to try sooner
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _back(self) -> None:
        away_s = asyncio.get_running_loop().time() - (self._away_since or 0.0)
        log.info("cdr.back", away_s=round(away_s, 1))
        self._away_since = None
        self._pause_s = FIRST_PAUSE_S
        self.came_back()

"""Call records on their way from the PBX to the call list: in order, and in nobody's way.

A popup must not wait for the call list, so records have a task of their own. While the store refuses them they wait in
memory and are tried again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import structlog

from crmbridge.calls.cdr import Cdr
from crmbridge.store.schema import StoreError

log = structlog.get_logger("crmbridge.cdr")

MOST_WAITING = 50_000
"""Records kept while the store refuses them (some 50 MB); beyond it the newest are dropped, loudly."""
RETRY_S = 5.0


class Records:
    """Takes call records and has them stored."""

    def __init__(
        self,
        *,
        read: Callable[[Mapping[str, str]], Cdr],
        store: Callable[[Cdr], Awaitable[bool]],
        retry_s: float = RETRY_S,
    ) -> None:
        """`read` makes a record of an AMI `Cdr` event and raises ValueError where it can't."""
        self._read = read
        self._store = store
        self._retry_s = retry_s
        self._waiting: deque[Cdr] = deque()
        self._wake = asyncio.Event()
        self._stopping = False

    def take(self, event: Mapping[str, str]) -> None:
        """Take an AMI `Cdr` event. Returns at once."""
        try:
            one = self._read(event)
        except ValueError as error:
            log.warning("cdr.unreadable", reason=str(error), uniqueid=event.get("UniqueID"))
            return
        if len(self._waiting) >= MOST_WAITING:
            log.error("cdr.dropped", linkedid=one.linkedid, hint="the call list's store refuses for too long")
            return
        self._waiting.append(one)
        self._wake.set()

    def stop(self) -> None:
        """Ask `run` to end once it has tried to store what has come."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Store what comes, until `stop`."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and await self._stored(self._waiting[0]):
                self._waiting.popleft()
            if self._waiting:
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._retry_s):
                while not self._stopping:  # records that come meanwhile are no reason to try sooner
                    await self._wake.wait()
                    self._wake.clear()
        self._wake.set()

    async def _stored(self, one: Cdr) -> bool:
        try:
            new = await self._store(one)
        except StoreError as error:
            log.error("cdr.not_stored", error=str(error), waiting=len(self._waiting))
            return False
        log.debug("cdr.stored", linkedid=one.linkedid, uniqueid=one.uniqueid, new=new)
        return True

"""Follows a file of call records that Asterisk writes: what is added to it gets into the call list.

The file is the truth; AMI's `Cdr` event is only the bell, which makes a call appear at once instead of within a second.
How far it was read is kept with the call list, after what was read is stored there: after a stop of any kind and any
length it goes on from there, and what is read twice changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from crmbridge.calls.gathering import LONGEST_CALL_S
from crmbridge.following import Follower
from crmbridge.pbx.cdr_file import CdrFiles, Place, place_of
from crmbridge.records import AT_ONCE, Store, say_stored

log = structlog.get_logger("crmbridge.cdr")

PROGRESS = "file"
"""Under which name the call list keeps how far the file was read."""
LOOK_S = 1.0
"""From one look at the file's size to the next."""
_BELL_S, _BELL_LOOK_S = 3.0, 0.1
"""For so long after a bell is looked so often: the event may come before the line."""


class FileRecords(Follower):
    """Follows the file."""

    def __init__(
        self,
        *,
        pbx: str,
        files: CdrFiles,
        store: Store,
        look_s: float = LOOK_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`pbx`: whose records these are."""
        super().__init__()
        self._pbx = pbx
        self._files = files
        self._store = store
        self._look_s = look_s
        self._now = now
        self._place: Place | None = None
        self._bell_at = float("-inf")

    def take(self, event: Mapping[str, str]) -> None:
        """Take an AMI `Cdr` event as the bell. Returns at once."""
        del event
        self._bell_at = asyncio.get_running_loop().time()
        self.wake()

    def connected(self, event: Mapping[str, str]) -> None:
        """Look at once."""
        del event
        self.wake()

    def came_back(self) -> None:
        """Do nothing: it goes on where it was."""

    async def close(self) -> None:
        """Do nothing: nothing is kept open."""

    async def step(self) -> float:
        """Read and store a part; seconds until the next look. Raises SourceError and StoreError."""
        place = self._place or await self._recall()
        part = await asyncio.to_thread(self._files.read, place)
        for start in range(0, len(part.records), AT_ONCE):
            self.taken_up += await self._store.add(part.records[start : start + AT_ONCE])
            say_stored(part.records[start : start + AT_ONCE])
        if part.place != place:
            await self._store.set_progress(self._pbx, PROGRESS, part.place.text(self._files.path))
        self._place = part.place
        if part.more:
            return 0.0
        rung = asyncio.get_running_loop().time() - self._bell_at < _BELL_S
        return min(self._look_s, _BELL_LOOK_S) if rung else self._look_s

    async def _recall(self) -> Place:
        kept = await self._store.progress(self._pbx, PROGRESS)
        place = place_of(kept, self._files.path) if kept is not None else None
        if place is None:
            at = self._now().timestamp() - LONGEST_CALL_S
            place = await asyncio.to_thread(self._files.since, at)
            since = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
            log.info("cdr.follows", since=since, hint="`crmbridge sync` brings what is older into the call list")
        self._place = place
        return place

"""The PBX's whole history into the call list: `crmbridge sync`.

Records are read in order, gathered into calls, and the lines of whole calls are written in bulk. While one batch is
being written the next records are read, so that neither this process nor the database waits for the other; never more
than one, so that memory stays bounded and what is written later is what was read later. What came to an end
within the last day is taken up record by record instead, as the daemon does it, so that a later record of such a call
joins those that are there. How far it came is kept in the call list's own database after each batch: what was stopped
goes on from there, and what is done twice changes nothing.

It must not know the settings, nor where it is shown how far it came.
"""

from __future__ import annotations

import json
from asyncio import Event, Task, create_task
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from crmbridge.calls.cdr import Cdr, epoch
from crmbridge.calls.gathering import LONGEST_CALL_S, Calls, Gathering, calls_of, ended_by, joined
from crmbridge.calls.history import CallRow

PROGRESS = "sync"
"""Under which name the call list keeps how far it came."""
BATCH = 2000
"""Calls that are written together."""
_ADD = 500
"""Records that are taken up together."""
_TOGETHER = 200
"""Calls that are read again together."""
_AHEAD_S = 2
"""A call's first record starts within this of what its linkedid tells."""
_BEFORE_S = 10
"""How long before the first record that is not written yet the next run begins: so that each call of which anything is
missing began after that, as its linkedid tells."""


class Store(Protocol):
    """What the call list does for it."""

    async def add(self, records: Sequence[Cdr], *, anew: bool = False) -> int:
        """Take up records; with `anew` in the place of those that are there."""

    async def replace(self, pbx: str, calls: Mapping[str, Sequence[CallRow]]) -> int:
        """Write the lines that these calls must have."""

    async def progress(self, pbx: str, name: str) -> str | None:
        """What was kept under this name."""

    async def set_progress(self, pbx: str, name: str, value: str) -> None:
        """Keep a small text."""


class Piece(NamedTuple):
    """Some of the history."""

    records: Sequence[Cdr]
    until: int
    """All records that start before this have been read, in epoch seconds."""


class History(Protocol):
    """Where the records are."""

    async def span(self) -> tuple[int, int] | None:
        """When the first and the last record start, in epoch seconds; None where there are none."""

    def gathering(self, since: int) -> Gathering:
        """What makes calls of its records."""

    def pieces(self, since: int, last: int) -> AsyncIterator[Piece]:
        """All records from there on."""

    async def again(self, linkedids: Collection[str], since: int, until: int) -> list[Cdr] | None:
        """All records of these calls that start then; None where it can't be told."""


@dataclass(slots=True)
class Done:
    """What was done."""

    records: int = 0
    calls: int = 0
    lines: int = 0
    """That were written because they were not there, or not like this."""
    added: int = 0
    """Records of the last day that were taken up as they are."""
    cut: int = 0
    """Calls that began before the first record that there is; they were left as they are."""
    at: int = 0
    """Epoch seconds: how far."""
    first: int = 0
    last: int = 0
    stopped: bool = False


class _Batch(NamedTuple):
    """Calls that are written together."""

    lines: Mapping[str, Sequence[CallRow]]
    recent: Sequence[Cdr]
    """Records of calls that are taken up as they are."""


class Sync:
    """One run."""

    def __init__(
        self,
        *,
        pbx: str,
        history: History,
        rows: Callable[[Iterable[Cdr]], list[CallRow]],
        store: Store,
        now: int,
        show: Callable[[Done], None] = lambda done: None,  # noqa: ARG005
    ) -> None:
        """`rows` makes the lines of one call. `now`: epoch seconds. `show` is told after each piece how far it is."""
        self._pbx = pbx
        self._history = history
        self._rows = rows
        self._store = store
        self._recent = now - LONGEST_CALL_S
        self._show = show
        self._done = Done()
        self._keeps = True
        self._anew = False
        self._waiting: Calls = {}
        self._writing: Task[None] | None = None

    async def run(self, stop: Event, *, since: int | None = None, again: bool = False) -> Done:
        """Do it, until it is done or `stop` is set.

        `since`: from there on, in epoch seconds; else from where it came to, with `again` from the beginning. Raises
        SourceError and StoreError; what was written till then is kept.
        """
        done, self._anew = self._done, again
        span = await self._history.span()
        if span is None:
            return done
        done.first, done.last = span
        kept = await self._store.progress(self._pbx, PROGRESS)
        begin = self._begin(since, None if again or kept is None else _position(kept))
        # Whoever begins later than all before was read leaves something out, and the next run must not.
        self._keeps = since is None or begin <= span[0] or (kept is not None and since <= _position(kept))
        done.at = done.first = begin
        try:
            await self._through(stop, begin, span)
        finally:
            await self._written()
        return done

    async def _through(self, stop: Event, begin: int, span: tuple[int, int]) -> None:
        """All pieces from `begin` on."""
        done, gathering = self._done, self._history.gathering(begin)
        async for piece in self._history.pieces(begin, span[1]):
            gathering.take(piece.records)
            done.records += len(piece.records)
            await self._take(gathering.settled(piece.until), gathering, span[0])
            done.at = max(done.at, min(piece.until, span[1]))
            if len(self._waiting) >= BATCH or stop.is_set():
                oldest = gathering.oldest
                await self._write((done.at if oldest is None else min(oldest, done.at)) - _BEFORE_S)
            self._show(done)
            if stop.is_set():
                done.stopped = True
                return
        await self._take(gathering.rest(), gathering, span[0])
        done.at = span[1]
        await self._write(span[1])
        await self._written()
        self._show(done)

    def _begin(self, since: int | None, kept: int | None) -> int:
        wanted = since if since is not None else kept
        return self._done.first if wanted is None else max(wanted, self._done.first)

    async def _keep(self, at: int) -> None:
        """Remember how far it came; what is later than a day ago may still get records that began earlier."""
        if self._keeps:
            await self._store.set_progress(self._pbx, PROGRESS, json.dumps({"at": min(at, self._recent)}))

    async def _take(self, whole: Calls, gathering: Gathering, first: int) -> None:
        """Have these calls written, those that must be read again first."""
        again = {linkedid: gathering.again.pop(linkedid) for linkedid in list(gathering.again) if linkedid in whole}
        for linkedid in [one for one in again if (epoch(one) or first) < first - _AHEAD_S]:
            # Its first records are no longer there: what is in the call list knows more.
            del again[linkedid], whole[linkedid]
            self._done.cut += 1
        names = list(again)
        for start in range(0, len(names), _TOGETHER):
            some = names[start : start + _TOGETHER]
            until = max(_last(whole[one]) for one in some) + 1
            records = await self._history.again(some, min(again[one] for one in some), until)
            found = calls_of(records or ())
            for one in some:
                if records is not None:
                    whole[one] = joined([*found.get(one, ()), *whole[one]])
                elif again[one] < self._done.first - 2 * _AHEAD_S:
                    del whole[one]
                    self._done.cut += 1
        self._waiting.update(whole)

    async def _write(self, at: int) -> None:
        """Have what waits be written from now on, as soon as what was before it is there, and then keep `at`."""
        waiting, self._waiting = list(self._waiting.values()), {}
        # Lines are made while the database still writes those before.
        batches = [self._batch(waiting[start : start + BATCH]) for start in range(0, len(waiting), BATCH)]
        await self._written()
        self._writing = create_task(self._put(batches, at))

    def _batch(self, calls: Iterable[list[Cdr]]) -> _Batch:
        lines: dict[str, list[CallRow]] = {}
        recent: list[Cdr] = []
        for call in calls:
            if ended_by(call, self._recent):
                lines[call[0].linkedid] = self._rows(call)
            else:
                recent += call
        return _Batch(lines, recent)

    async def _written(self) -> None:
        """Wait for what is being written; raises what that raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _put(self, batches: Iterable[_Batch], at: int) -> None:
        for lines, recent in batches:
            self._done.lines += await self._store.replace(self._pbx, lines) if lines else 0
            for begin in range(0, len(recent), _ADD):
                self._done.added += await self._store.add(recent[begin : begin + _ADD], anew=self._anew)
            self._done.calls += len(lines) + len(calls_of(recent))
        await self._keep(at)


def _position(kept: str) -> int:
    return int(json.loads(kept)["at"])


def _last(call: Iterable[Cdr]) -> int:
    return int(max(one.start_at for one in call).timestamp())

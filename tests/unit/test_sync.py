"""`crmbridge sync` reads on while it writes, and keeps how far it came only when what was before is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from crmbridge import sync
from crmbridge.calls.cdr import Cdr
from crmbridge.calls.gathering import Gathering
from crmbridge.calls.history import CallRow
from crmbridge.store.schema import StoreError
from crmbridge.sync import Piece, Sync

BEGIN = 1_790_000_000
HOUR = 3600
PIECES = 5


def record(n: int) -> Cdr:
    at = BEGIN + n * HOUR
    start_at = datetime.fromtimestamp(at, UTC)
    return Cdr("pbx", f"{at}.{n}", f"{at}.{n}", n, "PJSIP/t-1", "", "1", "2", "", start_at, 60, 50, "ANSWERED", "")


def rows(call: Iterable[Cdr]) -> list[CallRow]:
    one = next(iter(call))
    return [CallRow(one.pbx, one.linkedid, "10", "", one.src, one.src, one.start_at, 1, "", incoming=True)]


class Past:
    """One call an hour, and a piece for each."""

    def __init__(self) -> None:
        self.asked = [asyncio.Event() for _ in range(PIECES)]

    async def span(self) -> tuple[int, int]:
        return BEGIN, BEGIN + (PIECES - 1) * HOUR

    def gathering(self, since: int) -> Gathering:
        return Gathering(since)

    async def pieces(self, since: int, last: int) -> AsyncIterator[Piece]:
        del since, last
        for n in range(PIECES):
            self.asked[n].set()
            await asyncio.sleep(0)
            yield Piece([record(n)], BEGIN + (n + 1) * HOUR)

    async def again(self, linkedids: Collection[str], since: int, until: int) -> None:
        del linkedids, since, until


class Calls:
    """Writes one call at a time, each when the piece after it is asked for."""

    def __init__(self, past: Past, refused: int | None = None) -> None:
        self.past = past
        self.refused = refused
        self.done: list[str] = []
        self.busy = False

    async def replace(self, pbx: str, calls: Mapping[str, Sequence[CallRow]]) -> int:
        del pbx
        assert not self.busy, "one batch at a time"
        self.busy = True
        for linkedid in calls:
            n = int(linkedid.partition(".")[2])
            await self.past.asked[min(n + 1, PIECES - 1)].wait()
            if n == self.refused:
                raise StoreError("refused")
            self.done.append(f"call {n}")
        self.busy = False
        return len(calls)

    async def add(self, records: Sequence[Cdr], *, anew: bool = False) -> int:
        raise AssertionError(records, anew)

    async def progress(self, pbx: str, name: str) -> str | None:
        del pbx, name
        return None

    async def set_progress(self, pbx: str, name: str, value: str) -> None:
        del pbx, name
        self.done.append(f"kept {(json.loads(value)['at'] - BEGIN) // HOUR}")


async def run(calls: Calls) -> sync.Done:
    one = Sync(pbx="pbx", history=calls.past, rows=rows, store=calls, now=BEGIN + 100 * HOUR)
    async with asyncio.timeout(10):
        return await one.run(asyncio.Event())


async def test_it_reads_on_while_a_batch_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BATCH", 1)
    calls = Calls(Past())
    done = await run(calls)
    assert (done.records, done.calls, done.lines) == (PIECES, PIECES, PIECES)
    told = ["call 0", "kept 0", "call 1", "kept 1", "call 2", "kept 2", "call 3", "kept 3", "call 4"]
    assert calls.done == [*told, "kept 3", "kept 4"]


async def test_what_was_refused_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BATCH", 1)
    calls = Calls(Past(), refused=2)
    with pytest.raises(StoreError, match="refused"):
        await run(calls)
    assert calls.done[-1].startswith("kept 1"), "the next run begins before the call that is missing"

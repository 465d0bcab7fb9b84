"""Forgets what is older, or more, than is kept: callbacks, clicks, calls and the records they were made of.

Now and then, in small steps, so that a callback that comes meanwhile doesn't wait for the disk, and nothing else for
the call list's database. Each kind by itself: while one place refuses, the others are still kept small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from crmbridge.store.call_list import CallList
from crmbridge.store.claims import Claims
from crmbridge.store.clicks import ClickStore
from crmbridge.store.outbox import Outbox
from crmbridge.store.schema import StoreError

log = structlog.get_logger("crmbridge.retention")

EVERY_S = 60.0
EVENTS = {
    "callbacks": "outbox.pruned",
    "clicks": "clicks.pruned",
    "calls": "calls.pruned",
    "records": "cdr.pruned",
    "claims": "claims.pruned",
}
RECORDS_DAYS = 7
"""For how long call records are kept that lie in the PBX's own table or file, too. A call's lines are made anew with
each record of it, and the longest calls last a day (`calls.gathering`)."""


CLAIMS_S = 86400.0
"""For how long claims are kept at least: longer than any bridge has a callback to send."""


@dataclass(frozen=True, slots=True)
class Keeps:
    """What is kept."""

    days: int
    """Callbacks and clicks."""
    outbox_bytes: int
    calls_days: int | None
    """None: for good."""
    callbacks_live_s: float
    """For how long a callback is sent."""
    records_elsewhere: Mapping[str, bool]
    """By PBX: whether it keeps its call records, so that we needn't."""


Step = Callable[[], Awaitable[int]]
"""Deletes some; how many."""


class Retention:
    """Keeps one bridge's stores small."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        clicks: ClickStore,
        calls: CallList,
        keeps: Callable[[], Keeps],
        claims: Claims | None = None,
    ) -> None:
        """`keeps` is asked each time."""
        self._outbox = outbox
        self._clicks = clicks
        self._calls = calls
        self._keeps = keeps
        self._claims = claims
        self._refusing: set[str] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.once(datetime.now(UTC))
            await asyncio.sleep(EVERY_S)

    async def once(self, now: datetime) -> None:
        """Forget all that is too old by now, or too much."""
        for what, step in self._steps(now):
            total = 0
            try:
                while pruned := await step():
                    total += pruned
            except StoreError as error:
                if what not in self._refusing:  # said when it begins, not every minute
                    log.warning("store.not_pruned", what=what, reason=str(error))
                self._refusing.add(what)
                continue
            self._refusing.discard(what)
            if total:
                log.info(EVENTS[what], **{what: total})

    def _steps(self, now: datetime) -> Iterator[tuple[str, Step]]:
        keeps = self._keeps()
        before = now - timedelta(days=keeps.days)
        yield "callbacks", lambda: self._outbox.prune(before, keeps.outbox_bytes)
        yield "clicks", lambda: self._clicks.prune(before)
        calls_before = now - timedelta(days=keeps.calls_days) if keeps.calls_days else None
        if calls_before is not None:
            yield "calls", lambda: self._calls.prune_calls(calls_before)
        for pbx, elsewhere in keeps.records_elsewhere.items():
            # Events are the only records there are; they are kept as long as their call.
            records_before = now - timedelta(days=RECORDS_DAYS) if elsewhere else calls_before
            if records_before is not None:
                yield "records", partial(self._calls.prune_records, pbx, records_before)
        if self._claims is not None and self._claims.trouble is None:
            yield "claims", partial(self._claims.prune, max(CLAIMS_S, 2 * keeps.callbacks_live_s))

"""The trail of clicks as they happen: from the dialer's decisions and the PBX's events to the log and the store.

What is told is written in order by one task, in batches. A click is on disk before the PBX is asked for it, unless the
disk takes longer than a person waits. Refused clicks cost whoever sends them nothing, so not each of a flood is
stored; they are counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.clicks import Asked, News, Outcome
from crmbridge.calls.dialing import Code, Result
from crmbridge.store.clicks import ClickStore

log = structlog.get_logger("crmbridge.clicks")

MOST_OTHERS_PER_MINUTE = 60
"""Refused and repeated clicks that are stored one by one."""
LOOK_EVERY_S = 10.0
"""How often we look for clicks of which nothing was seen for too long."""

_ACCEPTED = "accepted"
_CODES = tuple(code.value for code in Code)
_NO_END = (Outcome.REFUSED, Outcome.REPEATED, Outcome.IN_PROGRESS)


class Clicks:
    """Keeps the trail of all clicks, and counts those in progress."""

    def __init__(self, *, store: ClickStore, calls: Mapping[str, ClickCalls], names_pbxes: bool = False) -> None:
        """`calls`: by PBX. `names_pbxes`: lines of the log say which PBX it was."""
        self._store = store
        self._names_pbxes = names_pbxes
        self._calls = calls
        self._waiting: list[tuple[Asked | News, asyncio.Future[None] | None]] = []
        self._wake = asyncio.Event()
        self._stopping = False
        # From zero on, so that an increase can be told.
        self._codes = Counter(dict.fromkeys((_ACCEPTED, Outcome.REPEATED.value, "missing_parameter", *_CODES), 0))
        self._outcomes = Counter({outcome.value: 0 for outcome in Outcome if outcome not in _NO_END})
        self._minute = datetime.min.replace(tzinfo=UTC)
        self._others = self._not_stored = 0

    @property
    def in_progress(self) -> int:
        """Clicks that are being placed, or whose call is not over."""
        return sum(map(len, self._calls.values()))

    def codes(self) -> Mapping[str, int]:
        """How many clicks were answered since the start, by the code; `accepted` or `repeated` without one."""
        return dict(self._codes)

    def outcomes(self) -> Mapping[str, int]:
        """How those ended that were accepted, since the start."""
        return dict(self._outcomes)

    async def recall(self) -> None:
        """Take up the clicks that were in progress when the bridge ended. Raises StoreError."""
        now = datetime.now(UTC)
        for one in await self._store.in_progress():
            if one.asked.pbx in self._calls:
                self._calls[one.asked.pbx].recall(one.news, now)

    # What the dialer tells

    def refused(self, asked: Asked) -> None:
        """A click that is no call, or none of its own. Returns at once."""
        self._codes[asked.code or asked.outcome.value] += 1
        if self._is_stored(asked.at):
            self._write(asked)

    def accepted(self, asked: Asked) -> asyncio.Future[None]:
        """A click is about to be placed; it is in progress from now on. The future is done when it is on disk."""
        self._calls[asked.pbx].begin(asked.click_id, asked.at)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._write(asked, stored)
        return stored

    def settled(self, click_id: str, result: Result) -> None:
        """What the PBX said when it was asked."""
        self._codes[result.code.value if result.code else _ACCEPTED] += 1
        if result.code is None:
            return
        outcome = Outcome.IN_PROGRESS if result.code is Code.UNKNOWN else Outcome.NOT_PLACED
        news = News(click_id, datetime.now(UTC), outcome, code=result.code.value, reason=result.message)
        if outcome is Outcome.NOT_PLACED:
            for calls in self._calls.values():
                calls.not_placed(click_id)
            self._outcomes[outcome.value] += 1
        self._write(news)

    # What the PBXes tell

    def take(self, pbx: str, frame: Mapping[str, str], at: datetime) -> None:
        """Take an AMI event of this PBX that was read at this instant. Returns at once."""
        for news in self._calls[pbx].handle(frame, at):
            self._tell(pbx, news)

    def stop(self) -> None:
        """Ask `run` to end once it has stored what has come."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Store what comes, until `stop`."""
        while self._waiting or not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            for pbx, calls in self._calls.items():
                for news in calls.expire(datetime.now(UTC)):
                    self._tell(pbx, news)
            await self._store_waiting()

    async def _store_waiting(self) -> None:
        self._wake.clear()
        batch, self._waiting = self._waiting, []
        try:
            if batch:
                await self._store.write([change for change, _ in batch])
        except Exception:
            # The trail must not take the calls along.
            log.exception("click.not_stored", clicks=[change.click_id for change, _ in batch])
        for _, stored in batch:
            if stored is not None and not stored.done():
                stored.set_result(None)

    def _tell(self, pbx: str, news: News) -> None:
        with structlog.contextvars.bound_contextvars(**({"pbx": pbx} if self._names_pbxes else {})):
            self._say(news)
        self._write(news)

    def _say(self, news: News) -> None:
        if news.outcome is not Outcome.IN_PROGRESS:
            self._outcomes[news.outcome.value] += 1
            log.info("click.ended", click=news.click_id, outcome=news.outcome.value, **_more(news))
        elif news.number is None:
            log.info("click.phone", click=news.click_id, state=news.phone and news.phone.value)
        else:
            log.info("click.number", click=news.click_id, state=news.number.value)

    def _write(self, change: Asked | News, stored: asyncio.Future[None] | None = None) -> None:
        self._waiting.append((change, stored))
        self._wake.set()

    def _is_stored(self, at: datetime) -> bool:
        """Whether this one of the clicks that came to nothing is stored: not each of a flood."""
        if at - self._minute >= timedelta(minutes=1):
            if self._not_stored:
                log.warning("click.flood", not_stored=self._not_stored, hint="refused or repeated clicks; see the log")
            self._minute, self._others, self._not_stored = at, 0, 0
        self._others += 1
        if self._others > MOST_OTHERS_PER_MINUTE:
            self._not_stored += 1
            return False
        return True


def _more(news: News) -> dict[str, object]:
    """What else there is to say of a click that has ended."""
    return {name: value for name, value in (("talk_s", news.talk_s), ("cause", news.cause)) if value is not None}

"""Claims on callbacks and clicks, in the database that several bridges share: who asks waits for no more than a moment.

What is asked for while the database is at work goes into its next transaction together. Where it does not answer in
time (see quick.py) it is taken for unreachable: whoever asks is told to go on without a claim, until a look finds it
again. What was told meanwhile is then put down, so that a bridge that comes later knows.

What a claim means is calls/claims.py's, the statements claims_sql.py's. It must not know what is sent, nor to whom.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from secrets import randbelow
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.engine import URL

from crmbridge.calls.claims import Held, Judge, Mine, Row, Standing, Step, Take, Told, Watch, Without
from crmbridge.store import claims_sql as sql
from crmbridge.store.engine import parsed
from crmbridge.store.quick import PATIENCE_S, Quick, errors

if TYPE_CHECKING:  # see servers.py
    import asyncmy

log = structlog.get_logger("crmbridge.claims")

PROBE_S = 1.0
"""How often we look whether it is back."""
AGAIN = 4
"""The part of claims.timeout_s that who asks waits for a look, where the database was away."""
JUST_NOW_S = 0.1
"""A look that has ended so shortly before needs no other."""
BEAT_S = 5.0
"""How often a bridge says that it lives: so it finds out, too, that the database is away before a callback has to."""
STEP = 200
"""Claims in one transaction."""
PRUNE_STEP = 1000
"""Of those that are deleted: some 20 ms."""
MOST_TOLD = 50_000
"""What was told without the database and is put down later: hours of callbacks, some 10 MB."""
SLOW = 8
"""The part of a lease that a commit may take: see `_standing`."""
SEEN_S = 3600.0
"""After so long nobody asks again for a claim that others held: its callback is told or too old."""
STOP_S = 1.0
"""How long a stop waits for the database."""

RESULTS = ("taken", "taken_over", "held", "told", "without")
"""What there is to count about claims."""


@dataclass(slots=True, eq=False)
class _Ask:
    key: str
    judge: Judge
    asked: float
    answer: asyncio.Future[Standing]
    over: str = ""
    """The bridge from which it was to be taken, in this try or an earlier one."""

    def what_to_do(self, row: Row | None, now: float) -> Step:
        """As `judge` says."""
        step = self.judge(row, now)
        if isinstance(step, Take):
            self.over = step.over or self.over
        return step


@asynccontextmanager
async def open_claims(url: str | URL, *, bridge: str, timeout_s: float, lease_s: float) -> AsyncIterator[Claims]:
    """Claims in this database of a MySQL or MariaDB server. One that is away is no reason not to start.

    Raises StoreError where the address can't be used.
    """
    claims = Claims(parsed(url), bridge, timeout_s, lease_s)
    await claims.start()
    try:
        yield claims
    finally:
        claims.close()


async def try_out(url: str, bridge: str) -> tuple[float, dict[str, float]]:
    """Make the tables, and write to them: how many seconds a claim takes, and ago each bridge was heard of last.

    Raises StoreError.
    """
    return await Claims(parsed(url), bridge, PATIENCE_S, PATIENCE_S).try_out()


class Claims:
    """Those of one bridge. Let `run` run, and end it with `stop`."""

    def __init__(self, address: URL, bridge: str, timeout_s: float, lease_s: float) -> None:
        """Use `open_claims`."""
        self.bridge = bridge
        self.lease_s = lease_s
        self.us = sql.Us(bridge, 1 + randbelow(2**62))
        self.counts = Counter(dict.fromkeys(RESULTS, 0))
        self._database = Quick(address, timeout_s)
        self.took: Callable[[float], None] = lambda seconds: None  # noqa: ARG005
        """Hears how many seconds each answer took."""
        self._watch = Watch(bridge, self.us.token, lease_s)
        self._asks: deque[_Ask] = deque()
        self._told: dict[str, str] = {}
        self._let_go: dict[str, None] = {}
        self._wake, self._stop, self._look_now = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._await_look: list[asyncio.Future[None]] = []
        self._trouble: str | None = "it was not asked yet"
        self._away_since = time.monotonic()
        self._without = 0
        self._answered_at = self._beats_at = self._looked_at = self._patient_from = 0.0
        self._has_beaten = False

    @property
    def token(self) -> int:
        """This bridge, as rows have it."""
        return self.us.token

    @property
    def trouble(self) -> str | None:
        """Why the database can't be reached; None while it can."""
        return self._trouble

    # What is asked

    async def take(self, key: str, *, patient: bool = True) -> Standing:
        """Claim a callback for us. `patient`: where the database was away, wait a moment for a look."""
        return await self.ask(key, partial(self._watch.judge, key), patient=patient)

    async def renew(self, key: str) -> Standing:
        """Claim it for another lease."""
        return await self._asked(key, partial(self._watch.judge, key), patient=False)

    async def ask(self, key: str, judge: Judge, *, patient: bool = True) -> Standing:
        """Claim it, if `judge` finds that we may."""
        began = time.monotonic()
        standing = await self._asked(key, judge, patient=patient)
        self._count(standing)
        self.took(time.monotonic() - began)
        return standing

    async def told(self, keys: Sequence[str]) -> dict[str, Told]:
        """Which of these are told, as far as can be found out."""
        found = await asyncio.gather(*(self._asked(key, self._watch.look) for key in keys))
        return {key: one for key, one in zip(keys, found, strict=True) if isinstance(one, Told)}

    async def _asked(self, key: str, judge: Judge, *, patient: bool = True) -> Standing:
        if self._trouble is not None and patient:
            await self._glance()
        if self._trouble is not None:
            return Without()
        self._let_go.pop(key, None)
        ask = _Ask(key, judge, time.monotonic(), asyncio.get_running_loop().create_future())
        self._asks.append(ask)
        self._wake.set()
        return await ask.answer

    async def look_again(self) -> None:
        """Where the database is away: wait for a look that begins now, which takes no longer than a claim may.

        After a wait for nothing, nobody waits for as long: where the database says nothing at all, callbacks that wait
        keep others waiting, and with many calls rings would expire for it.
        """
        began = time.monotonic()
        if self._trouble is None or self._stop.is_set() or began < self._patient_from:
            return
        looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._await_look.append(looked)
        self._look_now.set()
        try:
            await looked
        finally:
            if self._trouble is not None:
                now = time.monotonic()
                self._patient_from = max(self._patient_from, now + (now - began))

    async def _glance(self) -> None:
        """The database was away: it may be back, and nobody has noticed yet.

        A bridge that was cut off has everything back at the same instant, and gets first what the PBXes said meanwhile,
        which the other bridge has told.
        """
        if time.monotonic() - self._looked_at < JUST_NOW_S:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._database.timeout_s / AGAIN):
                await self.look_again()

    def tell(self, key: str, how: str) -> None:
        """The matter is at an end. Returns at once; it is put down as soon as the database can be reached."""
        self._let_go.pop(key, None)
        if len(self._told) >= MOST_TOLD:
            del self._told[next(iter(self._told))]
        self._told[key] = how
        self._wake.set()

    def let_go(self, key: str) -> None:
        """We don't send it now: another may. Returns at once; where it can't be put down, the lease ends by itself."""
        if self._trouble is None:
            self._let_go[key] = None
            self._wake.set()

    # What goes on

    async def start(self) -> None:
        """Look whether the database is there, and make the tables. Waits no longer than a claim does."""
        await self._look(first=True)

    def stop(self) -> None:
        """Ask `run` to end once it has put down what it can."""
        self._stop.set()
        self._wake.set()
        self._look_now.set()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()
        self._answer_all_without()

    async def run(self) -> None:
        """Serve what is asked, until `stop`."""
        while not self._stop.is_set():
            if self._trouble is None:
                await self._pause(self._wake, self._beats_at - time.monotonic())
                await self._serve()
            else:
                await self._pause(self._look_now, PROBE_S)
                self._look_now.clear()
                waiting, self._await_look = self._await_look, []  # who comes later wants one that begins later
                await self._look()
                self._looked_at = time.monotonic()
                _done(waiting if self._trouble else waiting + self._await_look)
        _done(self._await_look)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while self._trouble is None and (self._asks or self._told or self._let_go):
                    await self._serve()
        self._answer_all_without()

    async def try_out(self) -> tuple[float, dict[str, float]]:
        """See `try_out`."""
        if not await self._database.apart(sql.is_up_to_date):
            await self._database.bring_up(sql.SCHEMA)
        return await self._database.apart(lambda connection: sql.try_out(connection, self.us))

    async def prune(self, before_s: float, limit: int = PRUNE_STEP) -> int:
        """Delete up to so many that were changed longer ago than that; how many. Raises StoreError."""
        return await self._database.apart(lambda connection: sql.prune(connection, before_s, limit))

    async def _pause(self, end: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await end.wait()

    async def _serve(self) -> None:
        self._wake.clear()
        while self._trouble is None and (self._asks or self._told or self._let_go):
            await self._serve_some()
        if self._trouble is None and time.monotonic() >= self._beats_at:
            await self._beat()

    async def _serve_some(self) -> None:
        asks = self._next_asks()
        told, let_go = dict(islice(self._told.items(), STEP)), list(islice(self._let_go, STEP))
        batch = sql.Batch({ask.key: ask.what_to_do for ask in asks}, told, let_go)
        # As long as the database answers, who waits waits for those before, and not for it.
        since = max(self._answered_at, min((ask.asked for ask in asks), default=time.monotonic()))
        try:
            left_s = self._database.timeout_s - (time.monotonic() - since)
            began, steps = await self._database.do(partial(self._put_through, batch), left_s)
        except errors() as error:
            self._asks.extendleft(reversed(asks))
            self._lost(error)
            return
        self._answered_at = time.monotonic()
        for key, how in told.items():
            if self._told.get(key) == how:
                del self._told[key]
        for key in let_go:
            self._let_go.pop(key, None)
        for ask in asks:
            if not ask.answer.done():
                ask.answer.set_result(self._standing(ask, steps[ask.key], began))

    def _next_asks(self) -> list[_Ask]:
        """The oldest that wait, each of another claim, and of none that is about to be put down as told."""
        some: dict[str, _Ask] = {}
        while self._asks and len(some) < STEP:
            ask = self._asks[0]
            if ask.key in some or ask.key in self._told:
                break
            self._asks.popleft()
            if not ask.answer.done():  # else whoever asked has been cancelled
                some[ask.key] = ask
        return list(some.values())

    async def _put_through(self, batch: sql.Batch, connection: asyncmy.Connection) -> tuple[float, Mapping[str, Step]]:
        began = time.monotonic()
        return began, await sql.put_through(connection, self.us, batch, time.monotonic)

    def _standing(self, ask: _Ask, step: Step, began: float) -> Standing:
        """What a step that is done means.

        Where it was long until the commit was answered, all commits were held up, as a cluster does that loses a node:
        the mark of who held the claim before, that it is told, may have been held up, too. So look once more.
        """
        if isinstance(step, Told | Held):
            return step
        now = time.monotonic()
        if ask.over and now - ask.asked > self.lease_s / SLOW:
            return Held(ask.over, now + self.lease_s / SLOW)
        return Mine(began + self.lease_s, ask.over)

    def _count(self, standing: Standing) -> None:
        match standing:
            case Mine(over=over):
                self.counts["taken_over" if over else "taken"] += 1
            case Held():
                self.counts["held"] += 1
            case Told():
                self.counts["told"] += 1
            case Without():
                self.counts["without"] += 1
                self._without += 1

    # The database

    async def _beat(self) -> None:
        self._beats_at = time.monotonic() + BEAT_S
        self._watch.forget(time.monotonic() - SEEN_S)
        try:
            before = await self._database.do(lambda connection: sql.beat(connection, self.us))
        except errors() as error:
            self._lost(error)
            return
        if self._has_beaten and before != self.us.token:
            hint = "each bridge needs a name of its own: see claims.bridge there and here"
            log.error("claims.name_taken", bridge=self.us.bridge, hint=hint)
        self._has_beaten = True

    async def _look(self, *, first: bool = False) -> None:
        """Whether the database is there, or there again."""
        try:
            if not await self._database.do(sql.is_up_to_date):
                await self._database.bring_up(sql.SCHEMA)
        except errors() as error:
            if first:
                self._say_unreachable(error)
            return
        if not first:
            away_s = round(time.monotonic() - self._away_since, 1)
            log.warning("claims.reachable", database=self._database.name, away_s=away_s, sent_without=self._without)
        self._trouble, self._without = None, 0
        self._wake.set()

    def _lost(self, error: BaseException) -> None:
        self._away_since = time.monotonic()
        self._say_unreachable(error)
        self._let_go.clear()
        self._answer_all_without()

    def _say_unreachable(self, error: BaseException) -> None:
        self._trouble = self._database.words(error)
        effect = "callbacks are sent without a claim: some are told twice, by two bridges, with one Idempotency-Key"
        log.error("claims.unreachable", reason=self._trouble, effect=effect)

    def _answer_all_without(self) -> None:
        while self._asks:
            ask = self._asks.popleft()
            if not ask.answer.done():
                ask.answer.set_result(Without())


def _done(waiting: Iterable[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)

"""Sends callbacks to the CRM until it confirms them, refuses them, or they are too old to be of use.

The shell around lanes.py (what goes next), retry.py (when, and whether at all) and client.py (one request). It takes
the outbox as a protocol and must not know how callbacks are stored. The wall clock is asked only how old a callback
is that was stored before this process began, or queued again by hand; all else is reckoned on the monotonic clock.

What happened is stored before the next callback of the same call is sent. A process killed between a request and its
storing sends that request again after its start, with the same Idempotency-Key: at least once, never silently not.

What is handed in goes out at once, and what came of it goes to the outbox at once: each more round of the event loop
makes a popup later. The sending loop goes round when something is stored, and when time alone makes a difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from datetime import timedelta
from functools import partial

import structlog

from crmbridge.calls.claims import Told
from crmbridge.calls.events import Attempt, CallEvent, Delivery, State
from crmbridge.crm.callback import Answer, about, check_url
from crmbridge.crm.claiming import Claiming, Claims, as_attempt, state_of
from crmbridge.crm.client import DEAD_S, CrmClient, Outcome
from crmbridge.crm.clock import Clock
from crmbridge.crm.lanes import Entry, Lanes
from crmbridge.crm.retry import (
    LONGEST_PAUSE_S,
    LONGEST_PROBE_PAUSE_S,
    LONGEST_RETRY_AFTER_S,
    Breaker,
    Phase,
    Policy,
    pause_s,
    retry_after_s,
)
from crmbridge.crm.sending import Outbox, Settings, Stats

log = structlog.get_logger("crmbridge.crm")

FOLLOW_OUTBOX_S = 5.0
"""How often the outbox is asked whether somebody else (`crmbridge outbox retry`) has changed it."""
AHEAD = 2
"""Callbacks that may be under way or being stored, for each request that may be under way. One that is being stored
keeps no other call waiting: the CRM would be idle for as long as the disk takes. But what is stored at once must be
little, or a ring that comes meanwhile waits for it: without a limit 60 ms, in place of 16 (`make bench`, section
backlog)."""
LATE_S = 60.0
"""Both loops go round every FOLLOW_OUTBOX_S; a slow disk may hold them up this long before they count as hung."""


class Sender:
    """Give it deliveries with `submit`, let `run` run, and end it with `stop`."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        clock: Clock | None = None,
        on_outcome: Callable[[Delivery, State, float], None] | None = None,
        alive: Callable[[float], None] = lambda within_s: None,  # noqa: ARG005
        claims: Claims | None = None,
    ) -> None:
        """`on_outcome` hears of each final outcome, with the seconds since the event.

        `alive` is told at each round within how many seconds it will be told again. `claims`: where another bridge may
        be sending the same callbacks.

        Raises ValueError when the CRM's address can't be used.
        """
        check_url(settings.url)
        self._settings = settings
        self._policy = Policy(settings.ring_expires_s, settings.answer_expires_s)
        self._outbox = outbox
        self._clock = clock or Clock()
        self._claiming = Claiming(claims, self._clock, names_pbx=settings.names_pbxes) if claims is not None else None
        self._on_outcome = on_outcome
        self._alive = alive
        self._lanes = Lanes()
        self._breaker = Breaker()
        self._through = 0
        """How many callbacks the CRM has confirmed or refused."""
        self._stats = Stats()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._go: Callable[[Entry], asyncio.Task[None]] | None = None
        """Begins a request, while `run` runs."""
        self._goes_round_at = 0.0
        """When the sending loop will do so again at the latest."""
        self._requests: set[asyncio.Task[None]] = set()
        """Those under way."""
        self._storing: set[asyncio.Future[bool]] = set()
        """What came of others."""
        self._failure: BaseException | None = None
        self._settled: set[int] = set()
        """Final outcomes since the outbox was last asked for changes."""

    def submit(self, deliveries: Iterable[Delivery], age_s: float | None = None) -> None:
        """Queue these, in this order. Never blocks. They must be in the outbox already.

        `age_s`: seconds since their events, where this process saw them. Without it the wall clock is asked: nothing
        else knows of a time before this process.
        """
        for delivery in deliveries:
            self._add(delivery, age_s)
        next_at = self._lanes.next_at()
        if next_at is not None and next_at < self._goes_round_at:
            self._wake.set()  # it may be too old already
        else:
            self._send_what_may_go()

    def stop(self) -> None:
        """Ask `run` to end. What is under way is finished; what waits stays in the outbox for the next start."""
        self._stop.set()
        self._wake.set()

    def stats(self) -> Stats:
        """The numbers as they are now."""
        oldest = self._lanes.oldest()
        self._stats.waiting = len(self._lanes)
        self._stats.under_way = len(self._requests) + len(self._storing)
        self._stats.oldest_s = self._clock.monotonic() - oldest.born if oldest else 0.0
        self._stats.crm_down = self._breaker.phase is not Phase.CLOSED
        return self._stats

    async def run(self) -> None:
        """Send until `stop`. Raises what is unexpected, such as a failure of the outbox."""
        settings, dead_s = self._settings, DEAD_S if self._claiming is not None else None
        async with CrmClient(
            settings.url, settings.timeout_s, settings.ssl_context, settings.concurrency, dead_s=dead_s
        ) as client:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow_outbox())
                    await self._dispatch(tasks, client)
                    await self._finish()
            finally:
                if self._storing:
                    await asyncio.wait(self._storing)
        if self._failure is not None:
            raise self._failure

    def _add(self, delivery: Delivery, age_s: float | None) -> None:
        wall, now = self._clock.now(), self._clock.monotonic()
        event = delivery.event
        if age_s is not None:
            self._lanes.add(delivery, now - age_s, now - age_s + self._policy.life_s(event.kind))
            return
        # Set back since the event was written: it is taken for new, and not for one from the future.
        age_s = max(0.0, (wall - event.at).total_seconds())
        queued_s = max(0.0, (wall - (delivery.requeued_at or event.at)).total_seconds())
        due = None
        if delivery.next_attempt_at:
            wait_s = (delivery.next_attempt_at - wall).total_seconds()
            due = now + min(max(0.0, wait_s), LONGEST_RETRY_AFTER_S)
        self._lanes.add(delivery, now - age_s, now - queued_s + self._policy.life_s(event.kind), due)

    async def _dispatch(self, tasks: asyncio.TaskGroup, client: CrmClient) -> None:
        ours = copy_context()

        def go(entry: Entry) -> asyncio.Task[None]:
            # In our context, and not that of whoever handed it in: lines about the CRM would name one of the PBXes.
            return tasks.create_task(
                self._deliver(entry, client), name=entry.delivery.event.linkedid, context=ours.copy()
            )

        self._go = go
        try:
            while not self._stop.is_set():
                if self._failure is not None:
                    raise self._failure
                self._alive(LATE_S)
                self._wake.clear()
                if overdue := self._lanes.take_overdue(self._clock.monotonic()):
                    expiring = tasks.create_task(self._expire(overdue))
                    if self._claiming is None:  # else their database may take a moment, for which nothing needs to wait
                        await expiring
                self._send_what_may_go()
                next_at, followed_at = self._next_at(), self._clock.monotonic() + FOLLOW_OUTBOX_S
                self._goes_round_at = min(next_at or followed_at, followed_at)
                await self._clock.wait(self._wake, next_at)
        finally:
            self._go = None

    def _send_what_may_go(self) -> None:
        while self._go is not None and (entry := self._next()):
            task = self._go(entry)
            self._requests.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._is_full():
            self._wake.set()
        self._requests.discard(task)

    def _next(self) -> Entry | None:
        if self._stop.is_set() or self._is_full():
            return None
        now = self._clock.monotonic()
        entry = self._lanes.take(now) if self._breaker.may_send(now) else None
        if entry:
            self._breaker = self._breaker.sending(entry.delivery.id)
        return entry

    def _is_full(self) -> bool:
        most = self._settings.concurrency
        return len(self._requests) >= most or len(self._requests) + len(self._storing) >= most * AHEAD

    def _next_at(self) -> float | None:
        instants = [self._lanes.next_at()]
        if self._breaker.phase is Phase.OPEN:
            instants.append(self._breaker.until)
        # A pause that is over while no request may go out is no reason to look again: the end of a request is.
        now = self._clock.monotonic()
        return min((instant for instant in instants if instant is not None and instant > now), default=None)

    async def _finish(self) -> None:
        """Wait for what is under way, then give it up: still queued, it goes out again after the next start."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=self._settings.stop_grace_s)
        if self._requests:
            linkedids = [task.get_name() for task in self._requests]
            log.warning("crm.stopped_with_requests_under_way", requests=len(linkedids), linkedids=linkedids)
        for task in list(self._requests):
            task.cancel()

    async def _deliver(self, entry: Entry, client: CrmClient) -> None:
        at, started = self._clock.now(), self._clock.monotonic()

        async def request(allowed: Callable[[], bool] | None = None) -> Outcome:
            nonlocal at, started
            at, started = self._clock.now(), self._clock.monotonic()
            self._stats.requests += 1
            return await client.send(entry.delivery.event, allowed)

        try:
            outcome = await (
                self._claiming.send(entry.delivery, request, again=entry.attempts > 0) if self._claiming else request()
            )
        except asyncio.CancelledError:
            self._breaker = self._breaker.abandoned(entry.delivery.id)
            raise
        if isinstance(outcome, Outcome):
            entry.attempts += 1
            attempt = Attempt(at, self._clock.monotonic() - started, outcome.status, outcome.verdict.reason)
            self._settle(entry, attempt, outcome)
            return
        self._breaker = self._breaker.abandoned(entry.delivery.id)  # nothing was asked of the CRM
        if isinstance(outcome, Told):
            self._told(entry, outcome)
        else:
            self._lanes.pause(entry, outcome.look_at)
            self._wake.set()
            log.debug("crm.held_by_peer", **self._about(entry.delivery.event), bridge=outcome.bridge)

    def _told(self, entry: Entry, told: Told) -> None:
        """It needn't be sent any more."""
        self._store(entry, as_attempt(told, self._clock.now()), state_of(told))

    def _settle(self, entry: Entry, attempt: Attempt, outcome: Outcome) -> None:
        if outcome.verdict.answer is Answer.RETRY:
            self._again(entry, attempt, outcome)
            return
        self._crm_is_alive()
        self._store(entry, attempt, State.CONFIRMED if outcome.verdict.answer is Answer.CONFIRMED else State.REFUSED)

    def _again(self, entry: Entry, attempt: Attempt, outcome: Outcome) -> None:
        now, wall = self._clock.monotonic(), self._clock.now()
        after_s = retry_after_s(outcome.retry_after, wall, outcome.date)
        self._crm_failed(entry, attempt, after_s)
        if now >= entry.deadline:
            self._store(entry, attempt, State.EXPIRED)
            return
        longest_s = LONGEST_PROBE_PAUSE_S if entry.through == self._through else LONGEST_PAUSE_S
        entry.through = self._through
        pause = max(pause_s(entry.attempts, self._clock.jitter(), longest_s), after_s or 0.0)
        self._store(entry, attempt, State.QUEUED, pause)

    def _store(self, entry: Entry, attempt: Attempt, state: State, pause: float = 0.0) -> None:
        """Have it stored what came of a request, whatever becomes of its task; then go on with this call."""
        now, wall = self._clock.monotonic(), self._clock.now()
        next_at = wall + timedelta(seconds=pause) if state is State.QUEUED else None
        storing = asyncio.ensure_future(self._outbox.record(entry.delivery.id, attempt, state, next_at))
        self._storing.add(storing)
        storing.add_done_callback(partial(self._stored, entry, attempt, state, now + pause))

    def _stored(self, entry: Entry, attempt: Attempt, state: State, due: float, storing: asyncio.Future[bool]) -> None:
        self._storing.discard(storing)
        self._wake.set()
        if storing.cancelled():
            return
        try:
            if state is not State.QUEUED:
                storing.result()
                self._close(entry, state, attempt)
            elif storing.result():
                self._lanes.pause(entry, due)
            else:
                self._lanes.remove(entry)  # by hand, meanwhile
                log.info("crm.dropped", **self._about(entry.delivery.event))
        except Exception as error:  # noqa: BLE001  # it is raised where `run` is awaited
            self._failure = error

    async def _expire(self, entries: Sequence[Entry]) -> None:
        told = await self._claiming.told([entry.delivery for entry in entries]) if self._claiming else {}
        await self._outbox.expire([entry.delivery.id for entry in entries if entry.delivery.id not in told])
        for entry in entries:
            if entry.delivery.id in told:
                self._told(entry, told[entry.delivery.id])
            else:
                self._close(entry, State.EXPIRED, None)
        self._wake.set()  # for what waited behind these

    def _close(self, entry: Entry, state: State, attempt: Attempt | None) -> None:
        self._lanes.remove(entry)
        self._settled.add(entry.delivery.id)
        age_s = self._clock.monotonic() - entry.born
        self._stats.outcomes[state] += 1
        if state is State.CONFIRMED:
            self._stats.last_confirmed_s = age_s
        say = log.info if state in {State.CONFIRMED, State.BY_PEER} else log.warning
        reason = {} if state is State.CONFIRMED else {"reason": attempt.outcome if attempt else "too old to be of use"}
        say(
            f"crm.{state}",
            **self._about(entry.delivery.event),
            attempts=entry.attempts,
            ms=round(age_s * 1000),
            **reason,
        )
        if self._on_outcome:
            self._on_outcome(entry.delivery, state, age_s)

    def _crm_is_alive(self) -> None:
        if self._breaker.phase is not Phase.CLOSED:
            log.info("crm.back", waiting=len(self._lanes))
            self._lanes.end_pauses()
        self._breaker = self._breaker.alive()
        self._through += 1

    def _crm_failed(self, entry: Entry, attempt: Attempt, after_s: float | None) -> None:
        self._stats.failures += 1
        self._stats.last_failure = attempt.outcome
        before, now = self._breaker.phase, self._clock.monotonic()
        self._breaker = self._breaker.failed_with(entry.delivery.id, now, self._clock.jitter(), after_s)
        if before is not Phase.CLOSED:
            return
        if self._breaker.phase is Phase.OPEN:
            log.warning("crm.down", reason=attempt.outcome, waiting=len(self._lanes))
        elif entry.attempts == 1:
            log.warning("crm.retrying", **self._about(entry.delivery.event), reason=attempt.outcome)

    async def _follow_outbox(self) -> None:
        # Ends with the stop and is not cancelled: it may be within the database.
        while await self._pause(FOLLOW_OUTBOX_S):
            await self._look_at_outbox()
            self._wake.set()  # the sending loop goes round, too, and says so; if this one hangs, neither does

    async def _pause(self, seconds: float) -> bool:
        """False when the stop came first."""
        await self._clock.wait(self._stop, self._clock.monotonic() + seconds)
        return not self._stop.is_set()

    async def _look_at_outbox(self) -> None:
        """Take up what `crmbridge outbox retry` has queued, forget what `crmbridge outbox drop` took away."""
        before = self._lanes.ids()
        self._settled.clear()
        queued = await self._outbox.changes()
        if queued is None:
            return
        for delivery_id in before - {delivery.id for delivery in queued}:
            if entry := self._lanes.remove_idle(delivery_id):
                log.info("crm.dropped", **self._about(entry.delivery.event))
        known = self._lanes.ids()
        # What was settled while the outbox was read may still be queued in what was read.
        queued = [delivery for delivery in queued if delivery.id not in self._settled]
        for delivery in queued:
            if delivery.requeued_at is not None and delivery.id not in known:
                log.info("crm.queued_again", **self._about(delivery.event))
        self.submit(queued)

    def _about(self, event: CallEvent) -> dict[str, str]:
        return about(event, names_pbx=self._settings.names_pbxes)

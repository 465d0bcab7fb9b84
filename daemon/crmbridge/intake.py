"""The one path from the PBX's events to the outbox: in order, never blocking the reader, nothing dropped silently.

Frames go to the tracker as they are read. What it tells is stored, in one transaction what comes of one read of the
socket, and then sent; frames that come meanwhile wait, and are worked off together. No task is woken for any of it: a
call's frames come in some four reads, and each more round of the event loop makes a popup later (`make bench`, section
rings). Call records and the like go their own way at once, so that neither holds the other up.

Where more frames wait than memory should hold, all are thrown away until we can go on, and then the PBX is asked for
its channels anew: what is rung for or talked about then is told, and what was told is not told again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import structlog

from crmbridge.calls.events import CallEvent, Delivery, Kind
from crmbridge.calls.tracker import Tracker
from crmbridge.liveness import NOTHING_UNDER_WAY

log = structlog.get_logger("crmbridge.calls")

Frame = Mapping[str, str]

LATE_S = 60.0
"""How long one batch may take (a disk that is slow or full takes seconds) before it counts as hung."""
LONGEST_LAG = 200_000
"""Frames waiting to be worked off (some 100 MB) before we rather ask the PBX for its channels anew."""

LAG_S = 2.0
"""How long a frame may wait before it is worth a line in the log."""

BATCH = 1000
"""Frames worked off at once: some 20 ms, in which nothing else is done."""

_TRANSITIONS = {Kind.RING: "call.rings", Kind.ANSWER: "call.answered"}

Taken = tuple[Frame, datetime, float]
"""A frame, when it was read, and when we took it on the loop's clock."""


class Intake:
    """Takes the frames of one PBX."""

    def __init__(
        self,
        *,
        tracker: Tracker,
        store: Callable[[Sequence[CallEvent]], Awaitable[list[Delivery]]],
        send: Callable[[Sequence[Delivery], float], None],
        others: Mapping[str, Callable[[Frame], None]],
        resync: Callable[[], None],
        watch: Callable[[Frame, datetime], None] | None = None,
        alive: Callable[[float], None] = lambda within_s: None,  # noqa: ARG005
        worked_off: Callable[[float], None] = lambda waited_s: None,  # noqa: ARG005
        longest_lag: int = LONGEST_LAG,
        lag_s: float = LAG_S,
    ) -> None:
        """`store` has call events on disk when it returns, and gives back the new ones; `send` takes those on,
        with the seconds since they were read: the wall clock may have been set meanwhile.

        `others`: what to do at once with events that are not the tracker's, by name. `resync` asks the PBX to list its
        channels, for when we could not keep up. `watch` is shown each event that the tracker takes, after it. `alive`
        is told within how many seconds it will be told again. `worked_off` hears, when something is stored and when
        frames that waited are worked off, how many seconds the oldest of them has taken.
        """
        self._tracker = tracker
        self._store = store
        self._send = send
        self._others = others
        self._resync = resync
        self._watch = watch
        self._alive = alive
        self._worked_off = worked_off
        self._longest_lag = longest_lag
        self._lag_s = lag_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Taken] = deque()
        """Frames that came while something is stored."""
        self._told: list[CallEvent] = []
        """What will be stored next."""
        self._storing: asyncio.Future[list[Delivery]] | None = None
        self._going_on = False
        """With those that waited, and there are more."""
        self._alarm: asyncio.TimerHandle | None = None
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None
        self._stopping = False
        self._overrun = False
        self._oldest: float | None = None
        self._lags_since: float | None = None
        self.dropped = 0
        """Frames thrown away since the start because we could not keep up."""
        self._alive(NOTHING_UNDER_WAY)

    @property
    def waiting(self) -> int:
        """How many frames wait to be worked off."""
        return len(self._waiting)

    @property
    def lag_s(self) -> float:
        """How long the oldest frame that is not worked off has waited."""
        oldest = self._oldest if self._oldest is not None else self._waiting[0][2] if self._waiting else None
        return 0.0 if oldest is None else self._loop.time() - oldest

    def take(self, frame: Frame, at: datetime) -> None:
        """Take a frame that was read at this instant. Returns at once."""
        other = self._others.get(frame.get("Event", ""))
        if other is not None:
            _hand_over(frame, other)
        elif self._storing is None and not self._going_on:
            self._work_off(frame, at)
            if self._told and self._oldest is None:
                # With the others of the same read of the socket: a ring group's phones are one transaction.
                self._oldest = self._loop.time()
                self._loop.call_soon(self._store_told)
        elif self._overrun or len(self._waiting) >= self._longest_lag:
            self._drop()
        else:
            self._waiting.append((frame, at, self._loop.time()))

    def stop(self) -> None:
        """Ask `run` to end once what has come is worked off."""
        self._stopping = True
        self._moved.set()

    async def run(self) -> None:
        """Be there until `stop`, and until all is worked off that came before. Raises what goes wrong with that."""
        while self._failure is None and not (self._stopping and self._rests):
            self._moved.clear()
            await self._moved.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def _rests(self) -> bool:
        return self._storing is None and not self._going_on and not self._told

    def _work_off(self, frame: Frame, at: datetime) -> None:
        self._told += self._understand(frame, at)
        self._show(frame, at)
        for endpoint, context, linkedid in self._tracker.strangers():
            log.warning(
                "pbx.unknown_line",
                endpoint=endpoint,
                context=context,
                linkedid=linkedid,
                hint="not told to the CRM: add it to pbx.trunks or pbx.endpoints, or its context to inbound_contexts",
            )

    def _store_told(self) -> None:
        events, self._told = self._told, []
        self._alive(LATE_S)
        assert self._oldest is not None  # noqa: S101  # something is stored
        self._alarm = self._loop.call_at(self._oldest + self._lag_s, self._say_it_lags)
        try:
            self._storing = asyncio.ensure_future(self._store(events))
        except Exception as error:  # noqa: BLE001  # it is raised where `run` is awaited
            self._fail(error)
        else:
            self._storing.add_done_callback(self._stored)

    def _stored(self, storing: asyncio.Future[list[Delivery]]) -> None:
        assert self._alarm is not None  # noqa: S101  # set where the storing begins
        assert self._oldest is not None  # noqa: S101
        self._alarm.cancel()
        self._storing = None
        if storing.cancelled():
            return  # with everything
        try:
            new = storing.result()
            self._send(new, self._loop.time() - self._oldest)
            for delivery in new:
                _say(delivery.event)
            self._look_back()
            self._work_off_waiting()
        except Exception as error:  # noqa: BLE001  # as above
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._moved.set()

    def _go_on(self) -> None:
        try:
            self._work_off_waiting()
        except Exception as error:  # noqa: BLE001  # as above
            self._fail(error)

    def _work_off_waiting(self) -> None:
        """Work off what came meanwhile."""
        if self._waiting:
            self._oldest = self._waiting[0][2]
        for _ in range(min(BATCH, len(self._waiting))):
            frame, at, _taken_at = self._waiting.popleft()
            self._work_off(frame, at)
        self._going_on = bool(self._waiting) and not self._told
        if self._told:
            self._store_told()
            return
        if self._oldest is not None or self._overrun:
            self._look_back()
        if self._going_on:
            self._loop.call_soon(self._go_on)  # others have their turn, however much there is to do
            return
        self._alive(NOTHING_UNDER_WAY)
        if self._stopping:
            self._moved.set()

    def _drop(self) -> None:
        if not self._overrun:
            hint = "all frames are thrown away until the disk or the CPU keeps up; then the PBX is asked what goes on"
            log.error("intake.overrun", frames=len(self._waiting), lag_s=round(self.lag_s, 1), hint=hint)
        self._overrun = True
        self.dropped += 1 + len(self._waiting)
        self._waiting.clear()

    def _look_back(self) -> None:
        """After each batch: how far behind are we?"""
        longest, self._oldest = self.lag_s, None
        self._worked_off(longest)
        if longest >= self._lag_s:
            self._say_it_lags()
        if self._lags_since is not None and self.lag_s < self._lag_s:
            lasted_s = self._loop.time() - self._lags_since
            log.warning("intake.caught_up", lasted_s=round(lasted_s, 1), resync=self._overrun)
            self._lags_since = None
        if self._overrun:
            self._overrun = False
            self._resync()

    def _say_it_lags(self) -> None:
        if self._lags_since is None and self.lag_s >= self._lag_s:
            self._lags_since = self._loop.time() - self.lag_s
            hint = "popups come late: see store.… in this log, and this machine's load"
            log.warning("intake.lags", lag_s=round(self.lag_s, 1), frames=len(self._waiting), hint=hint)

    def _understand(self, frame: Frame, at: datetime) -> list[CallEvent]:
        try:
            return self._tracker.handle(frame, at)
        except Exception:
            # One event that nobody understands must not cost the popups of the calls behind it.
            log.exception("intake.event_failed", **_about(frame))
            return []

    def _show(self, frame: Frame, at: datetime) -> None:
        try:
            if self._watch is not None:
                self._watch(frame, at)
        except Exception:
            log.exception("intake.event_failed", **_about(frame))


def _hand_over(frame: Frame, other: Callable[[Frame], None]) -> None:
    try:
        other(frame)
    except Exception:
        log.exception("intake.event_failed", **_about(frame))


def _about(frame: Frame) -> dict[str, object]:
    # `Cdr` has it as our mapping in cdr_manager.conf writes it.
    return {"linkedid": frame.get("Linkedid") or frame.get("LinkedID"), "frame": dict(frame)}


def _say(event: CallEvent) -> None:
    log.info(
        _TRANSITIONS[event.kind],
        extension=event.extension,
        number=event.number,
        client_id=event.client_id,
        linkedid=event.linkedid,
    )

"""The one path from the PBX's events to the outbox: in order, never blocking the reader, nothing dropped silently.

Frames are taken as they are read and worked off in batches by one task: tracker, outbox (one commit for the whole
batch), sender. Call records go their own way, so that a call list that is slow holds up no popup.
"""

from __future__ import annotations

import asyncio
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

_TRANSITIONS = {Kind.RING: "call.rings", Kind.ANSWER: "call.answered"}


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
    ) -> None:
        """`store` has call events on disk when it returns, and gives back the new ones; `send` takes those on,
        with the seconds since they were read: the wall clock may have been set meanwhile.

        `others`: what to do at once with events that are not the tracker's, by name. `resync` asks the PBX to list its
        channels, for when we could not keep up. `watch` is shown each event that the tracker takes, after it. `alive`
        is told within how many seconds it will be told again.
        """
        self._tracker = tracker
        self._store = store
        self._send = send
        self._others = others
        self._resync = resync
        self._watch = watch
        self._alive = alive
        self._waiting: list[tuple[Frame, datetime]] = []
        self._oldest = 0.0
        """When the first of these came, on the event loop's clock."""
        self._arrived = asyncio.Event()
        self._stopping = False

    def take(self, frame: Frame, at: datetime) -> None:
        """Take a frame that was read at this instant. Returns at once."""
        other = self._others.get(frame.get("Event", ""))
        if other is not None:
            other(frame)
            return
        if not self._waiting:
            self._oldest = asyncio.get_running_loop().time()
        self._waiting.append((frame, at))
        self._arrived.set()
        if len(self._waiting) > LONGEST_LAG:
            log.error("intake.overrun", dropped=len(self._waiting), hint="the disk or the CPU can't keep up; resyncing")
            self._waiting.clear()
            self._resync()

    def stop(self) -> None:
        """Ask `run` to end once it has worked off what has come."""
        self._stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Work off what comes, until `stop`."""
        while self._waiting or not self._stopping:
            self._alive(NOTHING_UNDER_WAY)
            await self._arrived.wait()
            self._alive(LATE_S)
            await self._work_off()

    async def _work_off(self) -> None:
        self._arrived.clear()
        batch, self._waiting = self._waiting, []
        oldest = self._oldest
        events = [event for frame, at in batch for event in self._understand(frame, at)]
        for frame, at in batch:
            self._show(frame, at)
        for endpoint, context in self._tracker.strangers():
            log.warning(
                "pbx.unknown_line",
                endpoint=endpoint,
                context=context,
                hint="not told to the CRM: add it to pbx.trunks or pbx.endpoints, or its context to inbound_contexts",
            )
        if not events:
            return
        new = await self._store(events)
        self._send(new, asyncio.get_running_loop().time() - oldest)
        for delivery in new:
            _say(delivery.event)

    def _understand(self, frame: Frame, at: datetime) -> list[CallEvent]:
        try:
            return self._tracker.handle(frame, at)
        except Exception:
            # One event that nobody understands must not cost the popups of the calls behind it.
            log.exception("intake.event_failed", frame=dict(frame))
            return []

    def _show(self, frame: Frame, at: datetime) -> None:
        try:
            if self._watch is not None and frame.get("Event") not in self._others:
                self._watch(frame, at)
        except Exception:
            log.exception("intake.event_failed", frame=dict(frame))


def _say(event: CallEvent) -> None:
    log.info(
        _TRANSITIONS[event.kind],
        extension=event.extension,
        number=event.number,
        client_id=event.client_id,
        linkedid=event.linkedid,
    )

"""The session with Asterisk's Manager Interface: always trying, never blocking, nothing sent twice.

Connections come and go (`connection`); this holds one after the other. Whatever ends one, even a refused login, another
is tried after a pause (`pauses`), and each begins with lists of all that there is (`listing`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import structlog

from crmbridge.pbx import filters
from crmbridge.pbx.actions import Action
from crmbridge.pbx.connection import (
    PASSING,
    ActionTimeoutError,
    Address,
    Answer,
    Connection,
    ConnectionLostError,
    LoginRefusedError,
    NotConnectedError,
    connected,
    log_in,
)
from crmbridge.pbx.counts import Counts
from crmbridge.pbx.explain import explain
from crmbridge.pbx.listing import OF_LISTS, PHONES, Listing, Taken, refusal
from crmbridge.pbx.pauses import Pauses, Timing
from crmbridge.pbx.wire import Frame

__all__ = [
    "PASSING",
    "ActionTimeoutError",
    "Address",
    "Ami",
    "Answer",
    "ConnectionLostError",
    "LoginRefusedError",
    "NotConnectedError",
    "Timing",
    "explain",
]

_PHONES_CHANGED = frozenset({"UserDeviceAdded", "UserDeviceRemoved"})
"""Somebody has logged on to a phone or off: FreePBX has changed the hints, and says so by a UserEvent (its core's
agi-bin/user_login_out.agi); Asterisk itself says nothing."""

log = structlog.get_logger("crmbridge.ami")

REMIND_S = 300.0
"""How often it is logged that Asterisk is still not there, for the same reason."""


LATE_S = 120.0
"""A connection may take as long until it is a session (five answers, ten seconds each); later it counts as hung."""


class Ami:
    """The AMI session of one PBX."""

    def __init__(
        self,
        *,
        address: Address,
        username: str,
        secret: str,
        wanted: Collection[str],
        on_frame: Callable[[Frame, datetime], None],
        apart: Collection[str] = (),
        timing: Timing | None = None,
        alive: Callable[[float], None] = lambda within_s: None,  # noqa: ARG005
    ) -> None:
        """`wanted`: the events to hand on. `on_frame` is called for each, in order, with the instant it was read.

        It must not block: Asterisk ends the session of a client that doesn't read. `apart`: those among the wanted
        that don't have to wait until all channels are listed. `alive` is told within how many seconds it will be told
        again, whether or not there is a session.
        """
        self._address = address
        self._username, self._secret = username, secret
        self._wanted = frozenset(wanted)
        self._deliver = on_frame
        self._timing = timing or Timing()
        self._alive = alive
        self._connection: Connection | None = None
        self._since: float | None = None
        """When the session began, on the loop's clock; None when the last attempt came to no session."""
        self.refused = 0
        """Logins in a row that were refused."""
        self._complained_at = 0.0
        self._booted = asyncio.Event()
        self._ready = asyncio.Event()
        self._listing = Listing(apart)
        self.counts = Counts(self._wanted | filters.OF_SESSION | OF_LISTS)
        self._out: deque[Taken] = deque()
        self._patience: asyncio.TimerHandle | None = None
        self.trouble = "not tried yet"
        """Why there is no session, in an administrator's words; of no meaning while `connected`."""

    @property
    def connected(self) -> bool:
        """Logged in, and actions can be sent."""
        return self._connection is not None

    @property
    def version(self) -> str | None:
        """AMI version of the PBX as in its greeting, None while not connected."""
        return self._connection.version if self._connection else None

    async def ready(self) -> None:
        """Wait until the session is up and a first look at all channels was asked for."""
        await self._ready.wait()

    async def run(self) -> None:
        """Hold the session until cancelled. Whatever ends it is logged and tried again."""
        pauses = Pauses(self._timing, random.random)
        while True:
            self._alive(LATE_S)
            refused = await self._once()
            held_s = asyncio.get_running_loop().time() - self._since if self._since else 0.0
            pause = pauses.after(held_s=held_s, refused=refused)
            log.debug("ami.retry", in_s=round(pause, 1))
            self._alive(pause + LATE_S)
            await asyncio.sleep(pause)

    async def _once(self) -> bool:
        """One connection, from its beginning to its end. Whether the login was refused comes back."""
        where = {"host": self._address.host, "port": self._address.port}
        self._since = None
        try:
            async with self._connected() as connection:
                await self._session(connection)
            self.counts.ended(silent=connection.was_silent)
            self.trouble = "the connection was lost"
            log.warning("ami.lost", **where)
        except LoginRefusedError as error:
            self.counts.attempts["refused"] += 1
            self.trouble = f"{error}; it is tried again every {self._timing.refused_pause_s / 60:.0f} minutes"
            self._log_refusal(error)
            return True
        except PASSING as error:
            self.counts.attempts["unreachable"] += 1
            self._log_unreachable(explain(error), where)
        return False

    def _log_unreachable(self, trouble: str, where: Mapping[str, object]) -> None:
        """A new reason at once; the same one, which comes every few seconds while Asterisk is down, now and then."""
        now = asyncio.get_running_loop().time()
        again = trouble == self.trouble and now - self._complained_at < REMIND_S
        self.trouble = trouble
        if again:
            log.debug("ami.unreachable", **where, error=trouble)
        else:
            self._complained_at = now
            log.warning("ami.unreachable", **where, error=trouble, hint="it is tried again every few seconds")

    def _log_refusal(self, error: LoginRefusedError) -> None:
        self.refused += 1
        if self.refused > 1:
            log.info("ami.login_still_refused", times=self.refused)
            return
        hint = "mend it, then `manager reload` in Asterisk; restart crmbridge to be let in at once"
        again = f"every {self._timing.refused_pause_s / 60:.0f} minutes, so that no fail2ban bans this address"
        log.error("ami.login_refused", error=str(error), username=self._username, hint=hint, tried_again=again)

    async def action(self, fields: Action, *, timeout_s: float | None = None) -> Answer:
        """Send one action and wait for its answer. It is sent once, whatever happens.

        Raises NotConnectedError, ConnectionLostError, ActionTimeoutError, and ValueError for a value that could be
        read as a second header.
        """
        if self._connection is None:
            raise NotConnectedError("not connected to Asterisk")
        return await self._connection.send(fields, timeout_s=timeout_s)

    def resync(self) -> None:
        """Events were lost behind us: ask for all hints, bridges and channels.

        They come as events; what the PBX says from now on comes after them.
        """
        self.counts.resyncs += 1
        not_given = list(self._out)
        self._out.clear()
        self._ask(self._listing.ask_after_loss(not_given))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        wanted = self._wanted | filters.OF_SESSION | OF_LISTS
        async with connected(self._address, self._timing, wanted=wanted, on_frame=self._on_frame) as connection:
            try:
                self._booted.clear()
                self._listing.begin()
                yield connection
            finally:
                self._connection = None
                self._ready.clear()
                if self._patience is not None:
                    self._patience.cancel()

    async def _session(self, connection: Connection) -> None:
        await log_in(connection, self._address, self._username, self._secret)
        await self._narrow(connection)
        self._connection = connection
        self.counts.began()
        self._since = asyncio.get_running_loop().time()
        log.info("ami.connected", host=self._address.host, port=self._address.port, ami_version=connection.version)
        if self.refused:
            log.info("ami.login_accepted", refused_before=self.refused)
            self.refused = 0
        await self._wait_for_boot()
        if not self._booted.is_set():
            log.warning("ami.no_fully_booted", hint="Asterisk still starts, or the AMI user lacks read = system")
        self._ask(self._listing.ask())
        self._ready.set()
        keeper = asyncio.create_task(connection.keep_alive())
        try:
            await self._lost(connection, keeper)
        finally:
            keeper.cancel()
            # Not by awaiting it: that would swallow the cancellation of this task, should it come just then.
            await asyncio.wait([keeper])

    async def _lost(self, connection: Connection, keeper: asyncio.Task[None]) -> None:
        while True:
            if not keeper.done():  # without it a dead connection would look alive for ever
                self._alive(LATE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.ping_s):
                    await connection.lost()
                    return

    async def _narrow(self, connection: Connection) -> None:
        """Have only the events sent that are wanted, where the user may say so; else the user's own filter counts."""
        may = await connection.send({"Action": "ListCommands"})
        if "Filter" in may.headers:
            pattern = filters.pattern(self._wanted)
            answer = await connection.send({"Action": "Filter", "Operation": "Add", "Filter": pattern})
            log.info("ami.filter", accepted=answer.success, answer=answer.message)

    async def _wait_for_boot(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.boot_wait_s):
                await self._booted.wait()

    def _on_frame(self, frame: Frame) -> None:
        event = frame.get("Event")
        if event is None:
            if (action := refusal(frame)) is not None:
                log.warning("ami.list_refused", action=action, reason=frame.get("Message"))
        elif event in self.counts.events:  # so that no label is made of what somebody smuggled in
            self.counts.events[event] += 1
        self._give(self._listing.take(frame, datetime.now(UTC)))
        if self._listing.is_due:
            self._ask(self._listing.due())
        if event in self._OF_SESSION:
            self._OF_SESSION[event](self, frame)

    def _fully_booted(self, _: Frame) -> None:
        self._booted.set()
        if self._ready.is_set():
            self._ask(self._listing.ask())  # it came late: when we first looked, there was nothing yet

    def _reloaded(self, frame: Frame) -> None:
        if self._ready.is_set():
            log.info("ami.asterisk_reloaded", module=frame.get("Module"))
            self._ask(self._listing.ask(PHONES))

    def _somebody_says(self, frame: Frame) -> None:
        if frame.get("UserEvent") in _PHONES_CHANGED and self._ready.is_set():
            self._ask(self._listing.ask(PHONES))

    def _stops(self, frame: Frame) -> None:
        self.counts.stops = True
        log.info("ami.asterisk_stops", restart=frame.get("Restart"))

    _OF_SESSION: Mapping[str | None, Callable[[Ami, Frame], None]] = {
        "FullyBooted": _fully_booted,
        "Reload": _reloaded,
        "UserEvent": _somebody_says,
        "Shutdown": _stops,
    }

    def _ask(self, actions: Iterable[Action]) -> None:
        if self._connection is None:
            return  # each session begins with this
        actions = list(actions)
        for fields in actions:
            self._connection.post(fields)
        if actions:
            self._be_patient(asyncio.get_running_loop().time())

    def _be_patient(self, began: float) -> None:
        """Wait for the lists that were asked for then, as long as they come on."""
        loop = asyncio.get_running_loop()
        progress = self._listing.progress

        def look() -> None:
            if not self._listing.awaited:
                return
            too_long = loop.time() - began >= self._timing.list_most_s
            if self._listing.progress > progress and not too_long:
                self._be_patient(began)
                return
            log.warning("ami.list_incomplete", awaited=self._listing.awaited, hint="going on without")
            self._give(self._listing.give_up())
            self._ask(self._listing.due())

        if self._patience is not None:
            self._patience.cancel()
        self._patience = loop.call_later(self._timing.list_wait_s, look)

    def _give(self, taken: Iterable[Taken]) -> None:
        """Hand frames on. Whoever takes them may call `resync`, which takes back those that it did not get yet."""
        self._out += taken
        while self._out:
            frame, at = self._out.popleft()
            try:
                self._deliver(frame, at)
            except Exception:
                # One event that can't be taken must not end the connection, nor take those behind it along.
                linkedid = frame.get("Linkedid")
                log.exception("ami.frame_failed", event_name=frame.get("Event"), linkedid=linkedid, frame=dict(frame))

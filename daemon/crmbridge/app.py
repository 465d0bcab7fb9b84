"""The composition root: joins the parts, many of them made by `build`. Nothing else knows all of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from crmbridge import __version__, build, reload
from crmbridge.calls.channels import PHONE, Endpoints
from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.dialing import Code, Dialing, Result
from crmbridge.calls.events import Delivery, State
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.phone_states import PhoneState, PhoneStates
from crmbridge.calls.tracker import Tracker
from crmbridge.click_claims import ClickClaims
from crmbridge.clicks import Clicks
from crmbridge.config import ConfigError, Settings
from crmbridge.intake import Frame, Intake
from crmbridge.liveness import Pulses
from crmbridge.log import set_level
from crmbridge.pbx import actions
from crmbridge.pbx.ami import ActionTimeoutError, ConnectionLostError, NotConnectedError
from crmbridge.retention import Keeps, Retention
from crmbridge.standing import Standing
from crmbridge.store.call_list import CallList
from crmbridge.store.claims import Claims
from crmbridge.store.clicks import ClickStore, open_clicks
from crmbridge.store.outbox import Outbox, open_outbox
from crmbridge.store.outbox_sql import Which
from crmbridge.store.schema import StoreError
from crmbridge.systemd import ServiceManager
from crmbridge.web.call_list import CallListing, no_link
from crmbridge.web.dialer import Dialer
from crmbridge.web.metrics import Metrics
from crmbridge.web.ops import Ops
from crmbridge.web.server import Part, Server
from crmbridge.web.tls import TlsError

log = structlog.get_logger("crmbridge.app")

OUTBOX, CLICKS = "outbox.db", "clicks.db"
"""Files in store.state_dir."""

LONGEST_CALL = timedelta(hours=12)
UNSEEN_CLICK_S = 60.0
"""A click of which nothing was seen for so long after its phone's time was up has come to nothing."""
MOST_RECALLED = 20_000
"""What was told so lately is recalled at the start, for calls that still go on."""


class ListenError(Exception):
    """http.listen can't be had; the message says why and what to do."""


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    http: socket.socket | None = None,
    manager: ServiceManager | None = None,
    reloads: Reloads | None = None,
) -> None:
    """Be the bridge until `stop` is set; then finish what is under way.

    `http`: a socket that is bound already, in place of `http.listen`. `manager` is told how we stand. Raises
    StoreError, TlsError and ListenError, which say what to do; what is unexpected goes through and ends the process.
    """
    async with AsyncExitStack() as stack:
        outbox = await stack.enter_async_context(open_outbox(settings.store.state_dir / OUTBOX))
        endpoints, numbers = build.endpoints(settings.pbx), build.numbers(settings.numbers)
        rows = build.history(endpoints, numbers, build.clients(settings.crm)).rows
        calls = await stack.enter_async_context(build.call_list(settings, rows, for_daemon=True))
        path = settings.store.state_dir / CLICKS
        clicks = await stack.enter_async_context(open_clicks(path, pbx=settings.pbx.name))
        claims = await stack.enter_async_context(build.claims(settings))
        bridge = _Bridge(settings, outbox, calls, clicks, endpoints, numbers, claims)
        await bridge.run(stop, http or settings.http.listen, manager, reloads)


@dataclass(frozen=True, slots=True)
class Reloads:
    """When the settings are to be read again, and how."""

    asked: asyncio.Event
    load: Callable[[], Settings]
    """Blocks. Raises ConfigError."""


class _Bridge:
    """The parts of one bridge, joined."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        calls: CallList,
        clicks: ClickStore,
        endpoints: Endpoints,
        numbers: Numbers,
        claims: Claims | None,
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._clicks = Clicks(store=clicks, calls=ClickCalls(longest_ring_s=settings.dialer.timeout_s + UNSEEN_CLICK_S))
        self._phones = PhoneStates()
        self._retention = Retention(pbx=settings.pbx.name, outbox=outbox, clicks=clicks, calls=calls, keeps=self._keeps)
        self._reload_refused = False
        self._outbox = outbox
        self._numbers = numbers
        self._clients = build.clients(settings.crm)
        self._tls = build.certificate(settings.http)
        self._access = build.access(settings, self._clients)
        self._dialing = Dialing(
            build.dialing_rules(settings, self._clients.ids),
            owns=self._clients.owns,
            in_progress=lambda: self._clicks.in_progress,
            state=self._state,
        )
        self._channels = build.channels_of_named_phones(settings)
        self._timezone = build.pbx_timezone(settings.cdr)
        self._recordings = build.recordings(settings)
        self._pulses = Pulses(time.monotonic)
        self._metrics = Metrics(lambda: self._standing.readings())  # noqa: PLW0108  # which is made last
        self._listing = CallListing(
            by_number=calls.by_number,
            refusal=StoreError,
            key=numbers.same,
            timezone=self._timezone,
            link=self._recordings.link if self._recordings is not None else no_link,
            took=self._metrics.looked_up,
        )
        self._sender = build.sender(settings.crm, outbox, self._pulses.of("sender"), self._count, claims)
        self._records = build.call_records(settings, calls)
        others: dict[str, Callable[[Frame], None]] = {
            "Cdr": self._records.take,
            "FullyBooted": self._records.connected,
            "OriginateResponse": self._take_for_clicks,
        }
        self._tracker = build.tracker(settings.pbx, settings.tell, endpoints, self._clients, numbers)
        self._intake = Intake(
            tracker=self._tracker,
            store=outbox.add,
            send=self._sender.submit,
            others=others,
            watch=self._watch,
            resync=self._resync,
            alive=self._pulses.of("intake"),
            worked_off=self._metrics.worked_off,
        )
        wanted = Tracker.EVENTS | ClickCalls.EVENTS | PhoneStates.EVENTS | others.keys()
        self._ami = build.ami(
            settings, wanted=wanted, on_frame=self._intake.take, apart=others.keys(), alive=self._pulses.of("ami")
        )
        self._standing = Standing(
            ami=self._ami,
            clicks=self._clicks,
            intake=self._intake,
            listing=self._listing,
            outbox=outbox,
            records=self._records,
            sender=self._sender,
            tracker=self._tracker,
        )

    def _resync(self) -> None:
        self._ami.resync()

    def _watch(self, frame: Frame, at: datetime) -> None:
        self._clicks.take(frame, at)
        if frame.get("Event") in PhoneStates.EVENTS:
            self._phones.handle(frame)
            log.debug("phones.state", event_name=frame["Event"], device=frame.get("Device"), state=frame.get("State"))

    def _state(self, extension: str) -> PhoneState:
        """What a click for this extension has to expect."""
        channel = actions.fill(self._channels.get(extension, self._settings.dialer.channel), {"ext": extension})
        return self._phones.of(extension, channel if PHONE.fullmatch(channel) else None)

    def _take_for_clicks(self, frame: Frame) -> None:
        self._clicks.take(frame, datetime.now(UTC))

    async def run(
        self,
        stop: asyncio.Event,
        listen: str | socket.socket,
        manager: ServiceManager | None,
        reloads: Reloads | None,
    ) -> None:
        """Run until `stop`; what was started last ends first, so that what is under way reaches the outbox."""
        waiting = await self._recall()
        self._sender.submit(waiting)
        try:
            await self._clicks.recall()
        except StoreError as error:
            log.error("bridge.clicks_unreadable", reason=str(error), effect="how earlier clicks ended is not recorded")
        async with asyncio.TaskGroup() as tasks:
            claims = tasks.create_task(self._claims.run(), name="claims") if self._claims else None
            sender = tasks.create_task(self._sender.run(), name="sender")
            records = tasks.create_task(self._records.run(), name="records")
            clicks = tasks.create_task(self._clicks.run(), name="clicks")
            intake = tasks.create_task(self._intake.run(), name="intake")
            pruning = tasks.create_task(self._retention.run(), name="pruning")
            server = self._server(listen)
            try:
                await server.start()
            except OSError as error:
                raise ListenError(error.strerror or str(error)) from None
            try:
                ami = tasks.create_task(self._ami.run(), name="ami")
                reloading = tasks.create_task(self._reload(reloads), name="reloads")
                log.info("bridge.started", version=__version__, pbx=self._settings.pbx.name, waiting=len(waiting))
                async with manager.kept_told(self._status, self._pulses.late) if manager else nullcontext():
                    await stop.wait()
                log.info("bridge.stopping")
            finally:
                await server.stop()
            for task in (pruning, reloading, ami):
                task.cancel()
            await asyncio.wait([pruning, reloading, ami])
            parts = (self._intake, intake), (self._clicks, clicks), (self._records, records), (self._sender, sender)
            for part, task in parts:
                part.stop()
                await task
            if self._claims is not None and claims is not None:
                self._claims.stop()
                await claims
        log.info("bridge.stopped")

    async def _recall(self) -> list[Delivery]:
        """Know what was told of calls that still go on; what waits to be sent comes back."""
        try:
            recent = await self._outbox.events(Which(since=datetime.now(UTC) - LONGEST_CALL), limit=MOST_RECALLED)
            waiting = await self._outbox.waiting()
        except StoreError as error:
            if not self._outbox.disk_refuses:
                raise
            effect = "calls that go on may be told twice; what waited is sent when the outbox can be read again"
            log.error("bridge.outbox_unreadable", reason=str(error), effect=effect)
            return []
        self._tracker.recall(event for event in recent if event.pbx == self._settings.pbx.name)
        return waiting

    def _keeps(self) -> Keeps:
        store = self._settings.store
        elsewhere = self._settings.cdr.source.get_secret_value() != "ami"
        return Keeps(store.keep_days, store.keep_mb * 2**20, store.keep_calls_days, records_elsewhere=elsewhere)

    async def _reload(self, reloads: Reloads | None) -> None:
        """Follow new settings as often as it is asked for. Wrong ones change nothing."""
        while reloads is not None:
            await reloads.asked.wait()
            reloads.asked.clear()
            try:
                self._follow(await asyncio.to_thread(reloads.load))
                self._reload_refused = False
            except (ConfigError, TlsError) as error:
                self._reload_refused = True
                log.error("bridge.reload_refused", reason=str(error), effect="the settings of before stay in force")

    def _follow(self, new: Settings) -> None:
        changed = reload.differing(self._settings, new)
        settings = reload.merged(self._settings, new)
        if self._tls is not None and settings.http.tls_cert is not None:
            build.certificate(settings.http)  # raises where it can't be used: nothing has changed yet
            self._tls.load_cert_chain(settings.http.tls_cert, settings.http.tls_key)
        self._settings = settings
        self._clients.replace(settings.crm.client_id, build.listed_clients(settings.crm))
        self._access.follow(build.access(settings, self._clients))
        self._channels = build.channels_of_named_phones(settings)
        self._dialing.follow(build.dialing_rules(settings, self._clients.ids))
        set_level(settings.log.level)
        log.info("bridge.reloaded", changed=[key for key in changed if reload.follows(key)])
        if later := [key for key in changed if not reload.follows(key)]:
            hint = "a restart takes these up (systemctl restart crmbridge); no call is lost by it"
            log.warning("bridge.reload_incomplete", keys=later, hint=hint)

    def _server(self, listen: str | socket.socket) -> Server:
        peers = ClickClaims(self._claims, lambda: self._settings.dialer.duplicate_window_s) if self._claims else None
        clicks = Dialer(dialing=self._dialing, originate=self._originate, trail=self._clicks, peers=peers)
        parts: list[Part] = [clicks, self._listing, Ops(self._standing.troubles, self._metrics.text)]
        parts += [self._recordings] if self._recordings is not None else []
        return Server(
            listen=listen,
            access=self._access,
            parts=parts,
            tls=self._tls,
            hidden_parameters=build.hidden_parameters(self._settings),
        )

    async def _originate(self, extension: str, number: str, click_id: str) -> Result:
        """Have the PBX ring the extension and then dial the number. Sent once, whatever happens."""
        began = time.monotonic()
        result = await self._asked_for(extension, number, click_id)
        self._metrics.originated(result.code, time.monotonic() - began)
        return result

    async def _asked_for(self, extension: str, number: str, click_id: str) -> Result:
        dialer = self._settings.dialer
        channel = self._channels.get(extension, dialer.channel)
        action = actions.originate(
            channel=channel,
            extension=extension,
            number=number,
            context=dialer.context,
            caller_id=dialer.caller_id,
            channel_id=click_id,
            timeout_s=dialer.timeout_s,
            variables=actions.auto_answer(channel) if dialer.auto_answer else (),
        )
        try:
            answer = await self._ami.action({**action, "ActionID": click_id})
        except NotConnectedError:
            return Result(Code.NOT_CONNECTED, "the PBX is not connected at present; try again in a minute")
        except (ActionTimeoutError, ConnectionLostError):
            return Result(Code.UNKNOWN, "the PBX did not say whether it places the call; the phone may ring")
        return Result() if answer.success else Result(Code.REFUSED, f"the PBX refused: {answer.message}")

    def _status(self) -> str:
        return self._standing.line(reload_refused=self._reload_refused)

    def _count(self, delivery: Delivery, state: State, age_s: float) -> None:
        self._metrics.count(delivery.event.kind, state, age_s)

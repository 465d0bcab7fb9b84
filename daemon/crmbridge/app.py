"""The composition root: joins the parts, many of them made by `build`. Nothing else knows all of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from crmbridge import __version__, build, reload
from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.dialing import Click, Dialing, Result
from crmbridge.calls.events import Delivery, State
from crmbridge.click_claims import ClickClaims
from crmbridge.clicks import Clicks
from crmbridge.config import ConfigError, Settings
from crmbridge.exchange import Exchange, Shared
from crmbridge.liveness import Pulses
from crmbridge.log import set_level
from crmbridge.records import Together
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
        sites = build.sites(settings)
        call_list = build.call_list(settings, build.histories(sites), for_daemon=True)
        calls = await stack.enter_async_context(call_list)
        clicks = await stack.enter_async_context(open_clicks(settings.store.state_dir / CLICKS))
        claims = await stack.enter_async_context(build.claims(settings))
        bridge = _Bridge(settings, sites, outbox, calls, clicks, claims)
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
        sites: Sequence[build.Site],
        outbox: Outbox,
        calls: CallList,
        clicks: ClickStore,
        claims: Claims | None,
    ) -> None:
        self._settings = settings
        self._claims = claims
        longest_ring_s = settings.dialer.timeout_s + UNSEEN_CLICK_S
        followed = {site.pbx: ClickCalls(longest_ring_s=longest_ring_s) for site in sites}
        self._clicks = Clicks(store=clicks, calls=followed, names_pbxes=settings.names_pbxes)
        self._retention = Retention(outbox=outbox, clicks=clicks, calls=calls, keeps=self._keeps, claims=claims)
        self._reload_refused = False
        self._outbox = outbox
        self._tls = build.certificate(settings.http)
        self._access = build.access(settings)
        self._recordings = build.recordings(settings)
        self._pulses = Pulses(time.monotonic)
        names = [site.pbx for site in sites]
        self._metrics = Metrics(lambda: self._standing.readings(), names)  # noqa: PLW0108  # which is made last
        self._listing = CallListing(
            by_number=calls.by_number,
            refusal=StoreError,
            key=build.numbers(settings.numbers).same,
            timezone=build.common_timezone(settings),
            zones=build.pbx_timezones(settings),
            link=self._recordings.link if self._recordings is not None else no_link,
            took=self._metrics.looked_up,
        )
        self._sender = build.sender(settings, outbox, self._pulses.of("sender"), self._count, claims)
        records, count = Together(calls.add_by_pbx), len(sites)
        shared = Shared(outbox, self._sender, calls, records, self._clicks, self._metrics, self._pulses, count)
        self._exchanges = {site.pbx: Exchange(site, shared) for site in sites}
        self._dialing = Dialing(
            build.dialing_rules(settings),
            [exchange.phones for exchange in self._exchanges.values()],
            in_progress=lambda: self._clicks.in_progress,
        )
        self._standing = Standing(
            exchanges=list(self._exchanges.values()),
            clicks=self._clicks,
            listing=self._listing,
            outbox=outbox,
            sender=self._sender,
            names_pbxes=settings.names_pbxes,
            claims=claims,
        )
        if claims is not None:
            claims.took = self._metrics.claimed

    async def run(
        self,
        stop: asyncio.Event,
        listen: str | socket.socket,
        manager: ServiceManager | None,
        reloads: Reloads | None,
    ) -> None:
        """Run until `stop`; what was started last ends first, so that what is under way reaches the outbox."""
        exchanges = self._exchanges.values()
        waiting = await self._recall()
        self._sender.submit(waiting)
        try:
            await self._clicks.recall()
        except StoreError as error:
            log.error("bridge.clicks_unreadable", reason=str(error), effect="how earlier clicks ended is not recorded")
        async with asyncio.TaskGroup() as tasks:
            claims = tasks.create_task(self._claims.run(), name="claims") if self._claims else None
            sender = tasks.create_task(self._sender.run(), name="sender")
            clicks = tasks.create_task(self._clicks.run(), name="clicks")
            for exchange in exchanges:
                exchange.start(tasks)
            pruning = tasks.create_task(self._retention.run(), name="pruning")
            server = self._server(listen)
            try:
                await server.start()
            except OSError as error:
                raise ListenError(error.strerror or str(error)) from None
            try:
                for exchange in exchanges:
                    exchange.connect(tasks)
                reloading = tasks.create_task(self._reload(reloads), name="reloads")
                pbx = ", ".join(self._exchanges)
                log.info("bridge.started", version=__version__, pbx=pbx, waiting=len(waiting))
                async with manager.kept_told(self._status, self._pulses.late) if manager else nullcontext():
                    await stop.wait()
                log.info("bridge.stopping")
            finally:
                await server.stop()
            for task in (pruning, reloading):
                task.cancel()
            await asyncio.wait([pruning, reloading, *(exchange.disconnect() for exchange in exchanges)])
            await asyncio.gather(*(exchange.finish_events() for exchange in exchanges))
            self._clicks.stop()
            await clicks
            await asyncio.gather(*(exchange.finish_records() for exchange in exchanges))
            self._sender.stop()
            await sender
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
        for exchange in self._exchanges.values():
            exchange.recall(recent)
        return waiting

    def _keeps(self) -> Keeps:
        store = self._settings.store
        elsewhere = {one.pbx.name: one.cdr.source.get_secret_value() != "ami" for one in self._settings.each()}
        live_s = max(self._settings.crm.ring_expires_s, self._settings.crm.answer_expires_s)
        return Keeps(store.keep_days, store.keep_mb * 2**20, store.keep_calls_days, live_s, records_elsewhere=elsewhere)

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
        for one in settings.each():
            self._exchanges[one.pbx.name].follow(one)
        self._access.follow(build.access(settings))
        self._dialing.follow(build.dialing_rules(settings))
        set_level(settings.log.level)
        log.info("bridge.reloaded", changed=[key for key in changed if reload.follows(key)])
        if later := [key for key in changed if not reload.follows(key)]:
            hint = "a restart takes these up (systemctl restart crmbridge); no call is lost by it"
            log.warning("bridge.reload_incomplete", keys=later, hint=hint)

    def _server(self, listen: str | socket.socket) -> Server:
        peers = ClickClaims(self._claims, lambda: self._settings.dialer.duplicate_window_s) if self._claims else None
        clicks = Dialer(
            dialing=self._dialing,
            originate=self._originate,
            trail=self._clicks,
            peers=peers,
            names_pbxes=self._settings.names_pbxes,
        )
        ops = Ops(self._standing.troubles, self._metrics.text, works=lambda: self._standing.works)
        parts: list[Part] = [clicks, self._listing, ops]
        parts += [self._recordings] if self._recordings is not None else []
        return Server(
            listen=listen,
            access=self._access,
            parts=parts,
            tls=self._tls,
            hidden_parameters=build.hidden_parameters(self._settings),
        )

    async def _originate(self, click: Click) -> Result:
        return await self._exchanges[click.pbx].originate(click)

    def _status(self) -> str:
        return self._standing.line(reload_refused=self._reload_refused)

    def _count(self, delivery: Delivery, state: State, age_s: float) -> None:
        self._metrics.count(delivery.event.pbx, delivery.event.kind, state, age_s)

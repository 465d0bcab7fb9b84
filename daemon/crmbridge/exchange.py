"""One PBX of the bridge: its session, its calls and call records, its phones, and the calls that clicks ask of it.

Each has all of this for itself, so that one that is away, floods us or keeps its records in a database that hangs is
in no other's way. What all PBXes share is handed in (`Shared`). Joined by `app`; it must not know the other PBXes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from crmbridge import build
from crmbridge.calls.channels import PHONE
from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.dialing import Click, Code, Result
from crmbridge.calls.events import CallEvent
from crmbridge.calls.phone_states import PhoneState, PhoneStates
from crmbridge.calls.routing import Phones
from crmbridge.calls.tracker import Tracker
from crmbridge.clicks import Clicks
from crmbridge.config import Settings
from crmbridge.crm.sender import Sender
from crmbridge.intake import LONGEST_LAG, Frame, Intake
from crmbridge.liveness import Pulses
from crmbridge.pbx import actions
from crmbridge.pbx.ami import ActionTimeoutError, ConnectionLostError, NotConnectedError
from crmbridge.records import MOST_WAITING, Together
from crmbridge.store.call_list import CallList
from crmbridge.store.outbox import Outbox
from crmbridge.web.metrics import Metrics

log = structlog.get_logger("crmbridge.exchange")

LEAST_LAG = 20_000
"""Frames of one PBX that may wait at least, however many PBXes there are: those of some seconds of a busy one."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all PBXes of a bridge have in common."""

    outbox: Outbox
    sender: Sender
    calls: CallList
    records: Together
    clicks: Clicks
    metrics: Metrics
    pulses: Pulses
    pbxes: int
    """How many there are: what waits in memory is bounded for all of them together."""


class Exchange:
    """The parts of one PBX, joined."""

    def __init__(self, site: build.Site, shared: Shared) -> None:
        self._site = site
        self._settings = site.settings
        self._metrics, self._clicks = shared.metrics, shared.clicks
        self.pbx = site.pbx
        """Its name."""
        self._phones = PhoneStates()
        self._channels = build.channels_of_named_phones(site.settings)
        self.records = build.call_records(
            site.settings, shared.calls, shared.records, most_waiting=MOST_WAITING // shared.pbxes
        )
        others: dict[str, Callable[[Frame], None]] = {
            "Cdr": self.records.take,
            "FullyBooted": self.records.connected,
            "OriginateResponse": self._take_for_clicks,
        }
        self.tracker = build.tracker(site.settings.pbx, site.settings.tell, site.endpoints, site.clients, site.numbers)
        self.intake = Intake(
            tracker=self.tracker,
            store=shared.outbox.add,
            send=shared.sender.submit,
            others=others,
            watch=self._watch,
            resync=self._resync,
            alive=shared.pulses.of(self._named("intake")),
            worked_off=partial(shared.metrics.worked_off, self.pbx),
            longest_lag=max(LONGEST_LAG // shared.pbxes, LEAST_LAG),
        )
        self.ami = build.ami(
            site.settings,
            wanted=Tracker.EVENTS | ClickCalls.EVENTS | PhoneStates.EVENTS | others.keys(),
            on_frame=self.intake.take,
            apart=others.keys(),
            alive=shared.pulses.of(self._named("ami")),
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def phones(self) -> Phones:
        """Its phones, as clicks see them."""
        clients = self._site.clients
        return Phones(
            pbx=self.pbx,
            serves=lambda client_id: client_id in clients.ids,
            owns=clients.owns,
            lists=clients.lists,
            knows=self._knows,
            state=self._state,
        )

    def recall(self, events: Iterable[CallEvent]) -> None:
        """What was told of calls that may still go on, of whichever PBX."""
        self.tracker.recall(event for event in events if event.pbx == self.pbx)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to work off what will come."""
        with self._bound():
            self._tasks["records"] = tasks.create_task(self.records.run(), name=self._named("records"))
            self._tasks["intake"] = tasks.create_task(self.intake.run(), name=self._named("intake"))

    def connect(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to hold a session with the PBX."""
        with self._bound():
            self._tasks["ami"] = tasks.create_task(self.ami.run(), name=self._named("ami"))

    def disconnect(self) -> asyncio.Task[None]:
        """End the session; the task is done when that is so."""
        self._tasks["ami"].cancel()
        return self._tasks["ami"]

    async def finish_events(self) -> None:
        """Work off the events that have come, and take no more."""
        self.intake.stop()
        await self._tasks["intake"]

    async def finish_records(self) -> None:
        """Store the call records that have come."""
        self.records.stop()
        await self._tasks["records"]

    def follow(self, settings: Settings) -> None:
        """Do by these settings what can be done by new ones while calls go on."""
        self._settings = settings
        self._site.clients.replace(settings.crm.client_id, build.listed_clients(settings.crm))
        self._channels = build.channels_of_named_phones(settings)

    async def originate(self, click: Click) -> Result:
        """Have the PBX ring the extension and then dial the number. Sent once, whatever happens."""
        began = time.monotonic()
        with self._bound():
            result = await self._asked_for(click)
        self._metrics.originated(self.pbx, result.code, time.monotonic() - began)
        return result

    async def _asked_for(self, click: Click) -> Result:
        dialer = self._settings.dialer
        channel = self._channels.get(click.extension, dialer.channel)
        action = actions.originate(
            channel=channel,
            extension=click.extension,
            number=click.number,
            context=dialer.context,
            caller_id=dialer.caller_id,
            channel_id=click.id,
            timeout_s=dialer.timeout_s,
            variables=actions.auto_answer(channel) if dialer.auto_answer else (),
        )
        try:
            answer = await self.ami.action({**action, "ActionID": click.id})
        except NotConnectedError:
            return Result(Code.NOT_CONNECTED, "the PBX is not connected at present; try again in a minute")
        except (ActionTimeoutError, ConnectionLostError):
            return Result(Code.UNKNOWN, "the PBX did not say whether it places the call; the phone may ring")
        return Result() if answer.success else Result(Code.REFUSED, f"the PBX refused: {answer.message}")

    def _state(self, extension: str) -> PhoneState:
        """What a click for this extension has to expect."""
        return self._phones.of(extension, self._device(extension))

    def _knows(self, extension: str) -> bool:
        named = extension in self._settings.pbx.endpoints.values()
        return named or self._phones.knows(extension, self._device(extension))

    def _device(self, extension: str) -> str | None:
        """The device that a click would ring; None where the dialplan finds it."""
        channel = actions.fill(self._channels.get(extension, self._settings.dialer.channel), {"ext": extension})
        return channel if PHONE.fullmatch(channel) else None

    def _resync(self) -> None:
        self.ami.resync()

    def _watch(self, frame: Frame, at: datetime) -> None:
        self._clicks.take(self.pbx, frame, at)
        if frame.get("Event") in PhoneStates.EVENTS:
            self._phones.handle(frame)
            log.debug("phones.state", event_name=frame["Event"], device=frame.get("Device"), state=frame.get("State"))

    def _take_for_clicks(self, frame: Frame) -> None:
        self._clicks.take(self.pbx, frame, datetime.now(UTC))

    def _bound(self) -> AbstractContextManager[None]:
        """Lines of the log say which PBX it is, where there may be several; tasks that begin in it keep that."""
        where = {"pbx": self.pbx} if self._settings.names_pbxes else {}
        return structlog.contextvars.bound_contextvars(**where)

    def _named(self, part: str) -> str:
        return f"{part} of {self.pbx}" if self._settings.names_pbxes else part

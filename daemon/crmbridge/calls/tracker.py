"""Who rings and who talks: AMI events in, call events for the CRM out.

Pure: no I/O, no clock, no logging; time comes in with each event. It may be attached in the middle of calls, so it
takes for granted nothing that it has not seen begin. What each event does to the legs stands in this file; what is told
of them in `telling`; legs, dials and bridges in `legs`; what an endpoint is in `channels`.

The rules, all of them:

- A call comes in from outside when a channel that nobody dialed, which is the root of its call, no Local and no
  extension's phone, reaches state Ring on a trunk or in an inbound context.
- An extension rings when its leg was dialed, directly or through any number of Locals, on behalf of such a call, and
  really rings (state Ringing, or early media, or its answer).
- An extension talks when its leg and the inbound leg are in one group of bridges joined by Locals. Transfers, pickups,
  parking and conferences need no rules of their own.
- Each is told once per call and extension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from crmbridge.calls.channels import LOCAL, Endpoints, parse_name
from crmbridge.calls.clients import Clients
from crmbridge.calls.debatable import Debatable
from crmbridge.calls.events import CallEvent
from crmbridge.calls.legs import Inbound, Leg, Legs
from crmbridge.calls.listing import Headers, Listing
from crmbridge.calls.phases import TABLE, Ask, Phase, Signal
from crmbridge.calls.telling import Telling

RING, RINGING, UP = "4", "5", "6"
"""AST_STATE_RING: this channel calls us. AST_STATE_RINGING: we ring it (include/asterisk/channelstate.h)."""

_OF_STATE = {RING: Signal.CALLS, RINGING: Signal.RINGS}
# Some phones send only early media (183); one that is merely being reached says PROCEEDING.
_OF_DIAL_STATE = {"RINGING": Signal.RINGS, "PROGRESS": Signal.RINGS}

_MOST_STRANGERS = 1000
"""Where guests may call in, each address is an endpoint of its own: they are not worth memory without end."""


class Tracker:
    """Follows the calls of one PBX."""

    def __init__(
        self,
        *,
        pbx: str,
        endpoints: Endpoints,
        clients: Clients,
        caller: Callable[[str], str],
        debatable: Debatable | None = None,
    ) -> None:
        """`caller` turns a caller's number as it came into the one that the CRM gets."""
        self._debatable = debatable or Debatable()
        self._endpoints = endpoints
        self._legs = Legs()
        self._telling = Telling(pbx=pbx, legs=self._legs, clients=clients, caller=caller, debatable=self._debatable)
        self._channels = Listing("Uniqueid")
        self._before: dict[str, Inbound] = {}
        self._hints = Listing("Exten", "Context")
        self._devices = Listing("Key")
        self._strangers: set[str] = set()
        self._new_strangers: list[tuple[str, str, str]] = []

    def __len__(self) -> int:
        """How many channels are followed."""
        return len(self._legs)

    @property
    def calls(self) -> int:
        """How many calls from outside are in progress."""
        return sum(1 for leg in self._legs if leg.inbound)

    def recall(self, events: Iterable[CallEvent]) -> None:
        """What was told before this tracker began: calls that go on are taken up with it.

        Their number and client are then what they were, though the channels may not tell them any more. To be called
        before the first event; what the first snapshot doesn't have is forgotten.
        """
        for event in events:
            before = self._before.setdefault(event.call, Inbound(did=""))
            before.client_id, before.number = event.client_id, event.number
            before.told.add((event.kind, event.extension))

    def strangers(self) -> list[tuple[str, str, str]]:
        """Endpoints that called in and are neither extension nor trunk, with the context and the first call's linkedid.

        Each is handed out once.
        """
        new, self._new_strangers = self._new_strangers, []
        return new

    def handle(self, event: Headers, at: datetime) -> list[CallEvent]:
        """Take one AMI event in; what the CRM must be told because of it comes back, in order.

        `at` is when the event was read, aware UTC. Events that are of no interest, incomplete or out of order are
        no error.
        """
        transition = self._TRANSITIONS.get(event.get("Event", ""))
        if transition is None:
            return []
        telling = self._telling
        telling.at, telling.told = at, []
        transition(self, event)
        return telling.told

    # Channels

    def _newchannel(self, event: Headers) -> None:
        leg = self._leg(event)
        if leg is not None:
            leg.own_caller_id_num = event.get("CallerIDNum", "")
            leg.begun = True
            self._step(leg, _OF_STATE.get(event.get("ChannelState", "")))

    def _newstate(self, event: Headers) -> None:
        leg = self._leg(event)
        if leg is not None:
            self._step(leg, _OF_STATE.get(event.get("ChannelState", "")))

    def _new_caller_id(self, event: Headers) -> None:
        leg = self._legs.get(event.get("Uniqueid", ""))
        if leg is not None:
            leg.caller_id_num = event.get("CallerIDNum", "")

    def _rename(self, event: Headers) -> None:
        leg = self._legs.get(event.get("Uniqueid", ""))
        name = parse_name(event.get("Newname", ""))
        if leg is not None and name.carrier:
            leg.name = name  # the loser of a masquerade, about to be hung up

    def _hangup_request(self, event: Headers) -> None:
        leg = self._legs.get(event.get("Uniqueid", ""))
        if leg is not None:
            self._step(leg, Signal.HANGUP_REQUEST)

    def _hangup(self, event: Headers) -> None:
        self._gone(event.get("Uniqueid", ""))

    def _local_bridge(self, event: Headers) -> None:
        one, two = self._leg(event, "LocalOne"), self._leg(event, "LocalTwo")
        if one is not None and two is not None:
            self._legs.pair(one, two)

    # Dials

    def _dial_begin(self, event: Headers) -> None:
        leg, dialing = self._leg(event, "Dest"), self._leg(event)
        if leg is None or (leg.phase, Signal.DIAL) not in TABLE:
            return
        leg.parent = dialing.uniqueid if dialing is not None else None
        if leg.extension is None:
            leg.extension = self._endpoints.extension(leg.name, caller_id_num=leg.own_caller_id_num)
        if leg.extension is None:
            self._telling.dialed_outside(leg, event.get("DialString", ""))
        origin = self._legs.origin(leg)
        if origin is not None and origin.inbound is not None:
            self._telling.settle_number(origin, origin.inbound)
        self._step(leg, Signal.DIAL)
        if event.get("DestChannelState") == RINGING:
            self._step(leg, Signal.RINGS)
        self._telling.look_again()

    def _attended_transfer(self, event: Headers) -> None:
        """Completed while the target still rings: from now on it rings for the one who is transferred."""
        transferee = self._legs.get(event.get("TransfereeUniqueid", ""))
        if transferee is None or event.get("DestType") != "App":
            return  # where the target has answered, bridges tell
        for leg in self._legs:
            if leg.parent == event.get("SecondTransfererUniqueid"):
                leg.parent = transferee.uniqueid
                if leg.phase is Phase.RINGING:
                    self._telling.rings(leg)

    def _dial_state(self, event: Headers) -> None:
        leg = self._leg(event, "Dest")
        if leg is not None:
            self._step(leg, _OF_DIAL_STATE.get(event.get("DialStatus", "")))

    def _dial_end(self, event: Headers) -> None:
        leg = self._leg(event, "Dest")
        if leg is not None:
            self._step(leg, Signal.ANSWER if event.get("DialStatus") == "ANSWER" else Signal.FAIL)

    # Bridges

    def _bridge_enter(self, event: Headers) -> None:
        leg = self._leg(event)
        if leg is not None:
            self._legs.enter(leg, event.get("BridgeUniqueid", ""))
            self._know_bridge(event)
            self._telling.talks(leg)
            self._telling.look_again()

    def _know_bridge(self, event: Headers) -> None:
        """Does it join who is in it? Not parking and waiting rooms: all in them hear music (bridge_holding.c)."""
        apart = not self._debatable.conference and event.get("BridgeCreator") == "ConfBridge"
        silent = apart or event.get("BridgeTechnology") == "holding_bridge"
        self._legs.silence(event.get("BridgeUniqueid", ""), silent=silent)

    def _bridge_leave(self, event: Headers) -> None:
        leg = self._legs.get(event.get("Uniqueid", ""))
        if leg is not None and leg.bridge == event.get("BridgeUniqueid"):
            self._legs.leave(leg)

    # A snapshot of all channels, as after a reconnect: CoreShowChannel for each, then CoreShowChannelsComplete

    def _snapshot_bridge(self, event: Headers) -> None:
        self._know_bridge(event)

    def _snapshot_channel(self, event: Headers) -> None:
        self._channels.add(event)

    def _snapshot_complete(self, event: Headers) -> None:
        listed, whole = self._channels.complete(event)
        channels = {item.get("Uniqueid", ""): item for item in listed}
        if whole:  # else a call that is in the list's missing part would be forgotten
            for leg in self._legs:
                if leg.uniqueid not in channels:
                    self._gone(leg.uniqueid)
        legs = {met.uniqueid: met for event in channels.values() if (met := self._leg(event)) is not None}
        self._pair_by_name(channels)
        for uniqueid, leg in legs.items():
            self._take_bridge(leg, channels[uniqueid])
            if leg.phase is Phase.NEW and not leg.begun:
                self._attach(leg, channels[uniqueid])
        callers = self._callers()
        for uniqueid, leg in legs.items():
            self._adopt(leg, callers)
            self._catch_up(leg, channels[uniqueid].get("ChannelState", ""))
        for leg in legs.values():
            self._telling.talks(leg)
        if whole:
            self._before.clear()

    def _take_bridge(self, leg: Leg, event: Headers) -> None:
        if event.get("BridgeId"):
            self._legs.enter(leg, event["BridgeId"])
        else:
            self._legs.leave(leg)

    def _attach(self, leg: Leg, event: Headers) -> None:
        """Take up a leg whose beginning was not seen: did it come in from outside, is it somebody's phone?

        A leg that came in may have left its inbound context since, and nothing else tells its trunk; so whatever is no
        phone, by name or by caller id, is taken for one. A phone's own caller id may be a guess by now; better a
        right popup for most than none.
        """
        leg.own_caller_id_num = leg.caller_id_num
        if leg.uniqueid in self._before:
            leg.inbound, leg.phase = self._before[leg.uniqueid], Phase.CALLING
            return
        # Dial, Originate and Queue run these in a leg that they placed (app_dial.c, main/dial.c, app_queue.c).
        if event.get("Application", "").startswith(("AppDial", "AppQueue")):
            leg.extension = self._endpoints.extension(leg.name, caller_id_num=leg.own_caller_id_num)
            self._step(leg, Signal.DIAL)
        elif event.get("ChannelState") in (RING, UP):
            may_be_outside = self._may_have_come_in(leg)
            self._step(leg, Signal.CALLS)
            phone = self._endpoints.extension(leg.name, caller_id_num=leg.own_caller_id_num)
            if may_be_outside and leg.inbound is None and phone is None:
                leg.inbound = Inbound(did="")

    def _catch_up(self, leg: Leg, state: str) -> None:
        """What a leg did meanwhile, from the state in which it is found."""
        if state == RINGING:
            self._step(leg, Signal.RINGS)
        elif state == UP:
            self._step(leg, Signal.ANSWER)

    def _pair_by_name(self, channels: Mapping[str, Headers]) -> None:
        halves: dict[str, Leg] = {}
        for event in channels.values():
            name = event.get("Channel", "")
            leg = self._legs.get(event.get("Uniqueid", ""))
            if leg is None or not leg.name.half:
                continue
            other = halves.setdefault(name[:-2], leg)
            if other is not leg:
                self._legs.pair(other, leg)

    def _callers(self) -> dict[str, Leg | None]:
        """By Linkedid, the one leg from outside; None where there are several."""
        callers: dict[str, Leg | None] = {}
        for leg in self._legs:
            if leg.inbound is not None:
                callers[leg.linkedid] = None if leg.linkedid in callers else leg
        return callers

    def _adopt(self, leg: Leg, callers: Mapping[str, Leg | None]) -> None:
        """A dialed leg whose dial was not seen was dialed for the outside caller with its Linkedid, or for its root."""
        if leg.phase is not Phase.DIALED or leg.parent is not None:
            return
        root = callers.get(leg.linkedid, self._legs.get(leg.linkedid))
        if root is not None and root is not leg:
            leg.parent = root.uniqueid

    # The PBX's own map of phones: ExtensionStatus for each hint (those of a list have its ActionID), then the end;
    # and FreePBX's devices

    def _hint(self, event: Headers) -> None:
        if "ActionID" in event:
            self._hints.add(event)
        else:
            self._endpoints.learn_hints(self._endpoints.hinted(event.get("Exten", ""), event.get("Hint", "")))

    def _hints_complete(self, event: Headers) -> None:
        listed, whole = self._hints.complete(event)
        hints: dict[str, str] = {}
        for item in listed:
            hints |= self._endpoints.hinted(item.get("Exten", ""), item.get("Hint", ""))
        if whole:
            self._endpoints.replace_hints(hints)
        else:
            self._endpoints.learn_hints(hints)

    def _device(self, event: Headers) -> None:
        self._devices.add(event)

    def _devices_complete(self, event: Headers) -> None:
        listed, whole = self._devices.complete(event)
        if whole:
            self._endpoints.replace_devices({item.get("Key", ""): item.get("Val", "") for item in listed})

    # What the events mean

    def _leg(self, event: Headers, prefix: str = "") -> Leg | None:
        """The leg that an event speaks of, taken up where it was never seen before; None where it names none."""
        uniqueid = event.get(prefix + "Uniqueid", "")
        leg = self._legs.get(uniqueid)
        if leg is not None:
            return leg
        if not uniqueid or self._legs.is_gone(uniqueid):
            return None
        name = parse_name(event.get(prefix + "Channel", ""))
        leg = Leg(
            uniqueid=uniqueid,
            linkedid=event.get(prefix + "Linkedid", ""),
            name=name,
            context=event.get(prefix + "Context", ""),
            exten=event.get(prefix + "Exten", ""),
            caller_id_num=event.get(prefix + "CallerIDNum", ""),
            extension=self._endpoints.extension(name),
        )
        self._legs.add(leg)
        return leg

    def _step(self, leg: Leg, signal: Signal | None) -> None:
        """Take a leg where this signal takes it, and ask what is to be asked there."""
        step = TABLE.get((leg.phase, signal)) if signal is not None else None
        if step is None:
            return
        leg.phase = step.phase
        if step.phase is not Phase.RINGING:
            self._telling.rings_no_more(leg.uniqueid)
        if step.ask is Ask.CAME_IN:
            self._came_in(leg)
        elif step.ask is Ask.RINGS_FOR:
            self._telling.rings(leg)

    def _came_in(self, leg: Leg) -> None:
        """A leg calls us: from outside?"""
        if not self._may_have_come_in(leg):
            if leg.extension is not None and self._endpoints.is_inbound_context(leg.context):
                self._note_stranger(leg)  # a trunk whose name looks like an extension's
            return
        if self._endpoints.is_inbound_context(leg.context):
            self._endpoints.learn_trunk(leg.name)
        if self._endpoints.is_trunk(leg.name):
            leg.inbound = Inbound(did=leg.exten)
        else:
            self._note_stranger(leg)

    def _note_stranger(self, leg: Leg) -> None:
        if leg.name.endpoint not in self._strangers and len(self._strangers) < _MOST_STRANGERS:
            self._strangers.add(leg.name.endpoint)
            self._new_strangers.append((leg.name.endpoint, leg.context, leg.linkedid))

    def _may_have_come_in(self, leg: Leg) -> bool:
        """Whether nobody's phone is at the root of a call of its own here."""
        is_root = leg.uniqueid == leg.linkedid and leg.parent is None and leg.name.technology != LOCAL
        return is_root and not leg.name.carrier and leg.extension is None

    def _gone(self, uniqueid: str) -> None:
        self._legs.remove(uniqueid)
        self._telling.rings_no_more(uniqueid)

    _TRANSITIONS: Mapping[str, Callable[[Tracker, Headers], None]] = {
        "Newchannel": _newchannel,
        "Newstate": _newstate,
        "NewCallerid": _new_caller_id,
        "Rename": _rename,
        "HangupRequest": _hangup_request,
        "Hangup": _hangup,
        "LocalBridge": _local_bridge,
        "DialBegin": _dial_begin,
        "AttendedTransfer": _attended_transfer,
        "DialState": _dial_state,
        "DialEnd": _dial_end,
        "BridgeEnter": _bridge_enter,
        "BridgeLeave": _bridge_leave,
        "ExtensionStatus": _hint,
        "ExtensionStateListComplete": _hints_complete,
        "DBGetTreeResponse": _device,
        "DBGetTreeComplete": _devices_complete,
        "BridgeListItem": _snapshot_bridge,
        "CoreShowChannel": _snapshot_channel,
        "CoreShowChannelsComplete": _snapshot_complete,
    }

    EVENTS = frozenset(_TRANSITIONS)
    """The AMI events that this class wants; all others may be left unread."""

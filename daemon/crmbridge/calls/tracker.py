"""Who rings and who talks: AMI events in, call events for the CRM out.

Pure: no I/O, no clock, no logging; time comes in with each event. It may be attached in the middle of calls, so it
takes for granted nothing that it has not seen begin. Everything that decides what the CRM is told stands in this file;
the structures it decides upon (legs, dials, bridges) are in `legs`, what an endpoint is in `channels`.

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
from crmbridge.calls.events import CallEvent, Kind
from crmbridge.calls.legs import Inbound, Leg, Legs
from crmbridge.calls.phases import TABLE, Ask, Phase, Signal

Headers = Mapping[str, str]
"""An AMI event: header names as Asterisk writes them, `Event` among them."""

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
        self._pbx = pbx
        self._endpoints = endpoints
        self._clients = clients
        self._caller = caller
        self._legs = Legs()
        self._unexplained: dict[str, Leg] = {}
        """Phones that ring for a reason not seen yet: the dial above theirs is still to come."""
        self._snapshot: dict[str, Headers] = {}
        self._before: dict[str, Inbound] = {}
        self._hints: dict[str, str] = {}
        self._strangers: set[str] = set()
        self._new_strangers: list[tuple[str, str]] = []
        self._at: datetime
        self._told: list[CallEvent]

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

    def strangers(self) -> list[tuple[str, str]]:
        """Endpoints that called in and are neither extension nor trunk, with the context; each is handed out once."""
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
        self._at, self._told = at, []
        transition(self, event)
        return self._told

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
            self._dialed_outside(leg, event)
        origin = self._legs.origin(leg)
        if origin is not None and origin.inbound is not None:
            self._settle_number(origin, origin.inbound)
        self._step(leg, Signal.DIAL)
        if event.get("DestChannelState") == RINGING:
            self._step(leg, Signal.RINGS)
        self._explain()

    def _attended_transfer(self, event: Headers) -> None:
        """Completed while the target still rings: from now on it rings for the one who is transferred."""
        transferee = self._legs.get(event.get("TransfereeUniqueid", ""))
        if transferee is None or event.get("DestType") != "App":
            return  # where the target has answered, bridges tell
        for leg in self._legs:
            if leg.parent == event.get("SecondTransfererUniqueid"):
                leg.parent = transferee.uniqueid
                if leg.phase is Phase.RINGING:
                    self._rings(leg)

    def _explain(self) -> None:
        """Look again at the phones that ring for a reason not known yet."""
        for unexplained in list(self._unexplained.values()):
            self._rings(unexplained)

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
            self._talks(leg)
            self._explain()

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
        self._snapshot[event.get("Uniqueid", "")] = event

    def _snapshot_complete(self, _event: Headers) -> None:
        channels, self._snapshot = self._snapshot, {}
        for leg in self._legs:
            if leg.uniqueid not in channels:
                self._gone(leg.uniqueid)
        legs = {met.uniqueid: met for event in channels.values() if (met := self._leg(event)) is not None}
        self._pair_by_name(channels)
        for uniqueid, leg in legs.items():
            self._take_bridge(leg, channels[uniqueid])
            if leg.phase is Phase.NEW and not leg.begun:
                self._attach(leg, channels[uniqueid])
        for uniqueid, leg in legs.items():
            self._adopt(leg)
            self._catch_up(leg, channels[uniqueid].get("ChannelState", ""))
        for leg in legs.values():
            self._talks(leg)
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

    def _adopt(self, leg: Leg) -> None:
        """A dialed leg whose dial was not seen belongs to the one outside call with its Linkedid."""
        if leg.phase is not Phase.DIALED or leg.parent is not None:
            return
        roots = [root for root in self._legs if root.inbound is not None and root.linkedid == leg.linkedid]
        if len(roots) == 1:
            leg.parent = roots[0].uniqueid

    # The PBX's own map of phones: ExtensionStatus for each hint (those of a list have its ActionID), then the end

    def _hint(self, event: Headers) -> None:
        hints = self._endpoints.hinted(event.get("Exten", ""), event.get("Hint", ""))
        if "ActionID" in event:
            self._hints |= hints
        else:
            self._endpoints.learn_hints(hints)

    def _hints_complete(self, _event: Headers) -> None:
        hints, self._hints = self._hints, {}
        self._endpoints.replace_hints(hints)

    # What the events mean

    def _leg(self, event: Headers, prefix: str = "") -> Leg | None:
        """The leg that an event speaks of, taken up where it was never seen before; None where it names none."""
        uniqueid = event.get(prefix + "Uniqueid", "")
        if not uniqueid:
            return None
        leg = self._legs.get(uniqueid)
        if leg is not None:
            return leg
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
            self._unexplained.pop(leg.uniqueid, None)
        if step.ask is Ask.CAME_IN:
            self._came_in(leg)
        elif step.ask is Ask.RINGS_FOR:
            self._rings(leg)

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
            self._new_strangers.append((leg.name.endpoint, leg.context))

    def _may_have_come_in(self, leg: Leg) -> bool:
        """Whether nobody's phone is at the root of a call of its own here."""
        is_root = leg.uniqueid == leg.linkedid and leg.parent is None and leg.name.technology != LOCAL
        return is_root and not leg.name.carrier and leg.extension is None

    def _rings(self, leg: Leg) -> None:
        """A phone rings: for an outside caller?"""
        if leg.extension is None:
            return
        origin = self._legs.origin(leg)
        if origin is None or origin.name.technology == LOCAL:
            self._rings_behind(origin, leg, leg.extension)
            return
        self._unexplained.pop(leg.uniqueid, None)
        if origin.inbound is not None:
            self._tell(Kind.RING, origin, origin.inbound, leg, leg.extension)
        elif self._debatable.consult_ring and origin.extension is not None:
            self._consults(origin, leg, leg.extension)

    def _rings_behind(self, local: Leg | None, phone: Leg, extension: str) -> None:
        """A phone rings behind a Local that nobody is known to have dialed: who hears that it rings?"""
        audible = self._legs.hearing(local) if local is not None and phone.phase is Phase.RINGING else []
        callers = [root for root in audible if root.inbound is not None]
        for root in callers:
            if root.inbound is not None:
                self._tell(Kind.RING, root, root.inbound, phone, extension)
        if callers:
            self._unexplained.pop(phone.uniqueid, None)
        else:
            self._unexplained[phone.uniqueid] = phone

    def _dialed_outside(self, leg: Leg, event: Headers) -> None:
        """A dial that leads to no phone of ours: to an agent's mobile, or to a customer who may be handed over?"""
        number = self._caller(event.get("DialString", "").partition("@")[0].rpartition("/")[2])
        leg.extension = self._debatable.mobiles.get(number)
        agent = self._legs.origin(leg)
        if self._debatable.handed_over and leg.extension is None and agent is not None and agent.extension is not None:
            # From here on as if the customer had called, and whoever dialed had been told.
            leg.inbound = Inbound(did="", number=number, told={(kind, agent.extension) for kind in Kind})

    def _consults(self, origin: Leg, phone: Leg, extension: str) -> None:
        """A phone rings for a colleague: does that colleague have a caller on hold?"""
        for leg in self._legs:
            if leg.extension == origin.extension and leg.bridge is not None:
                for root in self._legs.hearing(leg):
                    if root.inbound is not None:
                        self._tell(Kind.RING, root, root.inbound, phone, extension)

    def _talks(self, leg: Leg) -> None:
        """A leg joined others: does an extension hear an outside caller now?"""
        group = self._legs.hearing(leg)
        for root in group:
            if root.inbound is None:
                continue
            for phone in group:
                if phone.extension is not None:
                    self._tell(Kind.ANSWER, root, root.inbound, phone, phone.extension)

    def _tell(self, kind: Kind, root: Leg, inbound: Inbound, phone: Leg, extension: str) -> None:
        again = kind is Kind.RING and self._is_another_ring(inbound, phone, extension)
        if (kind, extension) in inbound.told and not again:
            return
        inbound.told.add((kind, extension))
        inbound.rings_again += again
        if inbound.client_id is None:
            inbound.client_id = self._clients.of_call(did=inbound.did, trunk=root.name.endpoint, extension=extension)
        self._told.append(
            CallEvent(
                kind=kind,
                pbx=self._pbx,
                call=f"{root.uniqueid}#{inbound.rings_again + 1}" if again else root.uniqueid,
                extension=extension,
                number=self._settle_number(root, inbound),
                client_id=inbound.client_id,
                at=self._at,
                linkedid=root.linkedid,
                uniqueid=phone.uniqueid,
            )
        )

    def _is_another_ring(self, inbound: Inbound, phone: Leg, extension: str) -> bool:
        """Whether the extension rings anew for a caller it rang for before, and not on a second device."""
        last, inbound.rang[extension] = inbound.rang.get(extension), phone.uniqueid
        return self._debatable.ring_again and last not in (None, phone.uniqueid) and self._legs.get(last or "") is None

    def _settle_number(self, root: Leg, inbound: Inbound) -> str:
        if inbound.number is None:
            inbound.number = self._caller(root.caller_id_num)
        return inbound.number

    def _gone(self, uniqueid: str) -> None:
        self._legs.remove(uniqueid)
        self._unexplained.pop(uniqueid, None)

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
        "BridgeListItem": _snapshot_bridge,
        "CoreShowChannel": _snapshot_channel,
        "CoreShowChannelsComplete": _snapshot_complete,
    }

    EVENTS = frozenset(_TRANSITIONS)
    """The AMI events that this class wants; all others may be left unread."""

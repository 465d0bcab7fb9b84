"""The tracker on calls that nobody recorded: a model PBX does anything, and knows who hears whom."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.events import CallEvent, Kind
from crmbridge.calls.tracker import Tracker

Frame = dict[str, str]

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EXTENSIONS = ["777", "778", "779"]


def a_tracker() -> Tracker:
    return Tracker(
        pbx="pbx",
        endpoints=Endpoints(extensions=r"7\d\d", inbound_contexts=["from-trunk"]),
        clients=Clients("10"),
        caller=lambda raw: raw,
    )


@dataclass(eq=False)
class Channel:
    uniqueid: str
    name: str
    linkedid: str
    context: str
    state: str
    extension: str | None = None
    inbound: bool = False
    parent: Channel | None = None
    other: Channel | None = None
    bridge: str | None = None
    dialed: bool = False
    over: bool = False
    """Its far side has hung up."""

    def headers(self, prefix: str = "") -> Frame:
        values = {
            "Channel": self.name,
            "ChannelState": self.state,
            "CallerIDNum": "033004799",
            "Context": self.context,
            "Exten": "0723456777",
            "Uniqueid": self.uniqueid,
            "Linkedid": self.linkedid,
        }
        return {prefix + key: value for key, value in values.items()}

    def path(self) -> list[Channel]:
        """From this leg to whoever began what led to it; Local halves stand for each other."""
        path = [self]
        while True:
            last = path[-1]
            above = last.parent or (last.other if last.name.endswith(";2") else None)
            if above is None:
                return path
            path.append(above)


class ModelPbx(RuleBasedStateMachine):
    """Any order of what channels can do. Whoever shares bridges, through Locals or not, hears one another."""

    @initialize()
    def start(self) -> None:
        self.tracker = a_tracker()
        self.channels: list[Channel] = []
        self.ids = count(1)
        self.told: Counter[tuple[Kind, str, str]] = Counter()
        self.heard: set[tuple[str, str]] = set()
        self.rang: set[tuple[str, str]] = set()
        self.untold: list[tuple[Channel, Channel]] = []
        """Dials of Locals that are still to be told: who dials, and the first half."""

    def send(self, name: str, *headers: Frame, **more: str) -> list[CallEvent]:
        event: Frame = {"Event": name}
        for each in headers:
            event |= each
        told = self.tracker.handle(event | more, AT)
        for one in told:
            self.told[(one.kind, one.call, one.extension)] += 1
            if one.kind is Kind.RING:
                assert (one.call, one.extension) in self.ringing(), "told to ring, but not for this caller"
            if one.kind is Kind.ANSWER:
                assert (one.call, one.extension) in self.hearing(), "told to talk, but hears no outside caller"
        return told

    def ringing(self, *, surely: bool = False) -> set[tuple[str, str]]:
        """Inbound callers and the extensions that ring for them, or have answered them.

        `surely`: without those where somebody on the way has just hung up.
        """
        phones = [c for c in self.channels if c.dialed and c.extension and c.state in ("5", "6")]
        paths = [phone.path() for phone in phones]
        live = [path for path in paths if path[-1].inbound and all(leg in self.channels for leg in path)]
        return {(p[-1].uniqueid, p[0].extension or "") for p in live if not (surely and any(leg.over for leg in p))}

    def hearing(self) -> set[tuple[str, str]]:
        """Inbound callers and the extensions that hear them."""
        pairs = set()
        for caller in (channel for channel in self.channels if channel.inbound):
            group, grew = {id(caller)} if caller.bridge and not caller.over else set(), True
            while grew:
                grew = False
                for channel in self.channels:
                    if id(channel) in group or channel.over or channel.bridge is None:
                        continue
                    bridges = {c.bridge for c in self.channels if id(c) in group}
                    halves = {c.other.bridge for c in self.channels if id(c) in group and c.other and not c.other.over}
                    if channel.bridge in bridges | halves:
                        group.add(id(channel))
                        grew = True
            pairs |= {(caller.uniqueid, c.extension) for c in self.channels if id(c) in group and c.extension}
        return pairs

    def make(self, name: str, context: str, state: str, by: Channel | None = None) -> Channel:
        uniqueid = f"1795413177.{next(self.ids)}"
        channel = Channel(uniqueid, name.format(next(self.ids)), by.linkedid if by else uniqueid, context, state)
        self.channels.append(channel)
        self.send("Newchannel", channel.headers())
        return channel

    def pick(self, data: st.DataObject, channels: list[Channel]) -> Channel | None:
        return data.draw(st.sampled_from(channels)) if channels else None

    def dial(self, by: Channel, channel: Channel) -> None:
        channel.dialed, channel.parent = True, by
        self.send("DialBegin", by.headers(), channel.headers("Dest"))

    @property
    def callers(self) -> list[Channel]:
        """Who can dial: roots and second halves of Locals, outside bridges."""
        return [c for c in self.channels if not c.over and c.bridge is None and c.state in ("4", "6") and not c.dialed]

    @rule(through_local=st.booleans(), late=st.booleans(), gets_to=st.sampled_from(["dialed", "rings", "answered"]))
    def a_call_comes_in(self, through_local: bool, late: bool, gets_to: str) -> None:
        """The usual: it dials a phone, which does one thing or another."""
        caller = self.make("PJSIP/trunk-{:08x}", "from-trunk", "4")
        caller.inbound = True
        phone = self.through_local(caller, late=late) if through_local else self.phone(caller, "777")
        if gets_to == "rings":
            self.rings(phone)
        elif gets_to == "answered":
            self.answers(phone)

    @rule(extension=st.sampled_from(EXTENSIONS))
    def a_phone_calls(self, extension: str) -> None:
        self.make(f"PJSIP/{extension}-{{:08x}}", "from-internal", "4").extension = extension

    @rule(data=st.data(), extension=st.sampled_from(EXTENSIONS))
    def dial_a_phone(self, data: st.DataObject, extension: str) -> None:
        by = self.pick(data, self.callers)
        if by is not None:
            self.phone(by, extension)

    def phone(self, by: Channel, extension: str) -> Channel:
        phone = self.make(f"PJSIP/{extension}-{{:08x}}", "from-internal", "0", by)
        phone.extension = extension
        self.dial(by, phone)
        return phone

    @rule(data=st.data())
    def dial_a_mobile(self, data: st.DataObject) -> None:
        by = self.pick(data, self.callers)
        if by is not None:
            self.dial(by, self.make("PJSIP/trunk-{:08x}", "from-trunk", "0", by))

    @rule(data=st.data(), late=st.booleans())
    def dial_a_local(self, data: st.DataObject, late: bool) -> None:
        by = self.pick(data, self.callers)
        if by is not None:
            self.through_local(by, late=late)

    def through_local(self, by: Channel, *, late: bool) -> Channel:
        """A Local, whose second half dials a phone; the outer dial may be told at any time after."""
        number = next(self.ids)
        one = self.make(f"Local/778@from-queue-{number:08x};1", "from-queue", "0", by)
        two = self.make(f"Local/778@from-queue-{number:08x};2", "from-queue", "4", by)
        one.other, two.other = two, one
        self.send("LocalBridge", one.headers("LocalOne"), two.headers("LocalTwo"))
        if late:
            self.untold.append((by, one))
        else:
            self.dial(by, one)
        return self.phone(two, "778")

    @precondition(lambda self: self.untold)
    @rule()
    def tell_the_outer_dial(self) -> None:
        by, one = self.untold.pop()
        if by in self.channels and one in self.channels:
            self.dial(by, one)
            self.must_have_rung()

    def must_have_rung(self) -> None:
        self.rang |= self.ringing(surely=True)

    @rule(data=st.data())
    def ring(self, data: st.DataObject) -> None:
        leg = self.pick(data, [c for c in self.channels if c.dialed and c.state == "0" and not c.over])
        if leg is not None:
            self.rings(leg)

    def rings(self, leg: Channel) -> None:
        leg.state = "5"
        self.send("Newstate", leg.headers())
        self.must_have_rung()

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        leg = self.pick(
            data, [c for c in self.channels if c.parent and c.dialed and c.state in ("0", "5") and not c.over]
        )
        if leg is not None:
            self.answers(leg)

    def answers(self, leg: Channel) -> None:
        assert leg.parent is not None
        leg.state = "6"
        self.send("Newstate", leg.headers())
        self.send("DialEnd", leg.parent.headers(), leg.headers("Dest"), DialStatus="ANSWER")
        self.must_have_rung()

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        leg = self.pick(data, [c for c in self.channels if c.dialed and c.state in ("0", "5")])
        if leg is not None and leg.parent is not None:
            self.send("DialEnd", leg.parent.headers(), leg.headers("Dest"), DialStatus="NOANSWER")
            self.hang_up(leg)

    @rule(data=st.data(), bridge=st.sampled_from("AB"))
    def enter(self, data: st.DataObject, bridge: str) -> None:
        channel = self.pick(data, [c for c in self.channels if c.state in ("4", "6")])
        if channel is not None:
            self.join(channel, bridge)

    @rule(data=st.data(), over=st.booleans())
    def connect(self, data: st.DataObject, over: bool) -> None:
        """What Dial does on an answer, or with a far side that has just gone (`over`)."""
        legs = [c for c in self.channels if c.dialed and c.state == "6" and c.parent in self.channels]
        leg = self.pick(data, legs)
        if leg is not None and leg.parent is not None:
            if over:
                self.hang_up_far_side(leg)
            bridge = f"of {leg.uniqueid}"
            self.join(leg, bridge)
            self.join(leg.parent, bridge)

    @rule(data=st.data())
    def answer_through_a_local(self, data: st.DataObject) -> None:
        """Its first half answers whoever dialed it, and they are connected: the phone may be, too, or not yet."""
        halves = [c for c in self.channels if c.name.endswith(";1") and c.dialed and c.parent in self.channels]
        one = self.pick(data, halves)
        if one is not None and one.parent is not None:
            one.state = "6"
            self.send("DialEnd", one.parent.headers(), one.headers("Dest"), DialStatus="ANSWER")
            self.join(one, f"of {one.uniqueid}")
            self.join(one.parent, f"of {one.uniqueid}")

    def join(self, channel: Channel, bridge: str) -> None:
        if channel.bridge is not None:
            self.leave(channel)
        channel.bridge = bridge
        self.send("BridgeEnter", channel.headers(), BridgeUniqueid=bridge, BridgeTechnology="simple_bridge")
        self.heard |= self.hearing()

    @rule(data=st.data())
    def someone_leaves(self, data: st.DataObject) -> None:
        channel = self.pick(data, [c for c in self.channels if c.bridge is not None])
        if channel is not None:
            self.leave(channel)

    def leave(self, channel: Channel) -> None:
        bridge, channel.bridge = channel.bridge or "", None
        self.send("BridgeLeave", channel.headers(), BridgeUniqueid=bridge)

    @rule(data=st.data())
    def far_side_hangs_up(self, data: st.DataObject) -> None:
        channel = self.pick(data, self.channels)
        if channel is not None:
            self.hang_up_far_side(channel)

    def hang_up_far_side(self, channel: Channel) -> None:
        channel.over = True
        self.send("HangupRequest", channel.headers())

    @rule(data=st.data())
    def someone_is_hung_up(self, data: st.DataObject) -> None:
        channel = self.pick(data, self.channels)
        if channel is not None:
            self.hang_up(channel)

    def hang_up(self, channel: Channel) -> None:
        self.channels.remove(channel)
        for other in self.channels:
            if other.other is channel:
                other.other = None
        self.send("Hangup", channel.headers())

    @precondition(lambda self: not self.untold and not any(c.over for c in self.channels))
    @rule()
    def snapshot(self) -> None:
        for channel in self.channels:
            app = "AppDial" if channel.dialed else ""
            self.send("CoreShowChannel", channel.headers(), BridgeId=channel.bridge or "", Application=app)
        self.send("CoreShowChannelsComplete")

    @invariant()
    def everything_is_told_once(self) -> None:
        if hasattr(self, "told"):
            assert all(times == 1 for times in self.told.values())
            answered = {(call, extension) for kind, call, extension in self.told if kind is Kind.ANSWER}
            assert self.heard <= answered, "an extension talks, and nobody was told"
            if not self.untold:
                rings = {(call, extension) for kind, call, extension in self.told if kind is Kind.RING}
                assert self.rang <= rings, "an extension rings, and nobody was told"

    @invariant()
    def nothing_is_left_of_channels_that_are_gone(self) -> None:
        if hasattr(self, "tracker"):
            assert len(self.tracker) == len(self.channels)

    def teardown(self) -> None:
        for channel in list(getattr(self, "channels", [])):
            self.hang_up(channel)
        assert len(self.tracker) == 0
        assert self.tracker.calls == 0
        assert not self.tracker._telling._unexplained


ModelPbx.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestModelPbx = ModelPbx.TestCase

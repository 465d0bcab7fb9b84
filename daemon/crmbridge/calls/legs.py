"""The legs of the calls in progress, who dialed whom, and who hears whom. Pure.

A leg is one channel, keyed by its Uniqueid (which stays with the channel's name through every masquerade). Legs form
two structures: the tree of dials (who made this phone ring?) and the groups of bridges joined by Local channels (who
hears whom?). What that means for the CRM is the tracker's business, not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from crmbridge.calls.channels import ChannelName
from crmbridge.calls.events import Kind
from crmbridge.calls.phases import Phase

_DEEPEST = 32
"""Dials above one another before we call it a loop; nested follow-me on FreePBX reaches about 8."""
_GONE_REMEMBERED = 1000
"""Of the legs that ended last: what comes late is told within milliseconds."""


@dataclass(slots=True)
class Inbound:
    """What was decided when a call came in from outside, and what has been told about it."""

    did: str
    client_id: str | None = None
    """Settled with the first extension that is told."""
    number: str | None = None
    """As the CRM gets it; settled with the first dial: later values are an outbound route's own caller id."""
    told: set[tuple[Kind, str]] = field(default_factory=set)
    """Kinds and extensions."""
    rang: dict[str, str] = field(default_factory=dict)
    """Extension to the leg that rang for it last."""
    rings_again: int = 0
    """How often rings were told that had been told before."""


@dataclass(slots=True, eq=False)
class Leg:
    """One channel."""

    uniqueid: str
    linkedid: str
    name: ChannelName
    context: str
    exten: str
    caller_id_num: str
    own_caller_id_num: str = ""
    """What it had when it was made: Dial and Queue soon fill a missing one with a guess (apps/app_dial.c)."""
    extension: str | None = None
    inbound: Inbound | None = None
    """Set on the legs over which outside callers came in."""
    begun: bool = False
    """Its Newchannel was seen; what was known before that is all there is to know of a leg that was not."""
    phase: Phase = Phase.NEW
    parent: str | None = None
    """Uniqueid of the leg that dialed it; None where nobody did, or an Originate, or it was not seen."""
    other_half: str | None = None
    bridge: str | None = None


class Legs:
    """All legs in progress, with their bridges."""

    def __init__(self) -> None:
        self._legs: dict[str, Leg] = {}
        self._members: dict[str, dict[str, None]] = {}
        self._silent: set[str] = set()
        self._gone: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._legs)

    def __iter__(self) -> Iterator[Leg]:
        return iter(list(self._legs.values()))

    def get(self, uniqueid: str) -> Leg | None:
        """The leg, or None where its channel was never seen or is gone."""
        return self._legs.get(uniqueid)

    def is_gone(self, uniqueid: str) -> bool:
        """Whether this leg ended not long ago: what is still told of it must not make it live for ever."""
        return uniqueid in self._gone

    def add(self, leg: Leg) -> None:
        """Take up a leg."""
        self._legs[leg.uniqueid] = leg

    def remove(self, uniqueid: str) -> Leg | None:
        """Forget a leg, wherever it is."""
        leg = self._legs.pop(uniqueid, None)
        if leg is None:
            return None
        self._gone[uniqueid] = None
        if len(self._gone) > _GONE_REMEMBERED:
            del self._gone[next(iter(self._gone))]
        self.leave(leg)
        other = self._legs.get(leg.other_half or "")
        if other is not None:
            other.other_half = None
        return leg

    @staticmethod
    def pair(one: Leg, two: Leg) -> None:
        """Two halves of one Local channel."""
        one.other_half, two.other_half = two.uniqueid, one.uniqueid

    def enter(self, leg: Leg, bridge: str) -> None:
        """A leg joins a bridge."""
        self.leave(leg)
        leg.bridge = bridge
        self._members.setdefault(bridge, {})[leg.uniqueid] = None

    def silence(self, bridge: str, *, silent: bool) -> None:
        """In this bridge nobody hears anybody, or they do after all."""
        if silent:
            self._silent.add(bridge)
        else:
            self._silent.discard(bridge)

    def leave(self, leg: Leg) -> None:
        """A leg leaves whatever bridge it is in."""
        if leg.bridge is None:
            return
        members = self._members.get(leg.bridge, {})
        members.pop(leg.uniqueid, None)
        if not members:
            self._members.pop(leg.bridge, None)
            self._silent.discard(leg.bridge)
        leg.bridge = None

    def origin(self, leg: Leg) -> Leg | None:
        """The leg at the root of the dials that led to this one, as far as they are known.

        A Local channel's `;2` dials on behalf of whoever dialed its `;1`. A root that is a Local means that the dial
        above it has not been seen, or that there is none: with Local channels, Asterisk may tell of the inner dial
        first, and an attended transfer through AMI begins with a Local. None where a leg in between is gone: then so
        is the reason to ring.
        """
        for _ in range(_DEEPEST):
            if leg.inbound is not None:
                return leg
            if leg.parent is not None:
                above = self._legs.get(leg.parent)
            elif leg.name.half == "2":
                above = self._legs.get(leg.other_half or "")
            else:
                return leg
            if above is None:
                return None
            leg = above
        return None

    def hearing(self, leg: Leg) -> list[Leg]:
        """Every leg that hears this one, itself among them, in no order that matters; empty outside a bridge."""
        found: dict[str, Leg] = {}
        seen: set[str] = set()
        bridges = [leg.bridge]
        while bridges:
            bridge = bridges.pop()
            if bridge is None or bridge in seen or bridge in self._silent:
                continue
            seen.add(bridge)
            for uniqueid in self._members.get(bridge, ()):
                member = self._legs[uniqueid]
                if member.phase is Phase.LEAVING or member.name.carrier:
                    continue
                found[uniqueid] = member
                other = self._legs.get(member.other_half or "")
                if other is not None and other.phase is not Phase.LEAVING:
                    bridges.append(other.bridge)
        return list(found.values())

"""What the PBX's call records (CDR) say about a call: who talked with which number, when, for how long. Pure.

Asterisk writes one record per pair of channels, so a ring group of three is three records, and a queue call with two
agents is four. The CRM wants one line per extension that talked with the outside number, or one for a missed call.
Where records come from, and where lines are kept, is not known here.

How a call is read, from all records with one linkedid (A is `channel`, B is `dstchannel`):

- A trunk's channel that was dialed (it is B of a record whose A is an extension or an Originate's Local) is an
  *outbound leg*; its number is what was dialed. Any other trunk channel that is an A is an *inbound leg*; its number
  is the record's source.
- An extension talked with a leg where a record pairs the two, directly or through Local channels whose origin is the
  leg, was answered by a human (disposition ANSWERED and B is a phone, or A is) and has talk time. The disposition
  alone does not tell: a phone whose call was picked up by a colleague is ANSWERED with no second of talk, and voicemail
  is ANSWERED without a B.
- Nobody talked: one missed call, with the extension that rang first.
- A trunk dialed on behalf of an inbound leg (follow-me to a mobile) is nobody's conversation.

What records cannot tell: where the caller's leg was answered before the phone was (IVR, queues that dial devices
directly), talk time includes the wait, since Asterisk counts it from A's answer (main/cdr.c).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.channels import LOCAL, ChannelName, Endpoints, parse_name

_DEEPEST = 32
"""Locals behind one another before we call it a loop."""


class Side(StrEnum):
    """What stands at one end of a record."""

    EXTENSION = "extension"
    TRUNK = "trunk"
    LOCAL = "local"
    UNKNOWN = "unknown"


class Party(NamedTuple):
    """Whose channel it is."""

    side: Side
    extension: str = ""


class CallRow(NamedTuple):
    """One line of the call list."""

    pbx: str
    linkedid: str
    client_id: str
    """The CRM's client whose call it is."""
    extension: str
    """Empty for a missed call that reached nobody's phone."""
    number: str
    """As the CRM searches it."""
    number_key: str
    """The same for every spelling of the number."""
    started_at: datetime
    """Aware UTC: when the call began; for whom it was transferred to, when they were connected."""
    talk_s: int
    """0: nobody talked."""
    filename: str
    """As the PBX names the recording; empty where there is none."""
    incoming: bool


class Position(NamedTuple):
    """A place in the call list, which stays where it is when calls come in."""

    epoch_s: int
    id: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines of the call list, newest first."""

    rows: list[CallRow]
    after: Position | None
    """Where the next page begins, None on the last one."""


class ClientOf(Protocol):
    """Finds the ClientId of a call."""

    def __call__(self, *, did: str, trunk: str, extension: str) -> str: ...


class _Row(NamedTuple):
    cdr: Cdr
    a: Party
    b: Party

    @property
    def talked(self) -> bool:
        return self.cdr.disposition == "ANSWERED" and self.cdr.billsec_s > 0

    def touches(self, channels: Collection[str]) -> bool:
        return self.cdr.channel in channels or self.cdr.dstchannel in channels


class History:
    """Reads calls from their records, by the rules of one PBX."""

    def __init__(
        self,
        *,
        party: Callable[[str], Party],
        is_extension: Callable[[str], bool],
        number: Callable[[str], str],
        key: Callable[[str], str],
        client: ClientOf,
    ) -> None:
        """`party`: whose channel has this name; `is_extension`: whether a dialed number is one of the PBX's own.

        `number`: the form of a number that the CRM gets; `key`: the same for all its spellings; `client`: whose call.
        """
        self._party = party
        self._is_extension = is_extension
        self._number = number
        self._key = key
        self._client = client

    def rows(self, cdrs: Iterable[Cdr]) -> list[CallRow]:
        """The call list's lines for one call, from all of its records that there are; in no order."""
        # Whatever order they come in, the same lines: so to the last field.
        ordered = sorted(cdrs, key=lambda one: (one.start_at, one.sequence, *map(str, one)))
        return _Call(self, [self._row(one) for one in ordered]).lines()

    def _row(self, one: Cdr) -> _Row:
        a, b = self._party(one.channel), self._party(one.dstchannel)
        if a.side is Side.UNKNOWN and self._is_extension(one.src):
            a = Party(Side.EXTENSION, one.src)  # an endpoint not named after its extension
        elif a.side is Side.UNKNOWN and one.did:
            a = Party(Side.TRUNK)
        if b.side is Side.UNKNOWN and one.dstchannel and self._is_extension(one.dst):
            b = Party(Side.EXTENSION, one.dst)
        elif b.side is Side.UNKNOWN and one.dstchannel and (a.side is Side.EXTENSION or _is_originated(one, a)):
            b = Party(Side.TRUNK)  # what dials a number from a phone; trunks are learned from incoming calls only
        return _Row(one, a, b)

    def line(
        self,
        first: Cdr,
        extension: str,
        raw_number: str,
        talk: list[_Row],
        *,
        incoming: bool,
        spare: Iterable[str] = (),
    ) -> CallRow:
        """One line; `first` gives its time. `spare`: recordings of the call that belong to no one extension's talk."""
        files = [row.cdr.recordingfile for row in talk] + list(spare) if talk else []
        return CallRow(
            pbx=first.pbx,
            linkedid=first.linkedid,
            client_id=self._client(did=first.did, trunk=parse_name(first.channel).endpoint, extension=extension),
            extension=extension,
            number=self._number(raw_number),
            number_key=self._key(raw_number),
            started_at=first.start_at,
            talk_s=sum(row.cdr.billsec_s for row in talk),
            filename=next((file for file in files if file), ""),
            incoming=incoming,
        )

    def is_outside(self, dialed: str) -> bool:
        """Whether this was dialed to reach somebody outside."""
        return any(character.isdigit() for character in dialed) and not self._is_extension(dialed)


def _is_originated(one: Cdr, a: Party) -> bool:
    """Whether A is the Local that an Originate made: the root of its call."""
    return a.side is Side.LOCAL and one.uniqueid == one.linkedid


class _Call:
    """All records of one call."""

    def __init__(self, history: History, rows: list[_Row]) -> None:
        self._history = history
        self._rows = rows
        self._outbound: dict[str, _Row] = {}
        """Name of a dialed trunk channel → the record of its dial."""
        for row in rows:
            # A trunk dialed by a trunk is forwarding, or another caller whom an agent has joined with this one.
            if row.b.side is Side.TRUNK and row.a.side is not Side.TRUNK and history.is_outside(row.cdr.dst):
                self._outbound.setdefault(row.cdr.dstchannel, row)
        self._inbound: dict[str, _Row] = {}
        """Name of a trunk channel that called in → its first record."""
        # Records come in as channels hang up. Until the one of the call's first channel is there, a trunk's channel
        # may look like a caller's and be the far end of a click.
        if any(row.cdr.uniqueid == row.cdr.linkedid for row in rows):
            for row in rows:
                if self._called_in(row):
                    self._inbound.setdefault(row.cdr.channel, row)

    def _called_in(self, row: _Row) -> bool:
        # With `unanswered = yes`, a busy outbound leg has a record of its own, from its number to its number.
        own_record = row.cdr.src == row.cdr.dst and not row.cdr.dstchannel
        return row.a.side is Side.TRUNK and row.cdr.channel not in self._outbound and not own_record

    def lines(self) -> list[CallRow]:
        lines = [line for leg in self._inbound for line in self._incoming(leg)]
        return lines + self._outgoing()

    # Incoming

    def _incoming(self, leg: str) -> list[CallRow]:
        first = self._inbound[leg].cdr
        talks: dict[str, list[_Row]] = {}
        for row in self._rows:
            extension = self._extension_with(leg, row)
            if extension and row.talked and self._outer_answered(row.cdr.channel):
                talks.setdefault(extension, []).append(row)
        if not talks:
            return [self._history.line(first, self._rang(leg), first.src, [], incoming=True)]
        return self._conversations(first, first.src, talks, [leg], incoming=True)

    def _conversations(
        self, first: Cdr, number: str, talks: dict[str, list[_Row]], legs: list[str], *, incoming: bool
    ) -> list[CallRow]:
        # Records of a call's way to the phones (queue, Local channels) may be the ones that name its recording.
        on_the_way = [row for row in self._rows if row.b.side is not Side.EXTENSION and row.touches(legs)]
        spare = [row.cdr.recordingfile for row in on_the_way]
        lines: list[CallRow] = []
        for extension, talk in talks.items():
            begun = talk[0].cdr if lines else first
            lines.append(self._history.line(begun, extension, number, talk, incoming=incoming, spare=spare))
        return lines

    def _extension_with(self, leg: str, row: _Row) -> str:
        """The extension that this record pairs with the leg, or nothing."""
        if row.b.side is Side.EXTENSION and self._origin(row) == leg:
            return row.b.extension
        if row.a.side is Side.EXTENSION and row.cdr.dstchannel == leg:
            return row.a.extension
        return ""

    def _rang(self, leg: str) -> str:
        """The extension that rang first; else, where no phone has a record, the one that was dialed."""
        extensions = [self._extension_with(leg, row) for row in self._rows]
        dialed = [row.cdr.dst for row in self._rows if row.cdr.channel == leg and not self._outside(row)]
        return next((one for one in extensions + dialed if one), "")

    def _outside(self, row: _Row) -> bool:
        return not row.cdr.dst.isdigit() or self._history.is_outside(row.cdr.dst)

    # Local channels

    def _origin(self, row: _Row) -> str | None:
        """The channel on whose behalf A of this record dials: A itself, or who stands behind a chain of Locals.

        None for an Originate, which nobody is behind.
        """
        for _ in range(_DEEPEST):
            if row.a.side is not Side.LOCAL:
                return row.cdr.channel
            outer = self._outer(row.cdr.channel)
            if not outer:
                return self._only_caller(row.cdr.channel)
            row = outer[0]
        return None

    def _outer(self, local: str) -> list[_Row]:
        """The records that dialed this Local channel, a caller's before others."""
        if not local.endswith(";2"):
            return []
        half = local[:-1] + "1"
        rows = [row for row in self._rows if row.cdr.dstchannel == half]
        return sorted(rows, key=lambda row: [Side.TRUNK, Side.LOCAL].count(row.a.side), reverse=True)

    def _only_caller(self, local: str) -> str | None:
        """Who is behind a Local whose dial left no record: the caller, where there is one and it's no Originate."""
        originated = any(row.cdr.channel == local[:-1] + "1" for row in self._rows) or local.endswith(";1")
        return next(iter(self._inbound)) if len(self._inbound) == 1 and not originated else None

    def _outer_answered(self, channel: str) -> bool:
        """Two agents of a queue may both pick up: the Local of one is answered, the other's is not."""
        outer = self._outer(channel)
        return not outer or any(row.cdr.disposition == "ANSWERED" for row in outer)

    # Outgoing

    def _outgoing(self) -> list[CallRow]:
        lines: list[CallRow] = []
        numbers: dict[str, list[str]] = {}
        for leg, dial in self._outbound.items():
            if self._agent(dial):
                # A second trunk tried after a busy one is the same call.
                numbers.setdefault(dial.cdr.dst, []).append(leg)
        for number, legs in numbers.items():
            dial = self._outbound[legs[0]]
            talks = self._talks_out(legs)
            if talks:
                lines += self._conversations(dial.cdr, number, talks, legs, incoming=False)
            else:
                lines.append(self._history.line(dial.cdr, self._agent(dial), number, [], incoming=False))
        return lines

    def _agent(self, dial: _Row) -> str:
        """The extension for whom a trunk was dialed; nothing where it was for a caller (forwarding) or unknown."""
        if dial.a.side is Side.EXTENSION:
            return dial.a.extension
        if dial.a.side is not Side.LOCAL:
            return ""
        origin = self._origin(dial)
        if origin is None:
            return self._originated_for(dial.cdr.channel)
        return next((row.a.extension for row in self._rows if row.cdr.channel == origin), "")

    def _originated_for(self, local: str) -> str:
        """The extension behind an Originate's Local: its phone was dialed by the other half."""
        stem = local.rpartition(";")[0]
        phones = [row for row in self._rows if row.cdr.channel.rpartition(";")[0] == stem]
        return next((row.b.extension for row in phones if row.b.side is Side.EXTENSION), "")

    def _talks_out(self, legs: list[str]) -> dict[str, list[_Row]]:
        direct: dict[str, list[_Row]] = {}
        through_local: dict[str, list[_Row]] = {}
        for row in self._rows:
            if not (row.talked and row.touches(legs)):
                continue
            if row.a.side is Side.LOCAL and self._agent(row):
                through_local.setdefault(self._agent(row), []).append(row)
            elif Side.EXTENSION in (row.a.side, row.b.side):
                direct.setdefault(row.a.extension or row.b.extension, []).append(row)
        # While Locals are in between, the time runs from the agent's answer; once they are optimised away, it's talk.
        return direct or through_local


def parties(endpoints: Endpoints) -> Callable[[str], Party]:
    """Whose channel a name names, by what is configured and what was learned from calls."""

    def party(channel: str) -> Party:
        name = parse_name(channel)
        if name.technology == LOCAL:
            return Party(Side.LOCAL)
        extension = endpoints.extension(name)
        if extension is not None:
            return Party(Side.EXTENSION, extension)
        return Party(Side.TRUNK if endpoints.is_trunk(name) else Side.UNKNOWN)

    return party


def is_extension(endpoints: Endpoints) -> Callable[[str], bool]:
    """Whether a dialed number is one of the PBX's own extensions."""
    return lambda dialed: bool(dialed) and endpoints.extension(ChannelName("", dialed)) is not None

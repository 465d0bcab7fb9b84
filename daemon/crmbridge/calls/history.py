"""What the PBX's call records (CDR) say about a call: who talked with which number, when, for how long. Pure.

Asterisk writes one record per pair of channels, so a ring group of three is three records, and a queue call with two
agents is four. The CRM wants one line per extension that talked with the outside number, or one for a missed call.
Who talked with whom is found by `conversations`. Where records come from, and where lines are kept, is not known here.

How a call is read, from all records with one linkedid (A is `channel`, B is `dstchannel`; docs/call-list.md has a table
of cases):

- A trunk's channel that was dialed (it is B of a record whose A is an extension or an Originate's Local) is an
  *outbound leg*; its number is what was dialed. Any other trunk channel that is an A, and has a destination, is an
  *inbound leg*; its number is the record's source.
- An extension talked with a leg where a record pairs the two, directly or through Local channels whose origin is the
  leg, was answered by a human (disposition ANSWERED and B is a phone, or A is) and has talk time. The disposition
  alone does not tell: a phone that was asked whether it takes the call, and hung up, is ANSWERED with no second of
  talk, and voicemail is ANSWERED without a B.
- Nobody talked: one missed call, with the extension that answered for less than a second, else the one that rang first.
- A trunk dialed on behalf of an inbound leg (follow-me to a mobile) is nobody's conversation.
- All lines of a leg are one client's: the one whose number was called, else whose trunk it is, else whose extension
  rang first.

What records cannot tell: where the caller's leg was answered before the phone was (IVR, queues that dial devices
directly), time runs from A's answer (main/cdr.c), so talk includes the wait, but for what other phones' records show of
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.channels import LOCAL, Endpoints, parse_name
from crmbridge.calls.conversations import Conversations, Leg, Line, Party, Row, Side, is_outside

_LOCAL = Party(Side.LOCAL)
_MOST_ENDPOINTS = 10_000
"""Kept in memory; where chan_sip lets guests in, each address is an endpoint of its own."""


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
        records = list(cdrs)
        if len(records) == 1:
            row = self._row(records[0])
            legs = self._of_one(row)
            if legs is None:
                legs = Conversations([row], is_extension=self._is_extension).legs()
        else:
            # Whatever order they come in, and however often, the same lines: so to the last field.
            records.sort(key=_order)
            rows = [
                self._row(one) for one, before in zip(records, [None, *records], strict=False) if not _same(one, before)
            ]
            legs = Conversations(rows, is_extension=self._is_extension).legs()
        return self._listed(legs)

    def _row(self, one: Cdr) -> Row:
        a, b = self._party(one.channel), self._party(one.dstchannel)
        if a.side is Side.UNKNOWN:
            if self._is_extension(one.src):
                a = a._replace(side=Side.EXTENSION, extension=one.src)  # an endpoint not named after its extension
            elif one.did:
                a = a._replace(side=Side.TRUNK)
        if b.side is Side.UNKNOWN and one.dstchannel:
            if self._is_extension(one.dst):
                b = b._replace(side=Side.EXTENSION, extension=one.dst)
            elif a.side is Side.EXTENSION or _is_originated(one, a):
                b = b._replace(side=Side.TRUNK)  # what dials a number from a phone; callers alone make trunks known
        return Row(one, a, b)

    def _of_one(self, row: Row) -> list[Leg] | None:
        """What a call of a single record is, if it is one of the commonest: the same as `Conversations` would find."""
        one, a, b = row
        talk_s, files = (one.billsec_s, (one.recordingfile,)) if row.talked else (0, ())
        called = one.did or one.dst
        if a.side is Side.TRUNK and b.side is Side.EXTENSION and one.uniqueid == one.linkedid and called:
            line = Line(one, b.extension, one.src, talk_s, files, incoming=True)
            return [Leg(called, a.endpoint, b.extension, [line])]
        if a.side is Side.EXTENSION and b.side is Side.EXTENSION:
            return []
        if a.side is Side.EXTENSION and b.side is Side.TRUNK and is_outside(one.dst, self._is_extension):
            line = Line(one, a.extension, one.dst, talk_s, files, incoming=False)
            return [Leg("", b.endpoint, a.extension, [line])]
        return None

    def _listed(self, legs: list[Leg]) -> list[CallRow]:
        lines: list[CallRow] = []
        client_id = ""
        for leg in legs:
            if leg.did or not client_id:  # who is called in the course of a caller's call is called for that client
                client_id = self._client(did=leg.did, trunk=leg.trunk, extension=leg.rang)
            for first, extension, number, talk_s, files, incoming in leg.lines:
                lines.append(
                    CallRow(
                        first.pbx,
                        first.linkedid,
                        client_id,
                        extension,
                        self._number(number),
                        self._key(number),
                        first.start_at,
                        talk_s,
                        next(filter(None, files), ""),
                        incoming,
                    )
                )
        return lines


def _order(one: Cdr) -> tuple[datetime, int, Cdr]:
    return (one.start_at, one.sequence, one)


def _same(one: Cdr, other: Cdr | None) -> bool:
    return other is not None and one.key == other.key


def _is_originated(one: Cdr, a: Party) -> bool:
    """Whether A is the Local that an Originate made: the root of its call."""
    return a.side is Side.LOCAL and one.uniqueid == one.linkedid


def parties(endpoints: Endpoints) -> Callable[[str], Party]:
    """Whose channel a name names, by what is configured and what was learned from calls."""
    known: dict[str, Party] = {}
    changes = endpoints.changes

    def party(channel: str) -> Party:
        nonlocal changes
        if channel.startswith("Local/"):
            return _LOCAL
        # A channel's name is its own, but all of an endpoint's begin alike, up to the last `-`.
        stem = channel.rpartition("-")[0]
        if not stem or stem[-1] == "/" or channel[-1] == ">":  # no number at its end, or a zombie
            return _party(endpoints, channel)
        if changes != endpoints.changes or len(known) >= _MOST_ENDPOINTS:
            known.clear()
            changes = endpoints.changes
        found = known.get(stem)
        if found is None:
            found = known[stem] = _party(endpoints, channel)
        return found

    return party


def _party(endpoints: Endpoints, channel: str) -> Party:
    name = parse_name(channel)
    if name.technology == LOCAL:
        return _LOCAL
    extension = endpoints.extension(name)
    if extension is not None:
        return Party(Side.EXTENSION, extension, name.endpoint)
    return Party(Side.TRUNK if endpoints.is_trunk(name) else Side.UNKNOWN, "", name.endpoint)


def is_extension(endpoints: Endpoints) -> Callable[[str], bool]:
    """Whether a dialed number is one of the PBX's own extensions."""
    return endpoints.is_extension

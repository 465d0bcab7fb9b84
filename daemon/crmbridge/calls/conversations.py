"""Who talked with whom, by the records of one call. Pure.

The rules of `history`, which says what they are, on records whose two ends are known. What a number or an extension
looks like, and what a line of the call list holds, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from crmbridge.calls.cdr import Cdr

_DIGIT = re.compile(r"[0-9]")
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
    endpoint: str = ""
    """`PJSIP/trunk-bezeq`: how the settings name it."""


class Row(NamedTuple):
    """A record, and who stands at its ends."""

    cdr: Cdr
    a: Party
    b: Party

    @property
    def answered(self) -> bool:
        return self.cdr.disposition == "ANSWERED"

    @property
    def talked(self) -> bool:
        return self.cdr.disposition == "ANSWERED" and self.cdr.billsec_s > 0

    def touches(self, channels: Collection[str]) -> bool:
        return self.cdr.channel in channels or self.cdr.dstchannel in channels


class Line(NamedTuple):
    """An extension and the number that it talked with, or a call that nobody had."""

    first: Cdr
    """The record that it begins with."""
    extension: str
    number: str
    """As the record has it."""
    talk_s: int
    files: Sequence[str]
    """Names of recordings, the likeliest first; some are empty."""
    incoming: bool


class Leg(NamedTuple):
    """A trunk's channel, and what the call list says of it."""

    did: str
    """What was called; empty for a channel that we dialed."""
    trunk: str
    rang: str
    """The extension that rang first, or that dialed."""
    lines: list[Line]


class Conversations:
    """All records of one call."""

    def __init__(self, rows: list[Row], *, is_extension: Callable[[str], bool]) -> None:
        """`rows` in the order in which they began; `is_extension`: whether a dialed number is one of the PBX's own."""
        self._rows = rows
        self._is_extension = is_extension
        self._by_channel: dict[str, list[Row]] = {}
        self._by_dstchannel: dict[str, list[Row]] = {}
        for row in rows:
            self._by_channel.setdefault(row.cdr.channel, []).append(row)
            self._by_dstchannel.setdefault(row.cdr.dstchannel, []).append(row)
        self._alone = all(row.cdr.uniqueid == row.cdr.linkedid for row in rows)
        self._outbound = self._dialed()
        self._inbound = self._called_in()

    def legs(self) -> list[Leg]:
        """What the call list says, by the trunk's channel: first those who called in."""
        return [self._incoming(leg) for leg in self._inbound] + self._outgoing()

    def _dialed(self) -> dict[str, Row]:
        """Name of a dialed trunk channel → the record of its dial."""
        found: dict[str, Row] = {}
        for row in self._rows:
            # A trunk dialed by a trunk is forwarding, or another caller whom an agent has joined with this one.
            if row.b.side is Side.TRUNK and row.a.side is not Side.TRUNK and self._is_outside(row.cdr.dst):
                found.setdefault(row.cdr.dstchannel, row)
        return found

    def _called_in(self) -> dict[str, Row]:
        """Name of a trunk channel that called in → its first record."""
        found: dict[str, Row] = {}
        # Records come in as channels hang up. Until the one of the call's first channel is there, a trunk's channel
        # may look like a caller's and be the far end of a click.
        if any(row.cdr.uniqueid == row.cdr.linkedid for row in self._rows):
            for row in self._rows:
                if row.a.side is Side.TRUNK and row.cdr.channel not in self._outbound and not is_own_record(row.cdr):
                    found.setdefault(row.cdr.channel, row)
        return {leg: first for leg, first in found.items() if self._called(leg)}

    def _called(self, leg: str) -> str:
        """The number that a caller called, else the latest place in the dialplan.

        Empty for a leg that was dialed (by AppDial, as its record would say), in a call that was another one then.
        """
        rows = self._by_channel[leg]
        for row in rows:
            if row.cdr.did:
                return row.cdr.did
        # A transfer puts its own target into the record of what came before it.
        dialed = [row.cdr.dst for row in rows]
        return next(filter(None, [*filter(self._is_outside, dialed), *dialed]), "")

    def _is_outside(self, dialed: str) -> bool:
        return is_outside(dialed, self._is_extension)

    # Incoming

    def _incoming(self, leg: str) -> Leg:
        first, talks, pairs = self._inbound[leg], dict[str, list[Row]](), list[tuple[str, Row]]()
        for row in self._rows:
            if extension := self._extension_with(leg, row):
                pairs.append((extension, row))
                if row.talked and self._outer_answered(row.cdr.channel):
                    talks.setdefault(extension, []).append(row)
        rang = pairs[0][0] if pairs else self._meant(leg)
        if talks:
            lines = self._lines(first.cdr, first.cdr.src, talks, [leg], incoming=True)
        else:
            # For less than a second, or to a question that only callees hear: who has answered, if anybody.
            answered = [extension for extension, row in pairs if row.answered and self._outer_answered(row.cdr.channel)]
            extension = answered[-1] if answered else rang
            lines = [Line(first.cdr, extension, first.cdr.src, 0, (), incoming=True)]
        return Leg(self._called(leg), first.a.endpoint, rang, lines)

    def _lines(
        self, first: Cdr, number: str, talks: dict[str, list[Row]], legs: list[str], *, incoming: bool
    ) -> list[Line]:
        # Records of a call's way to the phones (queue, Local channels) may be the ones that name its recording.
        on_the_way = [row for row in self._rows if row.b.side is not Side.EXTENSION and row.touches(legs)]
        spare = [row.cdr.recordingfile for row in on_the_way]
        lines: list[Line] = []
        for extension, talk in talks.items():
            files = [row.cdr.recordingfile for row in talk] + spare
            seconds = sum(map(self._seconds, talk))
            begun = talk[0].cdr if lines else first
            lines.append(Line(begun, extension, number, seconds, files, incoming))
        return lines

    def _seconds(self, row: Row) -> int:
        """For how long A and B talked, at most.

        Time runs from A's answer, which an IVR or a queue gives before any phone rings. Phones that were called with
        the one that answered stopped ringing when it did, at the latest: what comes before that is no talk.
        """
        one, others = row.cdr, self._by_channel[row.cdr.channel]
        if len(others) == 1 or one.billsec_s < one.duration_s - 1:
            return one.billsec_s  # nothing to compare with, or A was answered when B was
        ended_at, seconds = _ended_at(one), one.billsec_s
        for other in others:
            if other.cdr.dstchannel in ("", one.dstchannel) or not self._rang_in_vain(other):
                continue
            stopped_at = _ended_at(other.cdr)
            if one.start_at < stopped_at <= ended_at:
                # Each of these times is cut to a whole second, but in the same way where both began together.
                slack = 0 if other.cdr.start_at == one.start_at else 1
                seconds = min(seconds, (ended_at - stopped_at).seconds + slack)
        return max(seconds, 1)

    def _rang_in_vain(self, row: Row) -> bool:
        """Nobody answered; a Local is answered with nobody behind it where a transfer was hung up while it rang."""
        if row.answered and row.b.side is Side.LOCAL and not self._alone:
            return not any(one.answered for one in self._by_channel.get(f"{row.cdr.dstchannel[:-1]}2", ()))
        return not row.answered

    def _extension_with(self, leg: str, row: Row) -> str:
        """The extension that this record pairs with the leg, or nothing."""
        if row.b.side is Side.EXTENSION and (row.cdr.channel == leg or self._origin(row) == leg):
            return row.b.extension
        if row.a.side is Side.EXTENSION and row.cdr.dstchannel == leg:
            return row.a.extension
        if row.b.side is Side.LOCAL and row.cdr.channel == leg:
            return self._named_by(row.cdr.dstchannel)
        return ""

    def _named_by(self, local: str) -> str:
        """The extension in a Local's name (`Local/102@from-queue-…;1`), where records stand alone: no linkedid."""
        if not self._alone:
            return ""
        named = local.partition("/")[2].partition("@")[0]
        return named if self._is_extension(named) else ""

    def _meant(self, leg: str) -> str:
        """The extension that was dialed, where no phone has a record."""
        dialed = (row.cdr.dst for row in self._by_channel[leg])
        return next((one for one in dialed if one.isdigit() and self._is_extension(one)), "")

    # Local channels

    def _origin(self, row: Row) -> str | None:
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

    def _outer(self, local: str) -> list[Row]:
        """The records that dialed this Local channel, a caller's before others."""
        if not local.endswith(";2"):
            return []
        rows = self._by_dstchannel.get(local[:-1] + "1", [])
        if len(rows) < 2:  # nothing to put in order
            return rows
        return sorted(rows, key=lambda row: [Side.TRUNK, Side.LOCAL].count(row.a.side), reverse=True)

    def _only_caller(self, local: str) -> str | None:
        """Who is behind a Local whose dial left no record: the caller, where there is one and it's no Originate."""
        originated = local.endswith(";1") or local[:-1] + "1" in self._by_channel
        return next(iter(self._inbound)) if len(self._inbound) == 1 and not originated else None

    def _outer_answered(self, channel: str) -> bool:
        """Two agents of a queue may both pick up: the Local of one is answered, the other's is not."""
        outer = self._outer(channel)
        return not outer or any(row.answered for row in outer)

    # Outgoing

    def _outgoing(self) -> list[Leg]:
        found: list[Leg] = []
        numbers: dict[str, list[str]] = {}
        for leg, dial in self._outbound.items():
            if self._agent(dial):
                # A second trunk tried after a busy one is the same call.
                numbers.setdefault(dial.cdr.dst, []).append(leg)
        for number, legs in numbers.items():
            dial = self._outbound[legs[0]]
            talks, agent = self._talks_out(legs), self._agent(dial)
            if talks:
                lines = self._lines(dial.cdr, number, talks, legs, incoming=False)
            else:
                lines = [Line(dial.cdr, agent, number, 0, (), incoming=False)]
            found.append(Leg("", dial.b.endpoint, agent, lines))
        return found

    def _agent(self, dial: Row) -> str:
        """The extension for whom a trunk was dialed; nothing where it was for a caller (forwarding) or unknown."""
        if dial.a.side is Side.EXTENSION:
            return dial.a.extension
        if dial.a.side is not Side.LOCAL:
            return ""
        origin = self._origin(dial)
        if origin is None:
            return next((row.b.extension for row in self._originated(dial.cdr.channel)), "")
        return next((row.a.extension for row in self._by_channel.get(origin, [])), "")

    def _originated(self, local: str) -> list[Row]:
        """The phones behind an Originate's Local: the other half dialed them."""
        stem = local.rpartition(";")[0]
        rows = [row for half in "12" for row in self._by_channel.get(f"{stem};{half}", ())]
        return [row for row in rows if row.b.side is Side.EXTENSION]

    def _talks_out(self, legs: list[str]) -> dict[str, list[Row]]:
        direct: dict[str, list[Row]] = {}
        through_local: dict[str, list[Row]] = {}
        for row in self._rows:
            if not (row.talked and row.touches(legs)):
                continue
            if row.a.side is Side.LOCAL and (agent := self._agent(row)):
                phones = self._originated(row.cdr.channel)
                if not phones or any(phone.answered for phone in phones):  # else it is the agent's mailbox that did
                    through_local.setdefault(agent, []).append(row)
            elif Side.EXTENSION in (row.a.side, row.b.side):
                direct.setdefault(row.a.extension or row.b.extension, []).append(row)
        # While Locals are in between, the time runs from the agent's answer; once they are optimised away, it's talk.
        return direct or through_local


def _ended_at(one: Cdr) -> datetime:
    return one.start_at + timedelta(seconds=one.duration_s)


def is_own_record(one: Cdr) -> bool:
    """With `unanswered = yes`, a busy outbound leg has a record of its own, from its number to its number."""
    return one.src == one.dst and not one.dstchannel


def is_outside(dialed: str, is_extension: Callable[[str], bool]) -> bool:
    """Whether this was dialed to reach somebody outside."""
    return _DIGIT.search(dialed) is not None and not is_extension(dialed)

"""Calls for the soak: recorded ones over and over, each with ids, channels and a caller's number of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from crmbridge.demo.traces import Told, Trace, shipped

MIX = {
    "did_answered": 8,
    "caller_gives_up": 4,
    "outbound": 4,
    "internal": 3,
    "no_answer_voicemail": 2,
    "ivr_then_extension": 2,
    "busy": 1,
    "rejected": 1,
    "ring_group": 1,
    "queue_direct_members": 1,
    "blind_by_refer": 1,
    "hold_and_resume": 1,
}
"""How often each recorded call is played among 29: mostly short ones with one phone, as offices have them."""
VERSIONS = ("16", "22")
"""Of Asterisk, in turns."""
END = b"\r\n\r\n"

_ID = re.compile(rb"(?<=(?:niqueid|inkedid|niqueID|inkedID): )(?=\d)")
_CHANNEL = re.compile(rb"(?<=-)[0-9a-f]{4}(?=[0-9a-f]{4}(?![0-9a-f]))")
"""Of a channel's number in its name (PJSIP/777-0000000d) the half that a recording has no use for."""
_CALLER = b"033004799"
_CALLED = b"0521111111"
"""Whom the outgoing calls are to."""
_MARK_ID, _MARK_CHANNEL, _MARK_CALLER = b"\x01", b"\x02", b"\x03"


@dataclass(frozen=True, slots=True)
class Copy:
    """One call to be played."""

    raw: bytes
    told: tuple[Told, ...]
    """What the CRM must be told: each exactly once."""
    records: int
    """Call records among the events."""
    events: int


class Recording:
    """A recorded call that can be had any number of times."""

    def __init__(self, trace: Trace) -> None:
        raw = b"".join(frame for _, frame in trace.frames())
        raw = (
            _CHANNEL.sub(_MARK_CHANNEL, _ID.sub(_MARK_ID, raw))
            .replace(_CALLER, _MARK_CALLER)
            .replace(_CALLED, _MARK_CALLER)
        )
        self._raw = raw
        self._told = trace.expected
        self._records = raw.count(b"Event: Cdr\r\n")
        self._events = raw.count(b"Event: ")
        if strange := [one for one in trace.expected if one[2] != _CALLER.decode()]:
            raise ValueError(f"{trace.name} is of other callers: {strange}")

    def copy(self, number: int) -> Copy:
        """The call of this number (of up to seven digits), which no other has."""
        caller = f"052{number:07d}"
        raw = self._raw.replace(_MARK_ID, b"1795000000.%d-" % number).replace(
            _MARK_CHANNEL, b"%04x" % (number % 0x10000)
        )
        raw = raw.replace(_MARK_CALLER, caller.encode())
        return Copy(
            raw,
            tuple((operation, extension, caller) for operation, extension, _ in self._told),
            self._records,
            self._events,
        )


def recordings() -> list[Recording]:
    """The mix, spread evenly: whoever takes them in turns has a day of an office."""
    traces = {trace.name: trace for trace in shipped()}
    once = {name: [Recording(traces[f"{version}/{name}"]) for version in VERSIONS] for name in MIX}
    turns = [[(name, turn) for turn in range(often)] for name, often in MIX.items()]
    spread = [one for one in chain.from_iterable(zip_longest(*turns)) if one is not None]
    return [once[name][version] for version in range(len(VERSIONS)) for name, _ in spread]


def interleaved(copies: Sequence[Copy]) -> Iterator[bytes]:
    """The frames of calls that go on at the same time."""
    for frames in zip_longest(*(one.raw.split(END)[:-1] for one in copies)):
        yield END.join([frame for frame in frames if frame is not None]) + END

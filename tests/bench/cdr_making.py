"""One made-up call in the making: its records as FreePBX 16 keeps them, and what the call list must make of them. Pure.

Which kinds of calls there are is `cdr_rows`'s business; who calls whom and when, `cdr_office`'s.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from tests.bench.cdr_office import EXTENSIONS, Asterisk, dialed, some_caller, some_trunk, wall

_NO_MARKS = str.maketrans("", "", "-:")


def device(extension: str) -> str:
    """What Dial is given for a phone (fp16_did_ext)."""
    return f"PJSIP/{extension}/sip:{extension}@10.20.0.{int(extension) % 250}:5060"


def dial(extension: str) -> Step:
    return Step(extension, "ext-local", "Dial", device(extension) + ",15,HhtrIb(func-apply-sipheaders^s^1)")


class Row(NamedTuple):
    """One row, with FreePBX's columns in FreePBX's order."""

    calldate: str
    clid: str
    src: str
    dst: str
    dcontext: str
    channel: str
    dstchannel: str
    lastapp: str
    lastdata: str
    duration: int
    billsec: int
    disposition: str
    amaflags: int
    accountcode: str
    uniqueid: str
    userfield: str
    did: str
    recordingfile: str
    cnum: str
    cnam: str
    outbound_cnum: str
    outbound_cnam: str
    dst_cnam: str
    linkedid: str
    peeraccount: str
    sequence: int


class Line(NamedTuple):
    """What the call list must say."""

    linkedid: str
    started_s: int
    """Epoch seconds."""
    extension: str
    number: str
    talk_s: int
    filename: str
    incoming: bool


class Call(NamedTuple):
    """One call: all its rows (a consultation's, too), and all its lines (none for an internal call)."""

    kind: str
    rows: list[Row]
    ends_s: list[int]
    """When each row ends, epoch seconds."""
    lines: list[Line]


class Leg(NamedTuple):
    """A channel, and what all records have of which it is A."""

    channel: str
    uniqueid: str
    src: str
    clid: str
    cnum: str
    cnam: str = ""
    did: str = ""
    outbound_cnum: str = ""
    recordingfile: str = ""


class Step(NamedTuple):
    """Where in the dialplan A is."""

    dst: str
    dcontext: str
    lastapp: str
    lastdata: str


class Making:
    """A call in the making."""

    def __init__(self, rng: Random, asterisk: Asterisk, start_s: int) -> None:
        self.rng = rng
        self.asterisk = asterisk
        self.start_s = start_s
        self.ring_s = 1 + int(rng.random() * 19)
        self.talk_s = 1 + int(rng.expovariate(1 / 140))
        self.trunk = some_trunk(rng)
        self.number = ""
        """Of the outside party, as the CRM gets it."""
        self.linkedid = ""
        self.rows: list[Row] = []
        self.ends_s: list[int] = []
        self.lines: list[Line] = []

    def new_id(self) -> str:
        """The next channel's id; the first is the call's."""
        uniqueid = self.asterisk.uniqueid(self.start_s)
        self.linkedid = self.linkedid or uniqueid
        return uniqueid

    def extensions(self, count: int) -> list[str]:
        return self.rng.sample(EXTENSIONS, count)

    def phone(self, extension: str) -> str:
        """A channel to an extension's phone."""
        return self.asterisk.channel(f"PJSIP/{extension}")

    def caller(self, what: str) -> Leg:
        """Who calls in; `what` begins the recording's name."""
        src, name, self.number = some_caller(self.rng, self.trunk)
        uniqueid, did = self.new_id(), self.rng.choice(self.trunk.dids)
        channel = self.asterisk.channel(self.trunk.endpoint)
        clid = f'"{name or src}" <{src}>'
        return Leg(channel, uniqueid, src, clid, src, name, did, "", self.recording(f"{what}-{src}", uniqueid))

    def agent(self, extension: str, uniqueid: str, channel: str = "") -> Leg:
        """Who calls out; where the route sets a caller id, it has replaced what `src` says (freepbx_outbound)."""
        caller_id, name = self.trunk.caller_id, f"Agent {extension}"
        src, channel = caller_id or extension, channel or self.phone(extension)
        recording = self.recording(f"out-{dialed(self.number)}-{extension}", uniqueid)
        return Leg(channel, uniqueid, src, f'"{name}" <{src}>', extension, name, "", caller_id, recording)

    def colleague(self, extension: str, uniqueid: str) -> Leg:
        """Who calls another extension."""
        name = f"Agent {extension}"
        return Leg(self.phone(extension), uniqueid, extension, f'"{name}" <{extension}>', extension, name)

    def out(self, number: str) -> Step:
        """A number dialed through the call's trunk (fp16_outbound)."""
        technology, _, peer = self.trunk.endpoint.partition("/")
        data = f"{technology}/{number}@{peer},300,Tb(func-apply-sipheaders^s^1,(1))U(sub-send-obroute-email^{number})"
        return Step(number, "from-internal", "Dial", data)

    def recording(self, what: str, uniqueid: str) -> str:
        """Its name, as FreePBX makes it; of seven calls in ten there is one."""
        if self.rng.random() > 0.7:
            return ""
        stamp = wall(self.start_s).translate(_NO_MARKS).replace(" ", "-")
        return f"{what}-{stamp}-{uniqueid}.wav"

    def record(
        self,
        a: Leg,
        dstchannel: str,
        step: Step,
        *,
        after_s: int = 0,
        ring_s: int = 0,
        talk_s: int = 0,
        disposition: str = "",
    ) -> None:
        """One row; `after_s`: seconds from the call's start to the row's. `talk_s` is `billsec`."""
        disposition = disposition or ("ANSWERED" if talk_s else "NO ANSWER")
        place = (step.dst, step.dcontext, a.channel, dstchannel, step.lastapp, step.lastdata[:80])
        length = (ring_s + talk_s, talk_s, disposition, 3, "")
        last = ("", "", self.linkedid, "", self.asterisk.sequence())
        whose = (a.uniqueid, "", a.did, a.recordingfile, a.cnum, a.cnam, a.outbound_cnum)
        values = (wall(self.start_s + after_s), a.clid, a.src, *place, *length, *whose, *last)
        self.rows.append(Row._make(values))
        self.ends_s.append(self.start_s + after_s + ring_s + talk_s)

    def line(self, extension: str, talk_s: int = 0, *, a: Leg, after_s: int = 0, incoming: bool = True) -> None:
        """What the call list must say. Only who talked is shown a recording, that of A."""
        filename = a.recordingfile if talk_s else ""
        self.lines.append(
            Line(self.linkedid, self.start_s + after_s, extension, self.number, talk_s, filename, incoming)
        )

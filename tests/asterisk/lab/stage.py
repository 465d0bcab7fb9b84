"""A scenario on a PBX: the phones of the office, the people outside, and what the CRM must be told in the end.

What it must be told is declared by the scenario, and measured: an extension's phone that rang for, or heard, somebody
who called in from outside. Both have to agree. Events have no part in it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from tests.asterisk.lab.ami import Ami, Frame, session
from tests.asterisk.lab.listed import CALLER, Listed, ReadAs, comparable, had, made, missed
from tests.asterisk.lab.office import VANILLA, Office
from tests.asterisk.lab.pbx import LAB_SECRET, LAB_USER, Pbx
from tests.asterisk.lab.phone import Call, Phone
from tests.asterisk.lab.rootfs import RECIPES

LIMIT_S = 30
"""For a whole scenario; the longest takes a few seconds."""
APART_S = 2.0
"""Between two calls to one extension: calls are told in parallel, and when replayed at a busy bridge, too, the first is
told before the second begins."""
STILL_S = 0.4
"""Call records come a moment after the last channel is gone."""


@dataclass(frozen=True)
class Told:
    """One thing the CRM is told."""

    operation: str
    ext: str
    number: str


def rings(ext: str, number: str = CALLER) -> Told:
    return Told("incomingCall", ext, number)


def talks(ext: str, number: str = CALLER) -> Told:
    return Told("incomingCallAnswered", ext, number)


class Stage:
    """What a scenario acts on."""

    def __init__(
        self, pbx: Pbx, ami: Ami, office: Office, trunk: Phone, phones: dict[str, Phone], talk_s: float = 0
    ) -> None:
        """`talk_s`: who talks does so for so many seconds at least."""
        self.pbx, self.ami, self.office, self.trunk, self.phones = pbx, ami, office, trunk, phones
        self._talk_s = talk_s
        self._guests: dict[Call, _Guest] = {}
        self._left: list[tuple[Call, Call]] = []

    def phone(self, ext: str) -> Phone:
        return self.phones[ext]

    def outside(
        self,
        number: str,
        *,
        caller: str = CALLER,
        shown: str | None = None,
        told: str | None = None,
        name: str = "",
        privacy: str = "",
    ) -> Call:
        """Somebody outside calls one of our numbers.

        `shown` is what our phones display of the caller's number and `told` what the CRM is told, where they differ
        from what came in.
        """
        call = self.trunk.dial(number, caller=caller, name=name, privacy=privacy)
        plain = call.caller
        self._guests[call] = _Guest(plain if shown is None else shown, plain if told is None else told)
        return call

    async def manage(self, action: str, **headers: str) -> Frame:
        """Have the PBX do something, as an operator's panel would: by AMI, but not as the bridge's user."""
        async with session(self.pbx, LAB_USER, LAB_SECRET) as ami:
            answer = await ami.action(action, **headers)
        assert answer["Response"] == "Success", answer
        return answer

    def channel(self, endpoint: str) -> str:
        """The name of the latest channel of an endpoint."""
        names = [frame["Channel"] for frame in self.ami.events("Newchannel")]
        return next(name for name in reversed(names) if name.rpartition("-")[0] == f"PJSIP/{endpoint}")

    async def talk(self, one: Call, other: Call, *, for_s: float = 0) -> None:
        """Wait until two calls' people hear one another; then let them talk for a while."""
        await asyncio.gather(one.audio.until_hears(other.audio), other.audio.until_hears(one.audio))
        await asyncio.sleep(max(for_s, self._talk_s))

    async def talk_again(self, one: Call, other: Call) -> None:
        """Wait until two calls' people hear one another from now on."""
        await asyncio.gather(one.audio.until_hears_again(other.audio), other.audio.until_hears_again(one.audio))
        await asyncio.sleep(self._talk_s)

    def left_to(self, guest: Call, ringing: Call) -> None:
        """A phone that began to ring for a colleague rings for a guest now, who alone is left in the call."""
        others = [call for phone in (self.trunk, *self.phones.values()) for call in phone.calls if not call.over]
        assert set(others) == {guest, ringing}
        assert ringing.rang
        assert not ringing.answered
        self._left.append((ringing, guest))

    def measured(self) -> Counter[Told]:
        """What the phones saw and heard of people who called in from outside; once a guest and extension."""
        facts = {
            (guest, operation, self.office.desks[name].extension)
            for name, phone in self.phones.items()
            for call in phone.calls
            for operation, guest in self._of(call)
        }
        return Counter(Told(operation, ext, self._guests[guest].told) for guest, operation, ext in facts)

    def _of(self, call: Call) -> list[tuple[str, Call]]:
        """For whom a phone's call rang, and with whom it was a conversation: both hear, or somebody merely listens."""
        talked = [guest for guest in self._guests if call.audio.hears(guest.audio) and guest.audio.hears(call.audio)]
        rang = [guest for ringing, guest in self._left if ringing is call]
        if call.incoming and (call.rang or call.answered):
            by_number = [guest for guest, about in self._guests.items() if about.shown == call.caller]
            rang += [guest for guest in by_number if guest in talked] or by_number[:1]
        return [*(("incomingCall", guest) for guest in rang), *(("incomingCallAnswered", guest) for guest in talked)]

    def lines(self) -> list[Listed]:
        """What the call list must show of the calls, as the phones saw and heard them."""
        lines = [line for guest, about in self._guests.items() for line in self._of_guest(guest, about)]
        return lines + [line for call in self.trunk.calls if call.incoming for line in self._of_called(call)]

    def _of_guest(self, guest: Call, about: _Guest) -> list[Listed]:
        heard = self._talks_with(guest)
        if heard:
            return [Listed(ext, about.told, talk_s=seconds) for ext, seconds in heard.items()]
        rang = [
            self.office.desks[name].extension
            for name, phone in self.phones.items()
            for call in phone.calls
            if ("incomingCall", guest) in self._of(call)
        ]
        return [missed(*dict.fromkeys(rang), number=about.told)]

    def _of_called(self, outside: Call) -> list[Listed]:
        """Somebody outside was called: by an extension, or (none did, so no line) on behalf of a caller."""
        heard = self._talks_with(outside)
        if heard:
            return [Listed(ext, outside.dialed, incoming=False, talk_s=seconds) for ext, seconds in heard.items()]
        dialed = [
            self.office.desks[name].extension
            for name, phone in self.phones.items()
            for call in phone.calls
            if not call.incoming and call.dialed == outside.dialed
        ]
        return [made(ext, outside.dialed, talked=False) for ext in dict.fromkeys(dialed)]

    def _talks_with(self, outside: Call) -> dict[str, float]:
        """By extension, for how many seconds it talked with somebody outside."""
        found: dict[str, float] = {}
        for name, phone in self.phones.items():
            for call in phone.calls:
                if call.audio.hears(outside.audio) and outside.audio.hears(call.audio):
                    ext = self.office.desks[name].extension
                    found[ext] = found.get(ext, 0.0) + call.audio.together_s(outside.audio)
        return found


@dataclass(frozen=True)
class _Guest:
    """Somebody who calls in from outside."""

    shown: str
    told: str


Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """A kind of call, and what the CRM must be told of it."""

    name: str
    summary: str
    play: Play
    expected: tuple[Told, ...]
    optional: tuple[Told, ...]
    notes: str
    office: Office = VANILLA
    versions: tuple[str, ...] = tuple(sorted(RECIPES))
    """The Asterisks that can do it."""
    either: tuple[Told, ...] = ()
    """One of these besides, where chance decides whose call it is; the recording knows which."""
    listed: tuple[Listed, ...] | None = None
    """What the call list must show, where it does not follow from what the CRM is told."""
    read_as: ReadAs | None = None

    @property
    def lines(self) -> tuple[Listed, ...]:
        """What the call list must show, as declared: who talked; who rang, where nobody talked with a caller."""
        if self.listed is not None:
            return self.listed
        heard = [had(told.ext, told.number) for told in self.expected if told.operation == "incomingCallAnswered"]
        answered = {line.number for line in heard} | {told.number for told in self.either}
        rang: dict[str, list[str]] = {}
        for told in self.expected:
            if told.number not in answered:
                rang.setdefault(told.number, []).append(told.ext)
        return (*heard, *(missed(*dict.fromkeys(extensions), number=number) for number, extensions in rang.items()))


SCENARIOS: dict[str, Scenario] = {}
"""By name, in the order in which they are written."""


def scenario(
    summary: str,
    *,
    expected: tuple[Told, ...] = (),
    optional: tuple[Told, ...] = (),
    notes: str = "",
    office: Office = VANILLA,
    versions: tuple[str, ...] = tuple(sorted(RECIPES)),
    either: tuple[Told, ...] = (),
    listed: tuple[Listed, ...] | None = None,
    read_as: ReadAs | None = None,
) -> Callable[[Play], Play]:
    """Make a function a scenario; its name is the trace's.

    It begins with all phones ringing and answering, and no call; when it ends all calls must be over. `expected` is
    what the CRM must be told, `optional` what it may be told besides; `listed`, what the call list must show.
    """

    def enter(play: Play) -> Play:
        name = play.__name__
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(
            name, summary, play, expected, optional, notes, office, versions, either, listed, read_as
        )
        return play

    return enter


@dataclass
class Recording:
    """What a scenario left."""

    scenario: Scenario
    raw: bytes
    """All that AMI sent to our user."""
    timing: list[tuple[int, float]]
    frames: list[dict[str, str]]
    measured: Counter[Told]
    lines: list[Listed]
    """What the phones say that the call list must show."""
    stage: Stage = field(repr=False)

    @property
    def records(self) -> int:
        """How many call records Asterisk has written, as it says."""
        return sum(frame.get("Event") == "Cdr" for frame in self.frames)

    @property
    def expected(self) -> tuple[Told, ...]:
        """What the CRM must be told of this very call."""
        return (*self.scenario.expected, *(told for told in self.scenario.either if told in self.measured))

    def disagreement(self) -> str:
        """What was declared and did not happen, or happened and was not declared; empty when all is well."""
        declared, either = Counter(self.expected), self.scenario.either
        missing = declared - self.measured
        more = self.measured - declared - Counter(self.scenario.optional)
        return " ".join(
            [
                *self._lines_disagreement(),
                *(f"declared but not so: {told}." for told in missing),
                *(f"so but not declared: {told}." for told in more),
                *(["not one of either."] if len(self.expected) != len(self.scenario.expected) + bool(either) else []),
            ]
        )

    def declared(self) -> list[Listed]:
        """The lines of this very call: as declared, with the seconds that the phones measured."""
        either = [had(told.ext, told.number) for told in self.scenario.either if told in self.measured]
        return self._with_seconds((*self.scenario.lines, *either))

    def readable(self) -> list[Listed]:
        """The same, as far as call records can tell."""
        return self._with_seconds(self.scenario.read_as.lines) if self.scenario.read_as else self.declared()

    def _with_seconds(self, lines: tuple[Listed, ...]) -> list[Listed]:
        """Lines with the seconds that the phones measured, where none are declared."""
        measured, found = list(self.lines), []
        for line in lines:
            same = next((one for one in measured if comparable([one]) == comparable([line])), None)
            if same is not None:
                measured.remove(same)
            seconds = line.talk_s or (same.talk_s if same else 0.0)
            found.append(replace(line, talk_s=round(seconds, 1)))
        return found

    def _lines_disagreement(self) -> list[str]:
        declared, so = comparable(self.declared()), comparable(self.lines)
        return [f"lines: declared {declared - so}, but {so - declared}."] if declared != so else []


async def perform(where: Pbx, chosen: Scenario, *, talk_s: float = 0) -> Recording:
    """Play a scenario while our AMI user listens. Raises TimeoutError where it gets stuck."""
    async with _stage(where, chosen.office, talk_s) as stage:
        try:
            async with asyncio.timeout(LIMIT_S):
                await chosen.play(stage)
                for phone in (stage.trunk, *stage.phones.values()):
                    for call in phone.calls:
                        await call.until_over()
                await stage.ami.until_no_channels()
                await stage.ami.until_still(STILL_S)
        except TimeoutError as error:
            error.add_note(f"not told to be gone: {stage.ami.channels()}\n{where.cli('core show channels')}")
            raise
        ami = stage.ami
        return Recording(chosen, bytes(ami.raw), ami.timing, ami.frames, stage.measured(), stage.lines(), stage)


@asynccontextmanager
async def _stage(where: Pbx, office: Office, talk_s: float) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        ami = await stack.enter_async_context(session(where))
        trunk = await stack.enter_async_context(Phone(where.network, office.trunk, "trunk", pbx=office.sip))
        phones = {}
        for name, desk in office.desks.items():
            phone = Phone(where.network, desk.address, name, pbx=office.sip)
            phones[name] = await stack.enter_async_context(phone)
        yield Stage(where, ami, office, trunk, phones, talk_s)

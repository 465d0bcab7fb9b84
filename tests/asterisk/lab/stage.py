"""A scenario on a PBX: the phones of the office, the people outside, and what the CRM must be told in the end.

What it must be told is declared by the scenario, and measured: an extension's phone that rang for, or heard, somebody
who called in from outside. Both have to agree. Events have no part in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tests.asterisk.lab.ami import Ami, session
from tests.asterisk.lab.office import VANILLA, Office
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.phone import Call, Phone
from tests.asterisk.lab.rootfs import RECIPES

CALLER = "033004799"
LIMIT_S = 30
"""For a whole scenario; the longest takes a few seconds."""
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

    def __init__(self, pbx: Pbx, ami: Ami, office: Office, trunk: Phone, phones: dict[str, Phone]) -> None:
        self.pbx, self.ami, self.office, self.trunk, self.phones = pbx, ami, office, trunk, phones

    def phone(self, ext: str) -> Phone:
        return self.phones[ext]

    def outside(self, number: str, *, caller: str = CALLER, name: str = "", privacy: str = "") -> Call:
        """Somebody outside calls one of our numbers."""
        return self.trunk.dial(number, caller=caller, name=name, privacy=privacy)

    async def talk(self, one: Call, other: Call, *, for_s: float = 0) -> None:
        """Wait until two calls' people hear one another; then let them talk for a while."""
        await asyncio.gather(one.audio.until_hears(other.audio), other.audio.until_hears(one.audio))
        await asyncio.sleep(for_s)

    def measured(self) -> set[Told]:
        """What the phones saw and heard of people who called in from outside."""
        return {
            told
            for name, phone in self.phones.items()
            for call in phone.calls
            for guest in self.trunk.calls
            if not guest.incoming
            for told in _between(self.office.desks[name].extension, call, guest)
        }


def _between(ext: str, call: Call, guest: Call) -> list[Told]:
    number = guest.caller
    heard = call.audio.hears(guest.audio)
    rang = call.incoming and call.caller == guest.caller and (call.rang or call.answered)
    return [*([rings(ext, number)] if rang else []), *([talks(ext, number)] if heard else [])]


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
) -> Callable[[Play], Play]:
    """Make a function a scenario; its name is the trace's.

    It begins with all phones ringing and answering, and no call; when it ends all calls must be over. `expected` is
    what the CRM must be told, `optional` what it may be told besides.
    """

    def enter(play: Play) -> Play:
        name = play.__name__
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(name, summary, play, expected, optional, notes, office, versions, either)
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
    measured: set[Told]
    stage: Stage = field(repr=False)

    @property
    def expected(self) -> tuple[Told, ...]:
        """What the CRM must be told of this very call."""
        return (*self.scenario.expected, *(told for told in self.scenario.either if told in self.measured))

    def disagreement(self) -> str:
        """What was declared and did not happen, or happened and was not declared; empty when all is well."""
        declared, either = set(self.expected), self.scenario.either
        missing = declared - self.measured
        more = self.measured - declared - set(self.scenario.optional)
        return " ".join(
            [
                *(f"declared but not so: {told}." for told in missing),
                *(f"so but not declared: {told}." for told in more),
                *(["not one of either."] if len(self.expected) != len(self.scenario.expected) + bool(either) else []),
            ]
        )


async def perform(where: Pbx, chosen: Scenario) -> Recording:
    """Play a scenario while our AMI user listens. Raises TimeoutError where it gets stuck."""
    async with asyncio.timeout(LIMIT_S), _stage(where, chosen.office) as stage:
        await chosen.play(stage)
        for phone in (stage.trunk, *stage.phones.values()):
            for call in phone.calls:
                await call.until_over()
        await stage.ami.until_no_channels()
        await stage.ami.until_still(STILL_S)
        ami = stage.ami
        return Recording(chosen, bytes(ami.raw), ami.timing, ami.frames, stage.measured(), stage)


@asynccontextmanager
async def _stage(where: Pbx, office: Office) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        ami = await stack.enter_async_context(session(where))
        trunk = await stack.enter_async_context(Phone(where.network, office.trunk, "trunk", pbx=office.sip))
        phones = {}
        for name, desk in office.desks.items():
            phone = Phone(where.network, desk.address, name, pbx=office.sip)
            phones[name] = await stack.enter_async_context(phone)
        yield Stage(where, ami, office, trunk, phones)

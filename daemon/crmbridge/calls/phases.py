"""Where a leg stands, and what takes it from there to elsewhere: the whole of it, as one table. Pure.

Everything that changes a leg's phase stands here. What the AMI events mean (which `Signal` each gives) and what the
questions lead to is the tracker's; bridges are no phases, since a leg of any phase may be in one.

`docs/tracker.md` shows this table drawn; `make diagram` draws it again, and a test holds them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Phase(StrEnum):
    """Where a leg stands."""

    NEW = "new"
    """It exists; nobody is being rung, and it has not called us yet."""
    CALLING = "calling"
    """It calls us (AST_STATE_RING), or did before it was answered: nobody rings it, whatever else happens."""
    DIALED = "dialed"
    """A dial tries to reach it, or has given up on it; another dial may go on with it."""
    RINGING = "ringing"
    """It rings: it said so, or sends early media."""
    ANSWERED = "answered"
    """Whoever was dialed has picked up. That does not mean that anybody hears anybody."""
    LEAVING = "leaving"
    """Its far side has hung up. It may still cross a bridge for a moment, and nobody hears anybody there."""


class Signal(StrEnum):
    """What happens to a leg."""

    CALLS = "calls us"
    DIAL = "is dialed"
    RINGS = "rings"
    ANSWER = "answers"
    FAIL = "dial given up"
    HANGUP_REQUEST = "far side hangs up"


class Ask(Enum):
    """What the tracker asks itself when a leg takes a step."""

    NOTHING = ""
    CAME_IN = "from outside?"
    RINGS_FOR = "for an outside caller?"


@dataclass(frozen=True, slots=True)
class Step:
    """Where a signal takes a leg."""

    phase: Phase
    ask: Ask = Ask.NOTHING


_GONE_SOON: dict[tuple[Phase, Signal], Step] = {
    (phase, Signal.HANGUP_REQUEST): Step(Phase.LEAVING) for phase in Phase if phase is not Phase.LEAVING
}

TABLE: dict[tuple[Phase, Signal], Step] = {
    (Phase.NEW, Signal.CALLS): Step(Phase.CALLING, Ask.CAME_IN),
    (Phase.NEW, Signal.DIAL): Step(Phase.DIALED),
    # Behind a Local, a phone may ring before the dial that reached it is told.
    (Phase.NEW, Signal.RINGS): Step(Phase.RINGING, Ask.RINGS_FOR),
    (Phase.DIALED, Signal.DIAL): Step(Phase.DIALED),
    (Phase.DIALED, Signal.RINGS): Step(Phase.RINGING, Ask.RINGS_FOR),
    # A phone that answers by itself never said that it rings.
    (Phase.DIALED, Signal.ANSWER): Step(Phase.ANSWERED, Ask.RINGS_FOR),
    (Phase.DIALED, Signal.FAIL): Step(Phase.DIALED),
    # The dial may be told after the ringing; and when an attended transfer is completed while the phone rings, the
    # one who stays dials the phone that rings already.
    (Phase.RINGING, Signal.DIAL): Step(Phase.RINGING, Ask.RINGS_FOR),
    (Phase.RINGING, Signal.RINGS): Step(Phase.RINGING, Ask.RINGS_FOR),
    (Phase.RINGING, Signal.ANSWER): Step(Phase.ANSWERED, Ask.RINGS_FOR),
    (Phase.RINGING, Signal.FAIL): Step(Phase.DIALED),
    **_GONE_SOON,
}
"""Every step there is. A signal that has no row for a leg's phase changes nothing: a picker is told as dialed and as
having answered, but it called, and nobody rang it."""


def diagram() -> str:
    """The table as a Mermaid state diagram; `?` marks the question asked on the way."""
    lines = ["stateDiagram-v2", "    [*] --> new"]
    for (phase, signal), step in TABLE.items():
        asked = f" → {step.ask.value}" if step.ask is not Ask.NOTHING else ""
        lines.append(f"    {phase} --> {step.phase}: {signal}{asked}")
    lines.append("    leaving --> [*]")
    return "\n".join(lines)


def drawn(page: str) -> str:
    """A page of documentation with the diagram between its marks as it must be. Raises ValueError without marks."""
    before, begin, rest = page.partition("```mermaid\n")
    _, end, after = rest.partition("```\n<!-- end -->")
    if not (begin and end):
        raise ValueError("the page has no place for the diagram")
    return f"{before}{begin}{diagram()}\n{end}{after}"

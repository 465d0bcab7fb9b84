"""Lines of the call list, as scenarios declare them and phones measure them. Call records have no part in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

CALLER = "033004799"


@dataclass(frozen=True)
class Listed:
    """One line of the call list."""

    ext: str
    number: str
    incoming: bool = True
    talked: bool = True
    others: tuple[str, ...] = ()
    """Of a missed call: who rang as well. Which of them is named is the PBX's business."""
    talk_s: float = field(default=0.0, compare=False)
    """As the phones measured it."""


def missed(*extensions: str, number: str = CALLER) -> Listed:
    """A call from outside that nobody answered; with no extension, where no phone has anything to do with it."""
    ext, *others = extensions or ("",)
    return Listed(ext, number, talked=False, others=tuple(others))


def had(ext: str, number: str = CALLER, *, talk_s: float = 0.0) -> Listed:
    """A call from outside, in which an extension talked."""
    return Listed(ext, number, talk_s=talk_s)


def made(ext: str, number: str, *, talked: bool = True) -> Listed:
    """A call of an extension to somebody outside."""
    return Listed(ext, number, incoming=False, talked=talked)


@dataclass(frozen=True)
class ReadAs:
    """What a call's records are read as, where they can't tell what happened."""

    lines: tuple[Listed, ...]
    because: str


def comparable(lines: Iterable[Listed]) -> Counter[tuple[str, str, bool, bool]]:
    """For comparing what is declared with what the phones say: of a missed call, they can't say whose it was."""
    return Counter(
        (line.ext if line.talked or not line.incoming else "", line.number, line.incoming, line.talked)
        for line in lines
    )

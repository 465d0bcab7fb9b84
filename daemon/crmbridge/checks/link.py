"""One link of the chain, as it was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it stands."""

    OK = "ok"
    WARN = "warn"
    """The bridge works with it; an administrator should know."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Link:
    """One link, and what was found; where it does not hold, what to do."""

    name: str
    state: State
    found: str

    @property
    def ok(self) -> bool:
        """Whether the bridge can work with it."""
        return self.state is not State.FAIL


def good(name: str, found: str) -> Link:
    """It holds."""
    return Link(name, State.OK, found)


def weak(name: str, found: str) -> Link:
    """It holds, and there is something to be said about it."""
    return Link(name, State.WARN, found)


def broken(name: str, found: str) -> Link:
    """It does not hold."""
    return Link(name, State.FAIL, found)


def judged(name: str, found: str, *, faults: list[str], remarks: list[str]) -> Link:
    """By the worst of it. All that is wrong is said; what was found only where nothing is."""
    if faults:
        return broken(name, "; ".join([*faults, *remarks]))
    return weak(name, "; ".join(remarks)) if remarks else good(name, found)


def some(names: list[str], most: int = 5) -> str:
    """A few of them, and how many there are besides."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

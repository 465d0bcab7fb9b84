"""Which of several bridges tells a fact or places a click: what a claim means to the one that looks. Pure.

A claim is one row of a database that all bridges share, known by its key. Who holds it sends. Each change of it counts
its version up, and is made only where the version still is the one that was seen (compare and set), so that of two that
want it one gets it, whatever they believed.

    (no row)  --inserted------------------------------>  held
    held      --its holder is about to send, or sends-->  held, one version on
    held      --its holder tries again later--------->  free
    free      --taken by whoever comes first---------->  held
    held      --its version stood for a whole lease--->  held by who waited
    any       --the CRM, or the PBX, has answered----->  told

No two clocks are compared. Who holds a claim counts the lease from before it asked for it; who waits, from after it saw
the version. So the holder's right to send ends before another's begins, if it looks at its clock right before it sends.

Time is handed in (seconds of a monotonic clock). It must not know databases, nor how anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

FREE = 0
"""In place of a token: its holder has let go of it."""
LOOKS_IN_A_LEASE = 4
"""How often who waits looks at a claim while a lease lasts: in the mean an eighth of it is lost by looking late."""

PLACED = "placed"
"""What a click's claim is told as that has become a call; else the code of the answer."""


def of_callback(key: Collection[str], requeued_at: datetime | None = None) -> str:
    """The key of a callback's claim, by `CallEvent.key`: 32 hexadecimal digits.

    It is the callback's Idempotency-Key, by which the CRM's log and the table can be laid side by side; but what was
    queued again by hand is another matter than what was told before.
    """
    again = [] if requeued_at is None else [requeued_at.isoformat()]
    return _digest([*key, *again])


def of_click(client_id: str, extension: str, number: str) -> str:
    """The key of a click's claim. `number`: as it is dialed."""
    return _digest(["click", client_id, extension, number])


def _digest(parts: Iterable[str]) -> str:
    return sha256(json.dumps(list(parts)).encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Row:
    """A claim as it was found."""

    bridge: str
    """Its holder's name, for people."""
    token: int
    """Its holder: a number that each start of a bridge has for itself, so that two of one name are two."""
    version: int
    told: str
    """What came of it; empty as long as nothing did."""
    age_s: float
    """Since its last change, by the database's own clock."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Nobody has it: insert a row. Somebody else may be quicker."""


@dataclass(frozen=True, slots=True)
class Take:
    """Make it ours, if its version still is this one."""

    version: int
    over: str = ""
    """The bridge whose lease has ended; empty where it was free, or ours."""


@dataclass(frozen=True, slots=True)
class Mine:
    """It is ours to send."""

    until: float
    """When our right to send ends."""
    over: str = ""
    """The bridge from which it was taken, as its lease had ended."""


@dataclass(frozen=True, slots=True)
class Told:
    """Somebody has told it."""

    bridge: str
    how: str
    by_us: bool
    """By this bridge, now or before it was started again."""


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else has it."""

    bridge: str
    look_at: float
    """When it is worth looking again."""


@dataclass(frozen=True, slots=True)
class Without:
    """The database can't be asked: send all the same."""


Standing = Mine | Told | Held | Without
Step = Insert | Take | Told | Held
"""What to do with a claim, or what there is to know of it."""
Judge = Callable[[Row | None, float], Step]
"""By a row as it was found, and the instant after that."""


@dataclass(frozen=True, slots=True)
class _Seen:
    version: int
    since: float


class Watch:
    """What one bridge has seen of callbacks' claims that others hold."""

    def __init__(self, bridge: str, token: int, lease_s: float) -> None:
        self._bridge = bridge
        self._token = token
        self._lease_s = lease_s
        self._seen: dict[str, _Seen] = {}

    def __len__(self) -> int:
        """How many are watched."""
        return len(self._seen)

    def judge(self, key: str, row: Row | None, now: float) -> Step:
        """What to do with this callback's claim. `now`: an instant after the row was read."""
        if row is None:
            return Insert()
        if row.told or row.token in {FREE, self._token}:
            self._seen.pop(key, None)
            # Ours from before, too, needs a new version: somebody may have waited for nearly a lease.
            return self.told(row) if row.told else Take(row.version)
        seen = self._seen.get(key)
        if seen is None or seen.version != row.version:
            seen = self._seen[key] = _Seen(row.version, now)
        ends = seen.since + self._lease_s
        if now >= ends:
            return Take(row.version, over=row.bridge)
        return Held(row.bridge, min(ends, now + self._lease_s / LOOKS_IN_A_LEASE))

    def told(self, row: Row) -> Told:
        """Of a claim that is told."""
        return Told(row.bridge, row.told, row.bridge == self._bridge)

    def look(self, row: Row | None, now: float) -> Step:
        """Only whether it is told."""
        return self.told(row) if row is not None and row.told else Held(row.bridge if row else "", now)

    def forget(self, before: float) -> None:
        """Drop what was seen first before then: nobody has asked for it for long."""
        self._seen = {key: seen for key, seen in self._seen.items() if seen.since >= before}


def judge_click(
    row: Row | None, now: float, *, token: int, window_s: float, placing_s: float, again: Collection[str]
) -> Step:
    """What to do with a click's claim.

    `window_s`: for so long after it was placed, or may have been, the same click is no second call. `placing_s`: how
    long placing one takes at most. `again`: the codes of those that were certainly not placed. Ages are the database's
    own.
    """
    if row is None:
        return Insert()
    if row.told in again or row.token in {FREE, token}:
        return Take(row.version)
    if row.told:
        return Told(row.bridge, row.told, by_us=False) if row.age_s < window_s else Take(row.version)
    return Held(row.bridge, now) if row.age_s < placing_s else Take(row.version, over=row.bridge)

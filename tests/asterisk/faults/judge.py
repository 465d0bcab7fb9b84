"""One judge for all faults: what went on, what the bridge could see of it, and what the CRM was told.

Pure. Each caller has a number of their own, so a number and an operation are one fact. All instants are seconds on the
clock of the run. The promises:

- nothing lost: a fact that went on at a moment at which the bridge could see it is told;
- nothing untrue: a fact that is told was one;
- nothing doubled: what the CRM has taken is not told again, but for what was on its way when the bridge was killed;
  that comes again with the same Idempotency-Key, since nobody can know whether it had arrived;
- in order: of one call, no ring after its answer;
- nothing late: at most `LATE_S` after the bridge could see it and the CRM would take it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

RING, ANSWER = "incomingCall", "incomingCallAnswered"

SETTLE_S = 0.5
"""From a login until the list of channels is worked off, and before an end until a fact is on disk: within this either
is right."""
SAME_S = 0.25
"""Two sessions that are told the same thing have read it within this, on a busy machine, too."""
IN_FLIGHT_S = 1.0
"""A request that came so shortly before a kill may not have been recorded as confirmed."""
LATE_S = 5.0
"""A busy machine tells in milliseconds; a retry that is too slow, or a callback that is forgotten, takes longer."""

Interval = tuple[float, float]
Fact = tuple[str, str]
"""Number and operation."""


@dataclass
class Call:
    """When a call's phone rang and talked."""

    number: str
    ringing: Interval | None = None
    talking: Interval | None = None

    def facts(self) -> Iterator[tuple[Fact, Interval]]:
        """What can be told of it, and how long that is of use: a ring as long as the call goes on."""
        if self.ringing:
            yield (self.number, RING), (self.ringing[0], (self.talking or self.ringing)[1])
        if self.talking:
            yield (self.number, ANSWER), self.talking


@dataclass
class Request:
    """One request to the CRM."""

    number: str
    operation: str
    key: str
    at: float
    accepted: bool = True
    """The CRM took it and said so."""


@dataclass(frozen=True)
class Sight:
    """What the bridge could see."""

    windows: Sequence[Interval]
    """When it was up and had a session with Asterisk; whatever Asterisk said then was given to it."""
    handed: Sequence[Interval] = ()
    """(said by Asterisk, given to the bridge), in order, where the way between took its time."""

    def since(self, interval: Interval) -> float | None:
        """From when on the bridge could see something; None when it never could."""
        for window in self.windows:
            first = max(interval[0], window[0] + SETTLE_S)
            if first < min(interval[1], window[1] - SETTLE_S):
                return self._given(max(interval[0], window[0]))
        return None

    def _given(self, at: float) -> float:
        """When the bridge was given what Asterisk said then; two sessions don't read it at the very same instant."""
        first = bisect_left(self.handed, (at - SAME_S,))
        last = bisect_left(self.handed, (at + SAME_S,))
        return max([at, *(given for _, given in self.handed[first:last])])


@dataclass
class Report:
    """What came of it."""

    calls: int = 0
    must: int = 0
    """Callbacks that had to be told."""
    told: int = 0
    missing: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    """Told, and not so."""
    twice: int = 0
    """Told again after a kill, or while no bridge could know what the other does, with the same key."""
    doubled: list[str] = field(default_factory=list)
    """Told again for no such reason, or with another key."""
    disordered: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    late_s: float = LATE_S
    """What was told later than this is late."""
    delays: list[float] = field(default_factory=list)
    """Seconds from when the bridge could see it to the request that the CRM took."""

    @property
    def broken(self) -> list[str]:
        """Each promise that was broken, in words."""
        return [*self.missing, *self.untrue, *self.doubled, *self.disordered, *self.late]

    @property
    def right(self) -> bool:
        """Whether all promises were kept."""
        return not self.broken

    def __str__(self) -> str:
        return "\n".join([str(self.row()), *self.broken[:20]])

    def row(self) -> dict[str, object]:
        """For a table."""
        return {
            "calls": self.calls,
            "had to be told": self.must,
            "told": self.told,
            "lost": len(self.missing),
            "untrue": len(self.untrue),
            "doubled": len(self.doubled),
            "out of order": len(self.disordered),
            "late": len(self.late),
            "delay median/max s": f"{median(self.delays):.2f} / {max(self.delays):.2f}" if self.delays else "-",
        }


def judge(
    calls: Collection[Call],
    sight: Sight,
    requests: Sequence[Request],
    *,
    killed: Sequence[float] = (),
    unclaimed: Sequence[Interval] = (),
    excused: Collection[Fact] = (),
    due: Callable[[float], float] = lambda seen: seen,
    late_s: float = LATE_S,
) -> Report:
    """Judge the run of one bridge, or of several as one: then `sight` is what any of them could see.

    `killed`: when one was killed, or lost its line to the CRM. `unclaimed`: when they could not agree which of them
    tells. `excused`: facts that the CRM refused, or that became too old. `due`: when the CRM would take what was seen
    then.
    """
    report = Report(calls=len(calls), late_s=late_s)
    again_is_right = [*((end - IN_FLIGHT_S, end) for end in killed), *unclaimed]
    by_fact: defaultdict[Fact, list[Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda request: request.at):
        by_fact[request.number, request.operation].append(request)
    report.told = sum(any(one.accepted for one in same) for same in by_fact.values())
    for call in calls:
        for fact, interval in call.facts():
            _judge_fact(report, fact, sight.since(interval), by_fact.get(fact, []), fact in excused, due)
        _judge_order(report, call.number, by_fact, unclaimed)
    real = {fact for call in calls for fact, _ in call.facts()}
    report.untrue = [
        f"untrue: {operation} of {number}" for number, operation in by_fact if (number, operation) not in real
    ]
    for fact, same in by_fact.items():
        _judge_doubled(report, fact, same, again_is_right)
    return report


def _judge_fact(
    report: Report, fact: Fact, seen: float | None, same: list[Request], excused: bool, due: Callable[[float], float]
) -> None:
    if seen is None or excused:
        return
    report.must += 1
    accepted = [one.at for one in same if one.accepted]
    if not accepted:
        report.missing.append(
            f"missing: {fact[1]} of {fact[0]}, to be seen from {seen:.3f} on; tried {len(same)} times"
        )
        return
    delay = max(0.0, accepted[0] - due(seen))
    report.delays.append(delay)
    if delay > report.late_s:
        report.late.append(
            f"late: {fact[1]} of {fact[0]}, {delay:.2f} s after it could be seen and told, at {seen:.3f}"
        )


def _judge_order(
    report: Report, number: str, by_fact: dict[Fact, list[Request]], unclaimed: Sequence[Interval]
) -> None:
    """By each bridge's own order, where each tells all: a ring that comes again then may come after the answer."""
    rings, answers = by_fact.get((number, RING)), by_fact.get((number, ANSWER))
    if rings and _within(rings[0].at, unclaimed):
        rings = rings[:1]
    if rings and answers and rings[-1].at > answers[0].at:
        report.disordered.append(f"out of order: ring of {number} at {rings[-1].at:.3f}, answer at {answers[0].at:.3f}")


def _judge_doubled(report: Report, fact: Fact, same: list[Request], again_is_right: Sequence[Interval]) -> None:
    first = next((index for index, one in enumerate(same) if one.accepted), len(same))
    again = same[first + 1 :]
    one_key = len({one.key for one in same}) == 1
    right = all(_within(one.at, again_is_right) for one in same[first:-1])
    if again and one_key and right:
        report.twice += len(again)
    elif again or not one_key:
        instants = ", ".join(f"{one.at:.3f}" for one in same)
        report.doubled.append(f"doubled: {fact[1]} of {fact[0]}, {len(same)} times ({instants}), one key: {one_key}")


def _within(at: float, intervals: Sequence[Interval]) -> bool:
    return any(start <= at <= end for start, end in intervals)

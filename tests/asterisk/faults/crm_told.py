"""What came of one case of a misbehaving CRM, held against what must come of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.asterisk.faults.crm_cases import PROBE_S, Case
from tests.asterisk.faults.judge import LATE_S, RING, Call, Fact, Interval, Report, Request, Sight, judge
from tests.asterisk.faults.resources import left_behind
from tests.asterisk.faults.set_clock import HOUR_S

LONGEST_STOP_S = 15.0
"""systemd waits 20 s (TimeoutStopSec), and then kills."""
DRAIN_PER_S = 20.0
"""Callbacks that have piled up are told at least so fast when the CRM is well again, newest first."""
STATES = ("confirmed", "refused", "expired")


@dataclass
class Told:
    """What came of one case."""

    case: Case
    calls: list[Call] = field(default_factory=list)
    faults: list[Interval] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    """`crmbridge outbox list --json` after all of it."""
    lines: list[str] = field(default_factory=list)
    stop_s: float = 0.0
    exit_codes: list[int | None] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    clock_set: int = 0
    """How often the wall clock was set."""

    def row(self) -> dict[str, object]:
        first = self.faults[0]
        states = Counter(one["state"] for one in self.listed)
        after = [at for one, at in self._taken() if first[0] <= self._seen()[one] < first[1]]
        return {
            "the CRM": self.case.name,
            **({"clock set, times": self.clock_set} if self.case.clock else {}),
            "for s": f"{first[1] - first[0]:.0f}",
            "calls": len(self.calls),
            "requests meanwhile": sum(first[0] <= one.at < first[1] for one in self.requests),
            "/".join(STATES): "/".join(str(states[state]) for state in STATES),
            "its calls told s after its end": f"{min(after) - first[1]:.1f} to {max(after) - first[1]:.1f}"
            if after
            else "-",
            "lost": len(self.report.missing),
            "untrue": len(self.report.untrue),
            "doubled": len(self.report.doubled),
            "out of order": len(self.report.disordered),
            "late": len(self.report.late),
            "stopped within s": f"{self.stop_s:.1f}" if self.stop_s else "-",
            "as expected": "no" if self.broken else "yes",
        }

    @property
    def broken(self) -> list[str]:
        found = [
            *self.report.broken,
            *self._outbox_mistakes(),
            *self._asked_again(),
            *left_behind(self.lines, self.case.expected_events),
        ]
        if not any(self.case.says in line for line in self.lines):
            found.append(f"the log never says {self.case.says!r}")
        if self.stop_s > LONGEST_STOP_S:
            found.append(f"a stop took {self.stop_s:.1f} s")
        if self.case.clock and not self._clock_was_seen_set():
            found.append("the wall clock was not set: nothing was shown")
        found += [f"exit code {code}" for code in self.exit_codes if code != 0]
        return [f"{self.case.name}: {one}" for one in found]

    def _clock_was_seen_set(self) -> bool:
        """Whether the log's times, the wall clock's, lie as far apart as it was set."""
        times = [datetime.fromisoformat(json.loads(line)["timestamp"]) for line in self.lines if line.startswith("{")]
        return (max(times) - min(times)).total_seconds() > HOUR_S

    def decide(self) -> None:
        """Judge it. The bridge saw everything all the time, but the CRM would not take it."""
        excused = {fact for fact, seen in self._seen().items() if self._state(fact) in self._may_become(fact, seen)}
        always = Sight([(float("-inf"), float("inf"))])
        self.report = judge(self.calls, always, self.requests, excused=excused, due=self._due)

    def _seen(self) -> dict[Fact, float]:
        return {fact: interval[0] for call in self.calls for fact, interval in call.facts()}

    def _state(self, fact: Fact) -> str:
        states = [one["state"] for one in self.listed if (one["number"], one["operation"]) == fact]
        return states[0] if len(states) == 1 else f"listed {len(states)} times"

    def _due(self, seen: float) -> float:
        """When the CRM, well again and tried again, would take what was seen then."""
        spells = [(start, end + self.case.patience_s + PROBE_S) for start, end in self._backlogged()]
        return max([seen, *(until for start, until in spells if start <= seen < until)])

    def _backlogged(self) -> list[Interval]:
        """Each fault with the time that it takes afterwards to tell what has piled up."""
        begins = [interval[0] for call in self.calls for _, interval in call.facts()]
        return [
            (start, end + sum(start <= begin < end for begin in begins) / DRAIN_PER_S) for start, end in self.faults
        ]

    def _may_become(self, fact: Fact, seen: float) -> set[str]:
        """What else than confirmed is right: refused during a refusal, expired where it was not taken in time."""
        during = any(start <= seen <= end for start, end in self.faults)
        refused = {"refused"} if during and self.case.refused else set()
        return refused | ({"expired"} if self._due(seen) + LATE_S > seen + self._life(fact[1]) else set())

    def _outbox_mistakes(self) -> list[str]:
        return [
            f"{operation} of {number} is {self._state((number, operation))} in the outbox"
            for (number, operation), seen in self._seen().items()
            if self._state((number, operation)) not in {"confirmed", *self._may_become((number, operation), seen)}
        ] + [
            f"{one.operation} of {one.number} sent {one.at - seen:.1f} s after it was seen, too old to be of use"
            for one in self.requests
            if one.at - (seen := self._seen().get((one.number, one.operation), one.at)) > self._life(one.operation) + 1
        ]

    def _asked_again(self) -> list[str]:
        """What the CRM refused and was sent again."""
        asked = Counter((one.number, one.operation) for one in self.requests)
        refused = {(one.number, one.operation) for one in self.requests if self.case.refused and not one.accepted}
        return [
            f"{fact[1]} of {fact[0]} was refused, and sent {asked[fact]} times" for fact in refused if asked[fact] > 1
        ]

    def _life(self, operation: str) -> float:
        name, default = ("ring_expires_s", 60.0) if operation == RING else ("answer_expires_s", 3600.0)
        return self.case.settings.get(name, default)

    def _taken(self) -> list[tuple[Fact, float]]:
        seen = self._seen()
        return [
            ((one.number, one.operation), one.at)
            for one in self.requests
            if one.accepted and (one.number, one.operation) in seen
        ]

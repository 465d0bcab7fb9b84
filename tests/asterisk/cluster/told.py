"""What came of each fault, and of all of it: rows for a table, and what was broken in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tests.asterisk.cluster.faults import Fault
from tests.asterisk.faults.judge import Call, Interval, Report, Request, Sight, judge
from tests.asterisk.faults.kills import RING_S

TAKEOVER_S = 3.0
"""Whatever happens to one of them, a callback comes no later than this (issue 9)."""
BEFORE_S = RING_S + 0.5
"""A call that rang so shortly before a fault may be answered during it, and counts as its."""
_ALWAYS = Sight([(float("-inf"), float("inf"))])


@dataclass
class Spell:
    """One fault, or the calm between, and the calls that came in from its beginning until the next began."""

    name: str
    began: float
    fault: Fault | None = None
    ended: float = 0.0
    """When it was mended."""
    whole: float = 0.0
    """When everybody did everything again."""
    silent_s: float = 0.0
    """How long nobody answered at the shared address."""
    report: Report = field(default_factory=Report)

    def row(self) -> dict[str, object]:
        told = self.report.row()
        return {
            "what happens": self.name,
            "at s": f"{self.began:.0f}",
            "for s": f"{self.ended - self.began:.1f}" if self.fault else "-",
            "whole after s": f"{self.whole - self.ended:.1f}" if self.fault else "-",
            **{key: told[key] for key in ("calls", "had to be told", "told", "lost", "doubled")},
            "again, same key": self.report.twice,
            **{key: told[key] for key in ("out of order", "late", "delay median/max s")},
            "address silent s": f"{self.silent_s:.1f}",
        }


@dataclass
class Outcome:
    """What came of all."""

    spells: list[Spell]
    wrong: list[str] = field(default_factory=list)
    """What else is not as it has to be."""
    facts: dict[str, object] = field(default_factory=dict)
    """What was counted besides."""

    @property
    def broken(self) -> list[str]:
        return [*(f"{spell.name}: {one}" for spell in self.spells for one in spell.report.broken), *self.wrong]

    def rows(self) -> list[dict[str, object]]:
        return [*(spell.row() for spell in self.spells), self._sum()]

    def notes(self) -> list[str]:
        return [f"{name}: {value}" for name, value in self.facts.items()]

    def decide(self, calls: Collection[Call], requests: Sequence[Request]) -> None:
        """Judge each spell by its calls. One bridge or the other could see everything all the time."""
        starts = [float("-inf"), *(spell.began - BEFORE_S for spell in self.spells[1:]), float("inf")]
        for spell, first, last in zip(self.spells, starts, starts[1:], strict=False):
            own = [call for call in calls if call.ringing and first <= call.ringing[0] < last]
            numbers = {call.number for call in own}
            told = [one for one in requests if one.number in numbers]
            killed, unclaimed = _allowed(spell)
            spell.report = judge(own, _ALWAYS, told, killed=killed, unclaimed=unclaimed, late_s=TAKEOVER_S)
        known = {call.number for call in calls}
        self.wrong += [f"untrue: {one.operation} of {one.number}" for one in requests if one.number not in known]

    def _sum(self) -> dict[str, object]:
        reports = [spell.report for spell in self.spells]
        columns = dict.fromkeys(self.spells[0].row(), "")
        counted = Counter[str]()
        for report in reports:
            counted.update({key: one for key, one in report.row().items() if key in columns and isinstance(one, int)})
        whole = Report(delays=[delay for report in reports for delay in report.delays])
        return {
            **columns,
            "what happens": "all of it",
            **counted,
            "again, same key": sum(report.twice for report in reports),
            "delay median/max s": whole.row()["delay median/max s"],
            "address silent s": f"{max(spell.silent_s for spell in self.spells):.1f}",
        }


def _allowed(spell: Spell) -> tuple[list[float], list[Interval]]:
    """What may be told again because of it: under way at an instant, and while nobody could agree with the other."""
    if spell.fault is None:
        return [], []
    killed = [spell.began] if spell.fault.in_flight else []
    unclaimed = [(spell.began - 1.0, spell.whole + 1.0)] if spell.fault.unclaimed else []
    return killed, unclaimed

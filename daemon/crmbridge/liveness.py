"""Which parts of the bridge are alive, and its state in one line, for the service manager.

Pure: the clock is handed in. A part says when it will be heard from again at the latest; who keeps that is alive,
whether or not what it tries succeeds. A PBX that can't be reached makes nobody dead; a task that hangs or has ended is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

NOTHING_UNDER_WAY = math.inf
"""Said in place of seconds by a part that has nothing to do and waits for work."""


class Pulses:
    """When each part must be heard from again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds that no one sets back or forth."""
        self._clock = clock
        self._due: dict[str, float] = {}

    def of(self, part: str) -> Callable[[float], None]:
        """What the part calls: "I am alive, and will say so again within so many seconds"."""
        return partial(self._beat, part)

    def late(self) -> list[str]:
        """The parts that are overdue, by name."""
        now = self._clock()
        return sorted(part for part, due in self._due.items() if now > due)

    def _beat(self, part: str, within_s: float) -> None:
        self._due[part] = self._clock() + within_s


def status(*, connected: Sequence[bool], calls: int, waiting: int, troubles: Sequence[str] = ()) -> str:
    """The state in one line. `connected`: for each PBX. `waiting`: callbacks that the CRM has not confirmed yet."""
    ami = "AMI connected" if all(connected) else "AMI not connected"
    if len(connected) > 1:
        ami = f"{sum(connected)} of {len(connected)} PBXes connected"
    return ", ".join([ami, f"{calls} call{'' if calls == 1 else 's'}", f"{waiting} waiting", *troubles])

"""Wall times as instants: what a PBX's records say is the time on its own clock, without a zone. Pure.

A clock that is set back in autumn shows an hour twice. Which of the two is meant, an id settles that has epoch seconds
in it (`cdr.epoch`): the record can't have begun before its channel. On all other days one offset holds, and is
remembered, so that ten million times cost little.

A wall time is given in seconds, as if the clock showed UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo

_DAY_S = 86400
_MOST_DAYS = 20_000
_SLACK_S = 2
"""An id's seconds may be a little later than the record's: the two are read from the clock one after the other."""
_AROUND_S = 26 * 3600
"""No zone is farther from UTC than 14 hours, no change sets the clock by more than 12."""


class WallTime:
    """The times of one clock."""

    def __init__(self, timezone: tzinfo) -> None:
        self._timezone = timezone
        self._offsets: dict[int, int | None] = {}
        """Day → seconds ahead of UTC all day long, None where the clock is set about then."""

    def epoch(self, wall_s: int, not_before: int | None = None) -> int:
        """Epoch seconds. In an hour that comes twice, the first that is not before `not_before`."""
        first, second = self.both(wall_s)
        if not_before is not None and first < not_before - _SLACK_S and first < second:
            return second
        return first

    def steady(self, wall_s: int) -> int | None:
        """Seconds that the clock is ahead of UTC then; None about a change of the clock."""
        day = wall_s // _DAY_S
        try:
            return self._offsets[day]
        except KeyError:
            if len(self._offsets) >= _MOST_DAYS:
                self._offsets.clear()
            return self._offsets.setdefault(day, self._all_day(day))

    def both(self, wall_s: int) -> tuple[int, int]:
        """Epoch seconds, twice: where the hour comes only once they are the same (or, in one that is left out, not)."""
        offset = self.steady(wall_s)
        if offset is not None:
            return wall_s - offset, wall_s - offset
        wall = datetime.fromtimestamp(wall_s, UTC).replace(tzinfo=self._timezone)
        first, second = (int(wall.replace(fold=fold).timestamp()) for fold in (0, 1))
        return first, second

    def reach(self, since: int, until: int) -> tuple[int, int]:
        """The wall times that the clock shows between two epoch seconds, and about a change some more: since, until."""
        offsets = [self._offset(at) for at in (since - _AROUND_S, since, until, until + _AROUND_S)]
        return since + min(offsets), until + max(offsets)

    def _offset(self, at: int) -> int:
        return _seconds(datetime.fromtimestamp(at, self._timezone).utcoffset())

    def _all_day(self, day: int) -> int | None:
        noon = datetime.fromtimestamp(day * _DAY_S + _DAY_S // 2, UTC).replace(tzinfo=None)
        around = (noon + timedelta(hours=hours) for hours in (-26, -12, 0, 12, 26))
        offsets = {_seconds(self._timezone.utcoffset(at.replace(fold=fold))) for at in around for fold in (0, 1)}
        return offsets.pop() if len(offsets) == 1 else None


def seconds(text: str) -> int:
    """A wall time such as `2026-11-23 12:00:00`. Raises ValueError."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def _seconds(offset: timedelta | None) -> int:
    return int(offset.total_seconds()) if offset is not None else 0


def around(places: Iterable[int]) -> list[tuple[int, int]]:
    """From a second before to a second after each of these wall times, joined where they touch."""
    ranges: list[tuple[int, int]] = []
    for place in sorted(set(places)):
        since, until = place - 1, place + 2
        if ranges and since <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], until)
        else:
            ranges.append((since, until))
    return ranges

"""How much of the CDR table one query asks for, and how long the database is left alone afterwards. Pure.

The table belongs to the PBX, and Asterisk must be able to write into it at any time. So a query asks for a range of
time that holds a few thousand rows, and after each one there is a pause that is as long as the query took. One that
takes much longer than usual tells of a database that has other things to do: it gets five times as long, and smaller
questions.
"""

from __future__ import annotations

LONGEST_S = 30 * 86400
"""The most time that one query spans: so that years without calls are passed quickly."""
_FIRST_S = 900
_PER_QUERY = 1000
"""What a query costs beside its rows, in rows."""
_MUCH = 4
_NOTICEABLE_S = 0.5
_BUSY_PAUSE = 5
_LONGEST_PAUSE_S = 30.0


class Pace:
    """What the last queries took, and what follows from it for the next."""

    def __init__(self, rows: int) -> None:
        """`rows`: how many one query should give, about."""
        self._rows = rows
        self._usual: float | None = None
        self.span_s = _FIRST_S
        """How much time the next query should span."""

    def took(self, rows: int, seconds: float) -> float:
        """Learn from a query; how many seconds the database is to be left alone now."""
        cost = seconds / (rows + _PER_QUERY)
        usual = cost if self._usual is None else self._usual
        self._usual = min(cost, usual * 1.05)
        if cost > _MUCH * usual and seconds > _NOTICEABLE_S:
            self.span_s = max(1, self.span_s // 2)
            return min(_BUSY_PAUSE * seconds, _LONGEST_PAUSE_S)
        if rows * 2 < self._rows:
            self.span_s = min(self.span_s * 2, LONGEST_S)
        elif rows > self._rows * 2:
            self.span_s = max(1, self.span_s * self._rows // rows)
        return min(seconds, _LONGEST_PAUSE_S)

    def too_slow(self) -> None:
        """A query was given up because it took too long."""
        self.span_s = max(1, self.span_s // 4)

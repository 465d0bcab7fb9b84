"""What the call list must say of all made-up calls, as sums that a database can make, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Self
from zlib import crc32

from tests.bench.cdr_making import Line
from tests.bench.cdr_office import wall

SUMS_SQL = """
SELECT DATE(`time`), COUNT(*), SUM(duration), SUM(incoming), SUM(filename <> ''),
    SUM(CRC32(CONCAT_WS('|', `time`, ext, number, duration, incoming)))
FROM all_calls GROUP BY DATE(`time`)
"""
"""The same sums from the view."""


class Sums(NamedTuple):
    """Of one day's lines."""

    lines: int = 0
    talk_s: int = 0
    incoming: int = 0
    recordings: int = 0
    checksum: int = 0
    """CRC-32 of each line, added up."""

    def plus(self, other: Self) -> Sums:
        return Sums(*(mine + its for mine, its in zip(self, other, strict=True)))


class Expected:
    """Lines by day, and how many each number has."""

    def __init__(self) -> None:
        self.days: dict[str, Sums] = {}
        self.numbers: Counter[str] = Counter()

    def take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            time = wall(line.started_s)
            text = f"{time}|{line.extension}|{line.number}|{line.talk_s}|{int(line.incoming)}"
            one = Sums(1, line.talk_s, line.incoming, line.filename != "", crc32(text.encode()))
            self.days[time[:10]] = self.days.get(time[:10], Sums()).plus(one)
            self.numbers[line.number] += 1

    def add(self, other: Expected) -> None:
        """Take in what another process has made."""
        for day, sums in other.days.items():
            self.days[day] = self.days.get(day, Sums()).plus(sums)
        self.numbers.update(other.numbers)

    @property
    def whole(self) -> Sums:
        """All days together."""
        whole = Sums()
        for sums in self.days.values():
            whole = whole.plus(sums)
        return whole

    def wrong(self, found: dict[str, Sums]) -> list[str]:
        """The days of which a call list says something else."""
        days = sorted(self.days.keys() | found.keys())
        return [
            f"{day}: {found.get(day, Sums())}, wanted {self.days.get(day, Sums())}"
            for day in days
            if found.get(day, Sums()) != self.days.get(day, Sums())
        ]


def read(printed: str) -> dict[str, Sums]:
    """What MariaDB's own client prints for SUMS_SQL."""
    rows = [line.split("\t") for line in printed.splitlines()[1:]]
    return {row[0]: Sums(*(int(float(value)) for value in row[1:])) for row in rows}

"""`make bench`, section `calls`: the call list of a PBX with millions of CDR rows.

In one run on one machine: a MariaDB as Debian sets it up is filled with made-up calls (`cdr_rows`), `crmbridge sync`
reads them all, and numbers are looked up over HTTP, by SQL on the views, and with the plain query on the CDR table.
What the call list then says is held against what was meant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory

from rich.table import Table
from tests.asterisk.lab import mariadb
from tests.asterisk.lab.mariadb import Database
from tests.bench import bridge, lookups
from tests.bench.bridge import PartError, Store
from tests.bench.cdr_office import ANONYMOUS
from tests.bench.cdr_sums import SUMS_SQL, Expected, read
from tests.bench.cdr_table import filled
from tests.bench.lookups import Asked, Connect, Timing
from tests.bench.report import Report

LOOKUPS = 2_000
CROWD = 50
"""Clients at once."""
PLAIN = 5
"""The plain query takes seconds."""
NEWEST = 100
"""Lines in an answer of `/calls`."""

VIEW_SQL = "SELECT `time`, `ext`, `number`, `duration`, `filename`, `incoming` FROM all_calls WHERE `number` = %s"
NEWEST_SQL = f"{VIEW_SQL} ORDER BY `time` DESC LIMIT {NEWEST}"
PLAIN_SQL = (
    "SELECT calldate, src, dst, channel, dstchannel, duration, billsec, disposition, recordingfile "
    "FROM asteriskcdrdb.cdr WHERE src = %s OR dst = %s ORDER BY calldate DESC"
)


@dataclass
class Measured:
    """Everything at one size."""

    rows: int
    load_s: float
    sync: bridge.Sync | None = None
    run_peak_mb: float = 0.0
    timings: dict[str, Timing] = field(default_factory=dict)


def main(report: Report, sizes: Sequence[int], *, seed: int, store: Store, buffer_pool: str) -> None:
    """Measure at each size (rows), and report."""
    options = [f"--innodb-buffer-pool-size={buffer_pool}", "--innodb-flush-log-at-trx-commit=1"]
    # Not Debian's, and only for ADD KEY: the table is there before anything is measured.
    options += ["--innodb-sort-buffer-size=64M"]
    report.say(f"calls: seed {seed}, call list in {store}, MariaDB with {' '.join(options[:2])}")
    measured = [_at(report, rows, seed=seed, store=store, options=options) for rows in sizes]
    report.keep("calls", {"seed": seed, "store": store, "options": options, "sizes": [_plain(one) for one in measured]})
    report.show(_overview(measured))
    for one in measured:
        report.show(_lookups(one))


def _at(report: Report, rows: int, *, seed: int, store: Store, options: Sequence[str]) -> Measured:
    with mariadb.running(options=options) as database, TemporaryDirectory(prefix="crmbridge-bench.") as folder:
        began = time.monotonic()
        count, expected = filled(database, seed=seed, rows=rows)
        one = Measured(count, time.monotonic() - began)
        report.say(f"{count:,} CDR rows, {expected.whole.lines:,} lines of {len(expected.numbers):,} numbers wanted")
        bridge.prepared(database)
        config, port = bridge.configured(Path(folder), database, store)
        bench = _Bench(report, database, expected, seed, one)
        bench.part(lambda: bench.sync(config))
        if one.sync:  # else there is nothing to look up
            if store == "mariadb":
                bench.part(bench.says_what_was_meant)
            bench.part(lambda: bench.over_http(config, port))
            if store == "mariadb":
                bench.part(bench.by_sql)
        bench.part(bench.plain)
        return one


class _Bench:
    """The parts of one size; one that fails is told, and the others go on."""

    def __init__(self, report: Report, database: Database, expected: Expected, seed: int, measured: Measured) -> None:
        self._report = report
        self._database = database
        self._expected = expected
        self._measured = measured
        named = expected.numbers.copy()
        del named[ANONYMOUS]
        self._numbers = lookups.sample(named, seed, LOOKUPS)
        self._many = lookups.sample(named, seed + 1, LOOKUPS * 5)
        self._alike = lookups.alike(named, seed, LOOKUPS)

    def part(self, work: Callable[[], None]) -> None:
        try:
            work()
        except PartError as error:
            self._report.fail(str(error))
        except ExceptionGroup as group:
            self._report.fail("; ".join(str(error) for error in group.exceptions[:1]))

    def sync(self, config: Path) -> None:
        self._measured.sync = bridge.sync(config)

    def says_what_was_meant(self) -> None:
        try:
            found = read(self._database.run(f"USE {bridge.STORE}; {SUMS_SQL}", timeout_s=600))
        except CalledProcessError as error:
            raise PartError(f"what the call list says can't be read from its views: {error.stderr.strip()}") from None
        if wrong := self._expected.wrong(found):
            raise PartError(f"the call list is wrong on {len(wrong)} days, such as {'; '.join(wrong[:3])}")

    def over_http(self, config: Path, port: int) -> None:
        with bridge.running(config) as pid:
            self._alone("HTTP /healthz", lookups.health_over_http(port))
            self._crowd("HTTP /healthz", lookups.health_over_http(port))
            self._check(self._alone("HTTP /calls", lookups.calls_over_http(port)))
            self._check(self._crowd("HTTP /calls", lookups.calls_over_http(port)))
            self._check(self._ten("HTTP /calls", lookups.calls_over_http(port)))
            self._measured.run_peak_mb = bridge.peak_mb(pid)

    def by_sql(self) -> None:
        bridge.open_views(self._database)
        self._alone("SQL SELECT 1", self._sql("SELECT 1, %s"))
        self._crowd("SQL SELECT 1", self._sql("SELECT 1, %s"))
        self._check(self._alone("SQL view", self._sql(NEWEST_SQL)))
        self._check(self._crowd("SQL view", self._sql(NEWEST_SQL)))
        self._check(self._ten("SQL view", self._sql(NEWEST_SQL)))
        self._check(self._alone("SQL view, all lines", self._sql(VIEW_SQL)), most=None)

    def plain(self) -> None:
        self._time("plain query", self._sql(PLAIN_SQL, user="root"), self._numbers[:PLAIN], 1)

    def _sql(self, statement: str, user: str = "crm") -> Connect:
        address: dict[str, object] = {"host": self._database.host, "port": self._database.port, "user": user}
        if user == "root":
            address = {"unix_socket": str(self._database.socket), "user": user}
        else:
            address |= {"password": bridge.PASSWORD, "db": bridge.STORE}
        return lookups.rows_over_sql(address, statement)

    def _alone(self, name: str, connect: Connect) -> list[Asked]:
        return self._time(name, connect, self._numbers, 1)

    def _crowd(self, name: str, connect: Connect) -> list[Asked]:
        return self._time(f"{name}, {CROWD} at once", connect, self._many, CROWD)

    def _ten(self, name: str, connect: Connect) -> list[Asked]:
        return self._time(f"{name}, ten lines", connect, self._alike, 1)

    def _time(self, name: str, connect: Connect, numbers: Sequence[str], clients: int) -> list[Asked]:
        timing, asked = asyncio.run(lookups.ask_all(connect, numbers, clients))
        self._measured.timings[name] = timing
        return asked

    def _check(self, asked: list[Asked], most: int | None = NEWEST) -> None:
        wrong = [one for one in asked if one.lines != self._lines(one.number, most)]
        if wrong:
            first = wrong[0]
            wanted = self._lines(first.number, most)
            self._report.fail(
                f"{len(wrong)} of {len(asked)} answers have the wrong number of lines, such as "
                f"{first.lines} for {first.number}, wanted {wanted}"
            )

    def _lines(self, number: str, most: int | None) -> int:
        known = self._expected.numbers[number]
        return known if most is None else min(most, known)


def _overview(measured: Sequence[Measured]) -> Table:
    """What is wanted of the call list (issue 6), and what was measured, by size."""
    table = Table("", "wanted", *(f"{one.rows:,} rows" for one in measured), title="Call list")
    lookup, view, plain = "HTTP /calls", "SQL view", "plain query"
    rows: list[tuple[str, str, Callable[[Measured], float | None]]] = [
        ("made and loaded, rows/s", "", lambda one: one.rows / one.load_s),
        ("crmbridge sync, rows/s", ">= 30,000", lambda one: one.rows / one.sync.wall_s if one.sync else None),
        ("crmbridge sync, MB at most", "< 200", lambda one: one.sync.peak_mb if one.sync else None),
        ("crmbridge sync, processor s", "", lambda one: one.sync.cpu_s if one.sync else None),
        ("crmbridge run, MB at most", "", lambda one: one.run_peak_mb or None),
        (f"{lookup}, p99 ms alone", "< 5", lambda one: _of(one, lookup, "p99_ms")),
        ("SQL view, p99 ms alone", "< 5", lambda one: _of(one, view, "p99_ms")),
        (f"{plain}, median ms", "", lambda one: _of(one, plain, "median_ms")),
        (f"{plain} / {lookup}, medians", ">= 1,000", lambda one: _ratio(one, plain, one, lookup)),
        (f"{plain} / SQL view, medians", ">= 1,000", lambda one: _ratio(one, plain, one, view)),
        *((f"{name}, to the first size", "<= 1.5", _growth(measured[0], name)) for name in ("HTTP /calls", view)),
    ]
    for name, wanted, value in rows:
        table.add_row(name, wanted, *(_shown(value(one)) for one in measured))
    return table


def _growth(first: Measured, name: str) -> Callable[[Measured], float | None]:
    """Of answers with about ten lines: those of a larger table have more."""
    return lambda one: _ratio(one, f"{name}, ten lines", first, f"{name}, ten lines")


def _of(one: Measured, name: str, figure: str) -> float | None:
    timing = one.timings.get(name)
    return None if timing is None else float(getattr(timing, figure))


def _ratio(one: Measured, slow: str, other: Measured, fast: str) -> float | None:
    above, below = _of(one, slow, "median_ms"), _of(other, fast, "median_ms")
    return None if above is None or below is None else above / below


def _shown(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _lookups(one: Measured) -> Table:
    columns = ("questions", "median ms", "p99 ms", "most ms", "a second", "lines on average", "most lines")
    table = Table(f"{one.rows:,} rows", *columns, title="Lookups by number")
    for name, timing in one.timings.items():
        times = (f"{ms:.2f}" for ms in (timing.median_ms, timing.p99_ms, timing.most_ms))
        table.add_row(
            name, f"{timing.lookups:,}", *times, f"{timing.per_s:,.0f}", f"{timing.lines:.1f}", str(timing.most_lines)
        )
    return table


def _plain(one: Measured) -> dict[str, object]:
    return asdict(one) | {"timings": {name: timing._asdict() for name, timing in one.timings.items()}}

"""`make bench`, section `intake`: how fast a PBX's busy hour is taken in.

Recorded AMI bytes of Asterisk 16 and 22 (`busy`), as our user hears them and with `read = all`. All contenders are
given the same bytes in the same pieces, in turns, several rounds; the median of each counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from rich.table import Table
from tests.bench import contenders
from tests.bench.busy import VERSIONS, Reads, held, stream
from tests.bench.contenders import Contender, Ours
from tests.bench.report import Report

ROUNDS = 5
CALLS: dict[Reads, int] = {"shipped": 500, "all": 250}
"""Some 15,000 events each."""
GROWTH = (1, 2, 4)
"""Times as many calls, for ours alone."""
IN_PROGRESS = (10, 100, 1_000, 10_000)
PIECE = 16 * 1024
"""Bytes; what one read of a busy socket gives."""
STOCK = "panoramisk 1.4"
OURS = "crmbridge: reader and tracker"


def main(report: Report) -> None:
    """Measure, and report."""
    rivals: dict[str, Contender] = {
        "bare socket read": contenders.bare_read,
        "cut frames only": contenders.cut_only,
        OURS: contenders.ours,
        STOCK: contenders.panoramisk,
    }
    if contenders.has_pyami_asterisk():
        rivals["pyami-asterisk 1.5.2"] = contenders.pyami_asterisk
    else:
        report.say("pyami-asterisk can't be had here, and is left out")
    streams = {f"{version}, {reads}": stream(version, reads, calls=CALLS[reads]) for version, reads in _kinds()}
    speeds = {name: _speeds(rivals, frames) for name, frames in streams.items()}
    table = Table("events a second", *(f"Asterisk {name}" for name in streams), title="AMI intake")
    for rival in rivals:
        shown = (f"{one[rival]:,.0f} ({one[rival] / one[STOCK]:.1f})" for one in speeds.values())
        table.add_row(rival, *shown)
    report.show(table)
    report.say(f"in brackets: times {STOCK}; medians of {ROUNDS} rounds in turns")
    growth = {reads: _growth(reads) for reads in ("shipped", "all")}
    in_progress = {count: _in_progress(count) for count in IN_PROGRESS}
    more = Table("microseconds an event", *(str(one) for one in (*GROWTH, *IN_PROGRESS)), title="How it grows")
    for reads, times in growth.items():
        more.add_row(f"times as many events, {reads}", *(f"{one:.2f}" for one in times), *[""] * len(IN_PROGRESS))
    more.add_row("calls in progress, shipped", *[""] * len(GROWTH), *(f"{one:.2f}" for one in in_progress.values()))
    report.show(more)
    report.keep(
        "intake",
        {
            "rounds": ROUNDS,
            "events": {name: len(frames) for name, frames in streams.items()},
            "per_s": speeds,
            "growth_us": {reads: dict(zip(GROWTH, times, strict=True)) for reads, times in growth.items()},
            "in_progress_us": in_progress,
        },
    )


def _kinds() -> list[tuple[str, Reads]]:
    return [(version, reads) for reads in ("shipped", "all") for version in VERSIONS]


def cut(frames: Sequence[bytes]) -> list[bytes]:
    """As a socket gives them: with no regard to where frames end."""
    raw = b"".join(frames)
    return [raw[at : at + PIECE] for at in range(0, len(raw), PIECE)]


def _speeds(rivals: Mapping[str, Contender], frames: Sequence[bytes]) -> dict[str, float]:
    """Events a second, by name."""
    pieces = cut(frames)
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(ROUNDS):
        for name, work in rivals.items():
            times[name].append(work(pieces))
    return {name: len(frames) / statistics.median(used) for name, used in times.items()}


def _growth(reads: Reads) -> list[float]:
    """Microseconds for an event of ever more calls."""
    most = stream("22", reads, calls=CALLS[reads] * GROWTH[-1])
    sizes = [len(most) * times // GROWTH[-1] for times in GROWTH]
    pieces = [cut(most[:size]) for size in sizes]
    rounds = [[contenders.ours(some) / size * 1e6 for some, size in zip(pieces, sizes, strict=True)] for _ in range(3)]
    return [statistics.median(one) for one in zip(*rounds, strict=True)]


def _in_progress(count: int) -> float:
    """Microseconds for an event while so many other calls go on."""
    both = Ours()
    for piece in cut(list(held("22", "shipped", calls=count, first=10**6))):
        both.take(piece)
    used = []
    for number in range(3):
        frames = stream("22", "shipped", calls=CALLS["shipped"], first=number * 10_000)
        began = both.told
        pieces = cut(frames)
        used.append(_timed(both, pieces) / len(frames) * 1e6)
        assert both.told > began
    assert len(both.tracker) >= 2 * count
    return statistics.median(used)


def _timed(both: Ours, pieces: Sequence[bytes]) -> float:
    began = time.process_time()
    for piece in pieces:
        both.take(piece)
    return time.process_time() - began

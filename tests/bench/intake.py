"""`make bench`, section `intake`: how fast recorded AMI bytes are taken in.

Beside it stand stock panoramisk and merely cutting frames. All are given the same bytes in the same pieces, in turns,
several rounds; the median of each and the ratios are printed. Ours includes the tracker, panoramisk only parses and
dispatches to one callback that does nothing.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from panoramisk import Manager
from panoramisk.ami_protocol import AMIProtocol
from rich.table import Table
from tests.bench.report import Report

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.tracker import Tracker
from crmbridge.config import PbxSettings
from crmbridge.demo.traces import shipped
from crmbridge.pbx.wire import FrameReader

ROUNDS = 7
COPIES = 4
PIECE = 16 * 1024
"""Bytes; what one read of a busy socket gives."""


def recorded() -> bytes:
    """All recorded calls one after another, some MB."""
    once = b"".join(frame for trace in shipped() for _, frame in trace.frames())
    ids = re.compile(rb"(?<=(?:niqueid|inkedid): )")
    return b"".join(ids.sub(b"%d-" % copy, once) for copy in range(COPIES))


def pieces(raw: bytes) -> list[bytes]:
    return [raw[at : at + PIECE] for at in range(0, len(raw), PIECE)]


def cut_only(raw: list[bytes]) -> int:
    """The limit: cut frames at their empty lines, and look at nothing."""
    rest, count = b"", 0
    for piece in raw:
        chunks = (rest + piece).split(b"\r\n\r\n")
        rest = chunks.pop()
        count += len(chunks)
    return count


def ours(raw: list[bytes]) -> int:
    """Frame reader and tracker, as in the daemon."""
    endpoints = Endpoints(extensions=r"[17]\d\d", inbound_contexts=PbxSettings().inbound_contexts)
    numbers = Numbers(region="IL", form="national", anonymous="anonymous")
    tracker = Tracker(pbx="pbx", endpoints=endpoints, clients=Clients("10"), caller=numbers.caller)
    reader = FrameReader(Tracker.EVENTS)
    told = 0
    for piece in raw:
        now = datetime.now(UTC)
        for frame in reader.feed(piece):
            told += len(tracker.handle(frame, now))
    return told


def panoramisk(raw: list[bytes]) -> int:
    """Stock panoramisk 1.4: parse, and dispatch every event to one callback."""
    count = 0

    def callback(_manager: object, _event: object) -> None:
        nonlocal count
        count += 1

    manager = Manager()
    manager.register_event("*", callback)
    protocol = AMIProtocol()
    protocol.connection_made(None)
    protocol.factory = manager
    for piece in raw:
        protocol.data_received(piece)
    return count


def seconds(work: Callable[[list[bytes]], int], raw: list[bytes]) -> float:
    """Of the processor, not of the clock on the wall: other programs run beside us."""
    began = time.process_time()
    work(raw)
    return time.process_time() - began


def main(report: Report) -> None:
    """Measure, and report."""
    raw = recorded()
    events, cut = raw.count(b"Event: "), pieces(raw)
    contenders = {"cut frames only": cut_only, "crmbridge: reader and tracker": ours, "panoramisk 1.4": panoramisk}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, work in contenders.items():
            times[name].append(seconds(work, cut))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    stock = medians["panoramisk 1.4"]
    table = Table("", "events/s", "ratio to panoramisk", title=f"AMI intake: {events} events, {len(raw) / 1e6:.1f} MB")
    for name, median in medians.items():
        table.add_row(name, f"{events / median:,.0f}", f"{stock / median:.1f}")
    report.show(table)
    report.say(f"median of {ROUNDS} rounds in turns")
    report.keep("intake", {name: events / median for name, median in medians.items()})

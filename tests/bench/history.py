"""`python -m tests.bench.history`: how many call records a second are read into lines, on one core.

Calls of all kinds, as the records of real Asterisks have them (tests/records), in a busy office's shares: each with
channels, times and a caller of its own. Numbers repeat as customers do; a million different ones are told apart.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from collections.abc import Callable
from datetime import timedelta

from tests.recorded import Recorded, as_cdr, history, recorded_calls

from crmbridge.calls.cdr import Cdr

SHARES = {
    "22/freepbx_did": 30,
    "22/freepbx_outbound": 22,
    "22/freepbx_queue": 12,
    "22/freepbx_queue_rings_again": 3,
    "22/freepbx_caller_gives_up": 6,
    "22/freepbx_ring_group": 8,
    "22/freepbx_voicemail": 4,
    "22/freepbx_internal": 8,
    "22/freepbx_blind_transfer": 2,
    "22/freepbx_followme_phone": 2,
    "22/freepbx_click_local": 3,
}
"""Of a hundred calls."""
NUMBERS = 1_000_000
APART_S = 3


def number(random_: random.Random) -> str:
    """A customer's: some call often, most seldom."""
    which = int(NUMBERS * random_.random() ** 3)
    return f"0{50 + which % 9}{which * 7919 % 10_000_000:07d}"


def varied(call: list[Cdr], nth: int, outside: str) -> list[Cdr]:
    """The same call at another time, of other channels."""
    mark = f"-{nth:08x}"

    def channel(name: str) -> str:
        stem, dash, rest = name.rpartition("-")
        return f"{stem}{mark}{rest[8:]}" if dash else name

    def party(text: str) -> str:
        return outside if text.startswith("0") and len(text) > 6 else text

    return [
        one._replace(
            linkedid=f"{one.linkedid}{mark}",
            uniqueid=f"{one.uniqueid}{mark}",
            channel=channel(one.channel),
            dstchannel=channel(one.dstchannel),
            src=party(one.src),
            dst=party(one.dst),
            start_at=one.start_at + timedelta(seconds=nth * APART_S),
        )
        for one in call
    ]


def calls(count: int, seed: int) -> list[list[Cdr]]:
    """So many calls, in a mixture."""
    random_, recorded = random.Random(seed), recorded_calls()
    models = {name: [as_cdr(row) for row in _whole(recorded[name])] for name in SHARES}
    names = random_.choices(list(SHARES), weights=list(SHARES.values()), k=count)
    return [varied(models[name], nth, number(random_)) for nth, name in enumerate(names)]


def _whole(one: Recorded) -> list[dict[str, str]]:
    return [dict(row) for row in one.rows]


def timed(work: Callable[[], int]) -> tuple[int, float]:
    """What it gives, and seconds of the processor."""
    began = time.process_time()
    made = work()
    return made, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    mixed = calls(asked.calls, asked.seed)
    rows = sum(map(len, mixed))
    reader = history(r"1\d\d", ("PJSIP/primario",))
    lines, took = timed(lambda: sum(len(reader.rows(call)) for call in mixed))
    print(f"{asked.calls:,} calls, {rows:,} records, {lines:,} lines: {rows / took:,.0f} records/s,")
    print(f"{took / rows * 1e6:.1f} µs a record, {took / asked.calls * 1e6:.1f} µs a call")
    for name in SHARES:
        some = [varied([as_cdr(row) for row in recorded_calls()[name].rows], nth, "0501234567") for nth in range(3000)]
        _, seconds = timed(lambda some=some: sum(len(reader.rows(call)) for call in some))  # type: ignore[misc]
        print(f"  {name:32} {seconds / 3000 * 1e6:6.1f} µs a call of {len(some[0])}")
    print(f"Python {platform.python_version()}, {platform.machine()}, one core")


if __name__ == "__main__":
    main()

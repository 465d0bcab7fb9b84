"""The soak of `make bench`, a short one: a thousand calls, and each is told as it must be."""

from __future__ import annotations

from pathlib import Path

from tests.bench.soak import soaked

CALLS = 1000
CUTS = 1
"""Of the session with the PBX, in the middle."""


async def test_a_thousand_calls_are_told_once_each_and_leave_nothing_open(tmp_path: Path) -> None:
    soak = await soaked(tmp_path, CALLS, cuts=CUTS)
    assert not soak.wrong
    assert soak.told == soak.due > CALLS
    assert soak.refused
    assert soak.failed
    assert soak.stored == soak.records > CALLS
    assert soak.sessions == 1 + CUTS
    assert [one.calls for one in soak.readings] == [tenth * CALLS // 10 for tenth in range(11)]
    first, *_, last = soak.readings[1:]  # from then on there are connections to the CRM
    assert last.descriptors <= first.descriptors
    assert last.threads <= first.threads

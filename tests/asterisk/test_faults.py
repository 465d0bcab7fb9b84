"""A bridge that is killed again and again under load; the long run is `make faults`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.asterisk import faults
from tests.asterisk.faults import ANSWER, RING, Call, kills
from tests.asterisk.lab.pbx import Pbx

from crmbridge.demo.receiver import Received

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.needs("asterisk", "sipp")
async def test_a_bridge_that_is_killed_under_load_tells_every_call_that_goes_on_once(pbx: Pbx, tmp_path: Path) -> None:
    report = await kills(pbx, tmp_path, per_s=5, seconds=8, times=3, seed=1)
    assert report.right, str(report)
    assert report.calls == 40
    assert report.must >= 40


def told(operation: str, number: str, key: str, at: float) -> tuple[Received, float]:
    target = f"/webservice.php?operation={operation}&sExt=777&sNumber={number}&ClientId=10"
    return Received(target, AT, {"Idempotency-Key": key}), at


CALL = Call("1", ringing=(1.0, 2.0), talking=(2.0, 4.0))
UP = [(0.0, 10.0), (11.0, 20.0)]


@pytest.mark.parametrize(
    ("received", "missing", "untrue", "twice", "doubled"),
    [
        ([told(RING, "1", "a", 1), told(ANSWER, "1", "b", 2)], 0, 0, 0, 0),
        ([told(RING, "1", "a", 1)], 1, 0, 0, 0),
        ([], 2, 0, 0, 0),
        ([told(RING, "1", "a", 1), told(ANSWER, "1", "b", 2), told(RING, "2", "c", 3)], 0, 1, 0, 0),
        ([told(RING, "1", "a", 9.5), told(RING, "1", "a", 12), told(ANSWER, "1", "b", 12)], 0, 0, 1, 0),
        ([told(RING, "1", "a", 5), told(RING, "1", "a", 12), told(ANSWER, "1", "b", 12)], 0, 0, 0, 1),
        ([told(RING, "1", "a", 9.5), told(RING, "1", "x", 12), told(ANSWER, "1", "b", 12)], 0, 0, 0, 1),
    ],
)
def test_the_judge_of_faults(
    received: list[tuple[Received, float]], missing: int, untrue: int, twice: int, doubled: int
) -> None:
    report = faults._judge([CALL], UP, [10.0], received)
    assert (len(report.missing), len(report.untrue), report.twice, len(report.doubled)) == (
        missing,
        untrue,
        twice,
        doubled,
    )
    assert report.right == (not missing and not untrue and not doubled)


def test_what_went_on_only_while_the_bridge_was_away_need_not_be_told() -> None:
    short = Call("1", ringing=(10.1, 10.5), talking=(10.5, 10.9))
    report = faults._judge([short], UP, [10.0], [])
    assert (report.must, report.missing) == (0, [])

"""A bridge under load that is killed, cut off and left alone by Asterisk; the long runs are `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.asterisk.faults.cuts import Fault, cuts
from tests.asterisk.faults.judge import ANSWER, RING, Call, Request, Sight, judge
from tests.asterisk.faults.kills import kills
from tests.asterisk.faults.restarts import restarts
from tests.asterisk.lab.pbx import Pbx

live = pytest.mark.needs("asterisk", "sipp")
alone = pytest.mark.alone
SHORT_S = {Fault.FREEZE: (1.0, 2.0), Fault.TRICKLE: (1.0, 2.0)}


@live
@alone
async def test_a_bridge_that_is_killed_under_load_tells_every_call_that_goes_on_once(pbx: Pbx, tmp_path: Path) -> None:
    killed = await kills(pbx, tmp_path, per_s=5, seconds=8, times=3, seed=1)
    assert not killed.broken
    assert killed.report.calls == 40
    assert killed.report.must >= 40


@live
@alone
async def test_a_connection_that_is_cut_frozen_and_slowed_loses_no_call(pbx: Pbx, tmp_path: Path) -> None:
    result = await cuts(pbx, tmp_path, per_s=5, times=6, bridges=2, seed=1, lasts_s=SHORT_S)
    assert not result.broken
    for outcome in result.outcomes:
        assert outcome.watched.faults == {Fault.CUT: 1, Fault.FREEZE: 1, Fault.TRICKLE: 1}
        assert outcome.watched.bridge.count("ami.connected") >= 2
        assert outcome.report.must > 0


@live
@alone
async def test_calls_after_a_restart_of_asterisk_are_told(pbx: Pbx, tmp_path: Path) -> None:
    result = await restarts(pbx, tmp_path, per_s=5, times=1, seed=1)
    assert not result.broken
    assert result.bridge.count("ami.connected") == 2
    assert result.report.must > 0


def told(operation: str, key: str, at: float, *, number: str = "1", accepted: bool = True) -> Request:
    return Request(number, operation, key, at, accepted)


CALL = Call("1", ringing=(1.0, 2.0), talking=(2.0, 4.0))
SIGHT = Sight([(0.0, 10.0), (11.0, 20.0)])


@pytest.mark.parametrize(
    ("requests", "broken", "twice"),
    [
        ([told(RING, "a", 1), told(ANSWER, "b", 2)], [], 0),
        ([told(RING, "a", 1)], ["missing"], 0),
        ([], ["missing", "missing"], 0),
        ([told(RING, "a", 1), told(ANSWER, "b", 2), told(RING, "c", 3, number="2")], ["untrue"], 0),
        ([told(RING, "a", 5.9), told(RING, "a", 6.2), told(ANSWER, "b", 6.3)], [], 1),
        ([told(RING, "a", 1), told(RING, "a", 6.2), told(ANSWER, "b", 6.3)], ["doubled"], 0),
        ([told(RING, "a", 5.9), told(RING, "x", 6.2), told(ANSWER, "b", 6.3)], ["doubled"], 0),
        ([told(RING, "a", 1, accepted=False), told(RING, "a", 2), told(ANSWER, "b", 2.1)], [], 0),
        ([told(RING, "a", 1, accepted=False), told(RING, "x", 2), told(ANSWER, "b", 2.1)], ["doubled"], 0),
        ([told(RING, "a", 1, accepted=False), told(ANSWER, "b", 2)], ["missing"], 0),
        ([told(ANSWER, "b", 2), told(RING, "a", 3)], ["out of order"], 0),
        ([told(RING, "a", 1), told(ANSWER, "b", 9)], ["late"], 0),
    ],
)
def test_the_judge_of_faults(requests: list[Request], broken: list[str], twice: int) -> None:
    report = judge([CALL], SIGHT, requests, killed=[6.0])
    assert [one.partition(":")[0] for one in report.broken] == broken
    assert report.twice == twice


@pytest.mark.parametrize(("key", "until", "broken"), [("a", 5.0, []), ("x", 5.0, ["doubled"]), ("a", 0.9, ["doubled"])])
def test_where_bridges_could_not_agree_what_comes_again_has_the_same_key(
    key: str, until: float, broken: list[str]
) -> None:
    """And a ring may come again after the answer, as each bridge has an order of its own."""
    requests = [told(RING, "a", 1), told(ANSWER, "b", 2), told(RING, key, 2.5)]
    report = judge([CALL], SIGHT, requests, unclaimed=[(0.5, until)])
    found = [one.partition(":")[0] for one in report.broken]
    assert [one for one in found if one != "out of order"] == broken
    assert ("out of order" in found) == (until < 1)
    assert report.twice == (not broken)


def test_what_went_on_only_while_the_bridge_saw_nothing_need_not_be_told() -> None:
    short = Call("1", ringing=(10.1, 10.5), talking=(10.5, 10.9))
    assert judge([short], SIGHT, []).must == 0


@pytest.mark.parametrize("handed", [[(0.5, 0.5), (1.0, 9.0), (2.0, 9.5)], [(0.99, 0.99), (1.01, 9.0), (2.01, 9.5)]])
def test_what_the_way_between_held_back_is_not_late(handed: list[tuple[float, float]]) -> None:
    """Be it that it was held back just after something else was let through."""
    slow = Sight([(0.0, 20.0)], handed=handed)
    report = judge([CALL], slow, [told(RING, "a", 9.1), told(ANSWER, "b", 9.6)])
    assert report.right, str(report)
    assert max(report.delays) < 0.2

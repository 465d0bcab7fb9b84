"""Wall times of the PBX's clock as instants, about its changes above all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.wall_time import WallTime, seconds

JERUSALEM = ZoneInfo("Asia/Jerusalem")
ZONES = ("Asia/Jerusalem", "UTC", "Europe/Berlin", "America/St_Johns", "Africa/Casablanca", "Australia/Lord_Howe")
BACK = datetime(2026, 10, 24, 23, tzinfo=UTC)
"""At 02:00 the clock in Jerusalem was set back to 01:00."""


def shown(at: datetime, zone: ZoneInfo = JERUSALEM) -> int:
    """What the clock shows then, in seconds as if it were UTC."""
    return int(at.astimezone(zone).replace(tzinfo=UTC).timestamp())


def test_the_hour_that_comes_twice_is_settled_by_the_id() -> None:
    first, second = BACK - timedelta(minutes=30), BACK + timedelta(minutes=30)
    assert shown(first) == shown(second) == seconds("2026-10-25 01:30:00")
    wall_time = WallTime(JERUSALEM)
    for at in (first, second):
        assert wall_time.epoch(shown(at), int(at.timestamp())) == at.timestamp()
    assert wall_time.epoch(shown(second)) == first.timestamp(), "nothing tells: the first"
    # An answered call's next record begins long after its channel was made.
    assert wall_time.epoch(shown(second), int(first.timestamp()) + 600) == second.timestamp()


@given(epoch=st.integers(946684800, 2051222400), zone=st.sampled_from(ZONES))
def test_every_instant_comes_back(epoch: int, zone: str) -> None:
    instant = datetime.fromtimestamp(epoch, UTC)
    wall_time = WallTime(ZoneInfo(zone))
    wall = shown(instant, ZoneInfo(zone))
    assert wall_time.epoch(wall, epoch) == epoch
    assert epoch in wall_time.both(wall)
    steady = wall_time.steady(wall)
    assert steady is None or wall - steady == epoch


@pytest.mark.parametrize("zone", ZONES)
def test_a_reach_shows_all_that_happens_in_it(zone: str) -> None:
    wall_time = WallTime(ZoneInfo(zone))
    start = datetime(2026, 10, 23, tzinfo=UTC)
    instants = [start + timedelta(minutes=20 * n) for n in range(72 * 4)]
    walls = [shown(at, ZoneInfo(zone)) for at in instants]
    for n in range(0, len(instants), 13):
        for m in range(n + 1, len(instants), 17):
            since, until = wall_time.reach(int(instants[n].timestamp()), int(instants[m].timestamp()))
            assert all(since <= wall < until for wall in walls[n:m])


def test_far_from_a_change_nothing_is_added_to_a_reach() -> None:
    since, until = datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 7, 2, tzinfo=UTC)
    reach = WallTime(JERUSALEM).reach(int(since.timestamp()), int(until.timestamp()))
    assert reach == (shown(since), shown(until))


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01 00:00:00"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|month"):
        seconds(text)

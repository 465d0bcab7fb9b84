"""Who counts as alive, and the line that tells the state."""

from __future__ import annotations

import pytest

from crmbridge.liveness import NOTHING_UNDER_WAY, Pulses, status


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_part_is_alive_until_it_is_overdue_and_again_when_it_is_heard_from() -> None:
    clock = Clock()
    pulses = Pulses(clock)
    sender, intake = pulses.of("sender"), pulses.of("intake")
    sender(10)
    intake(20)
    clock.now += 10
    assert pulses.late() == []
    clock.now += 0.1
    assert pulses.late() == ["sender"]
    clock.now += 10
    assert pulses.late() == ["intake", "sender"]
    sender(10)
    assert pulses.late() == ["intake"]


def test_what_waits_for_work_and_what_has_not_begun_is_not_late() -> None:
    clock = Clock()
    pulses = Pulses(clock)
    intake = pulses.of("intake")
    intake(1)
    intake(NOTHING_UNDER_WAY)
    pulses.of("ami")
    clock.now += 1e9
    assert pulses.late() == []


def test_a_longer_promise_replaces_a_shorter_one() -> None:
    """A pause before the next attempt: as long as it is, nobody hangs."""
    clock = Clock()
    pulses = Pulses(clock)
    ami = pulses.of("ami")
    ami(15)
    ami(900)
    clock.now += 899
    assert pulses.late() == []


@pytest.mark.parametrize(
    ("connected", "calls", "waiting", "troubles", "line"),
    [
        ([True], 3, 0, [], "AMI connected, 3 calls, 0 waiting"),
        ([True], 1, 2, [], "AMI connected, 1 call, 2 waiting"),
        ([False], 0, 7, ["CRM does not answer"], "AMI not connected, 0 calls, 7 waiting, CRM does not answer"),
        ([True, False, True], 3, 0, [], "2 of 3 PBXes connected, 3 calls, 0 waiting"),
    ],
)
def test_the_state_in_one_line(connected: list[bool], calls: int, waiting: int, troubles: list[str], line: str) -> None:
    assert status(connected=connected, calls=calls, waiting=waiting, troubles=troubles) == line

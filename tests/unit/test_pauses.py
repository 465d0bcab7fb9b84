"""How long the AMI session waits before it tries again."""

from __future__ import annotations

import pytest

from crmbridge.pbx.pauses import Pauses, Timing

TIMING = Timing()
FIND_TIME_S, MAX_FAILURES, FAILURES_OF_A_LOGIN = 600, 5, 3
"""fail2ban's own defaults (config/jail.conf; its asterisk jail has 10 failures), and how many lines of one refused
login its filter finds at most (docs/decisions.md)."""


def test_pauses_grow_to_the_longest() -> None:
    pauses = Pauses(TIMING, lambda: 1.0)
    assert [pauses.after(held_s=0) for _ in range(9)] == [0.5, 1, 2, 4, 5, 5, 5, 5, 5]


def test_pauses_are_spread_but_never_shorter_than_half() -> None:
    assert Pauses(TIMING, lambda: 0.0).after(held_s=0) == 0.25
    assert Pauses(TIMING, lambda: 0.5).after(held_s=0) == 0.375


@pytest.mark.parametrize(("held_s", "expected"), [(1, 4), (60, 4), (60.1, 0.5)])
def test_they_begin_anew_only_after_a_session_that_held(held_s: float, expected: float) -> None:
    pauses = Pauses(TIMING, lambda: 1.0)
    for _ in range(3):
        pauses.after(held_s=0)
    assert pauses.after(held_s=held_s) == expected


def test_refused_logins_stay_below_what_gets_an_address_banned() -> None:
    pauses = Pauses(TIMING, lambda: 0.0)
    at, failures = 0.0, []
    for _ in range(100):
        failures += [at] * FAILURES_OF_A_LOGIN
        at += pauses.after(held_s=0, refused=True)
    for failure in failures:
        within = [other for other in failures if failure <= other <= failure + FIND_TIME_S]
        assert len(within) < MAX_FAILURES


def test_a_refusal_is_no_reason_to_begin_anew() -> None:
    pauses = Pauses(TIMING, lambda: 1.0)
    pauses.after(held_s=0)
    assert pauses.after(held_s=0, refused=True) == pytest.approx(990)
    assert pauses.after(held_s=0) == 1


def test_a_connection_that_only_looks_open_is_ended_within_15_seconds() -> None:
    """After at most one pause between pings, and the wait for one answer (Connection.keep_alive)."""
    assert 2 * TIMING.ping_s <= 15

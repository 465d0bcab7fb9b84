"""When a callback is tried again, and when the CRM as a whole is left alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.events import Kind
from crmbridge.crm.retry import (
    BREAKER_FAILURES,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_PROBE_PAUSE_S,
    LONGEST_RETRY_AFTER_S,
    Breaker,
    Phase,
    Policy,
    pause_s,
    retry_after_s,
)

NOW = datetime(2024, 3, 29, 12, 0, 0, tzinfo=UTC)


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause_s(tries, 0.0) for tries in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(st.integers(-5, 10**9), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_away_up_to_half(tries: int, jitter: float) -> None:
    whole = pause_s(tries, 0.0)
    assert FIRST_PAUSE_S <= whole <= LONGEST_PAUSE_S
    assert whole / 2 <= pause_s(tries, jitter) <= whole


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("0", None),
        ("120", 120),
        (" 7 ", 7),
        ("86400", LONGEST_RETRY_AFTER_S),
        ("9" * 5000, LONGEST_RETRY_AFTER_S),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Fri, 29 Mar 2024 12:00:30 GMT", 30),
        ("Fri, 29 Mar 2024 11:59:00 GMT", None),
        ("Fri, 29 Mar 2999 12:00:00 GMT", LONGEST_RETRY_AFTER_S),
        ("Fri, 29 Mar 2024 12:00:30", 30),
        ("Fri, 99 Mar 2024 99:00:30 GMT", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header, NOW) == expected


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Fri, 29 Mar 2024 13:00:00 GMT", 30),
        ("Fri, 29 Mar 2024 14:00:00 +0100", 30),
        (None, LONGEST_RETRY_AFTER_S),
        ("some time ago", LONGEST_RETRY_AFTER_S),
    ],
)
def test_a_date_is_told_by_the_crms_clock(date: str | None, expected: float) -> None:
    """Which is an hour ahead of ours here."""
    assert retry_after_s("Fri, 29 Mar 2024 13:00:30 GMT", NOW, date) == expected


@given(st.text())
def test_no_retry_after_raises(header: str) -> None:
    seconds = retry_after_s(header, NOW)
    assert seconds is None or 0 < seconds <= LONGEST_RETRY_AFTER_S


def test_life_by_kind() -> None:
    policy = Policy(ring_expires_s=60, answer_expires_s=3600)
    assert policy.life_s(Kind.RING) == 60
    assert policy.life_s(Kind.ANSWER) == 3600


def opened(now: float = 100.0) -> Breaker:
    breaker = Breaker()
    for callback in range(BREAKER_FAILURES):
        breaker = breaker.failed_with(callback, now, jitter=0.0)
    return breaker


def test_it_opens_after_different_callbacks_failed_one_after_the_other() -> None:
    breaker = Breaker()
    for callback in range(BREAKER_FAILURES - 1):
        breaker = breaker.sending(callback).failed_with(callback, 100, 0.0)
        assert breaker.phase is Phase.CLOSED
    breaker = breaker.failed_with(99, 100, 0.0)
    assert breaker.phase is Phase.OPEN
    assert not breaker.may_send(100.4)
    assert breaker.may_send(100.5)


def test_one_callback_that_always_fails_does_not_open_it() -> None:
    breaker = Breaker()
    for _ in range(50):
        breaker = breaker.failed_with(7, 100, 0.0)
    assert breaker.phase is Phase.CLOSED


def test_a_success_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker()
    for callback in range(20):
        breaker = breaker.failed_with(callback, 100, 0.0)
        if callback % 2:
            breaker = breaker.alive()
    assert breaker.phase is Phase.CLOSED


def test_one_probe_at_a_time() -> None:
    probing = opened().sending(42)
    assert probing.phase is Phase.PROBING
    assert not probing.may_send(10**6)


def test_a_probe_that_gets_through_closes_it() -> None:
    assert opened().sending(42).alive() == Breaker()


def test_probes_that_fail_come_further_apart_up_to_the_longest_pause() -> None:
    breaker, now, pauses = opened(now=0.0), 0.0, []
    for _ in range(6):
        pauses.append(breaker.until - now)
        now = breaker.until
        breaker = breaker.sending(42).failed_with(42, now, 0.0)
    assert pauses == [0.5, 1, 2, 4, LONGEST_PROBE_PAUSE_S, LONGEST_PROBE_PAUSE_S]


def test_a_straggler_that_fails_does_not_end_the_probe() -> None:
    probing = opened().sending(42)
    assert probing.failed_with(3, 200, 0.0).phase is Phase.PROBING


def test_a_straggler_that_gets_through_closes_it() -> None:
    assert opened().alive().phase is Phase.CLOSED


def test_retry_after_opens_it_at_once_and_for_so_long() -> None:
    breaker = Breaker().failed_with(1, 100, 0.0, retry_after_s=30)
    assert breaker.phase is Phase.OPEN
    assert not breaker.may_send(129)
    assert breaker.may_send(130)
    longer = breaker.failed_with(2, 101, 0.0, retry_after_s=60)
    assert not longer.may_send(160)
    assert longer.may_send(161)


def test_a_probe_given_up_lets_another_go() -> None:
    probing = opened().sending(42)
    assert probing.abandoned(3) == probing
    assert probing.abandoned(42).may_send(101)
    assert Breaker().abandoned(42) == Breaker()

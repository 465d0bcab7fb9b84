"""Failed logins: what each address must wait, and what is remembered."""

from __future__ import annotations

import sys
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.web.attempts import FORGIVEN_S, FREE, LONGEST_S, Attempts

ONE, OTHER = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def failed(attempts: Attempts, times: int, now_s: float = 0.0) -> None:
    for _ in range(times):
        attempts.failed(ONE, now_s)


def test_the_first_failures_cost_nothing_and_each_further_one_twice_as_much() -> None:
    attempts = Attempts()
    now_s, pauses = 0.0, []
    for _ in range(FREE + 9):
        pauses.append(attempts.failed(ONE, now_s))
        now_s += attempts.wait_s(ONE, now_s)
    assert pauses == [0] * FREE + [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_pause_ends() -> None:
    attempts = Attempts()
    failed(attempts, FREE + 3)
    assert attempts.wait_s(ONE, 0) == 4
    assert attempts.wait_s(ONE, 3.5) == 0.5
    assert attempts.wait_s(ONE, 4) == 0


def test_addresses_do_not_touch_one_another() -> None:
    attempts = Attempts()
    failed(attempts, 100)
    assert attempts.wait_s(ONE, 0) == LONGEST_S
    assert attempts.wait_s(OTHER, 0) == 0
    assert attempts.failed(OTHER, 0) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("0.0.0.1", "::1:0:0:0:1", False),
    ],
)
def test_an_ipv6_network_of_64_bits_is_one_address(one: str, other: str, same: bool) -> None:
    attempts = Attempts()
    for _ in range(FREE + 1):
        attempts.failed(ip_address(one), 0)
    assert (attempts.wait_s(ip_address(other), 0) > 0) is same


def test_quiet_is_forgiven_bit_by_bit_and_a_right_login_forgives_nothing() -> None:
    attempts = Attempts()
    failed(attempts, FREE)
    assert attempts.failed(ONE, FORGIVEN_S) == 0, "one was forgiven meanwhile"
    assert attempts.failed(ONE, FORGIVEN_S) == 1
    failed(attempts, 100, FORGIVEN_S)
    later_s = FORGIVEN_S + LONGEST_S + (FREE + 7) * FORGIVEN_S
    assert attempts.failed(OTHER, later_s) == 0
    assert len(attempts) == 1, "the first one is forgotten"
    assert attempts.failed(ONE, later_s) == 0


def test_guesses_in_a_day_are_few() -> None:
    attempts = Attempts()
    now_s, guesses = 0.0, 0
    while now_s < 86_400:
        attempts.failed(ONE, now_s)
        guesses += 1
        now_s += attempts.wait_s(ONE, now_s)
    assert guesses < 1_500


def test_what_is_remembered_is_bounded() -> None:
    attempts = Attempts(most=100)
    for number in range(5_000):
        attempts.failed(ip_address(number << 64 | 1 << 120), 0)
    assert len(attempts) == 100
    assert sys.getsizeof(attempts._failures) < 30_000


@given(st.lists(st.tuples(st.sampled_from([ONE, OTHER]), st.floats(0, 200)), max_size=60))
def test_whatever_happens(failures: list[tuple[object, float]]) -> None:
    attempts = Attempts()
    now_s = 0.0
    for client, later_s in failures:
        assert client in (ONE, OTHER)
        now_s += later_s
        pause_s = attempts.failed(client, now_s)  # type: ignore[arg-type]  # one of the two
        assert 0 <= pause_s <= LONGEST_S
        assert attempts.wait_s(client, now_s) == pytest.approx(pause_s)  # type: ignore[arg-type]
        assert attempts.wait_s(client, now_s + LONGEST_S) == 0  # type: ignore[arg-type]

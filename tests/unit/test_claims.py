"""Claims: what a row means, and that of two bridges, in whatever order they act, one may send and one does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.claims import (
    FREE,
    PLACED,
    Held,
    Insert,
    Row,
    Step,
    Take,
    Told,
    Watch,
    judge_click,
    of_callback,
    of_click,
)
from crmbridge.calls.events import CallEvent, Kind
from crmbridge.crm.callback import idempotency_key

AT = datetime(2026, 11, 28, tzinfo=UTC)
EVENT = CallEvent(Kind.RING, "haifa", "1.1", "777", "033004799", "10", AT, "1.1", "1.2")
LEASE_S = 2.0
ROW = Row("two", 22, 1, "", 0.0)


def watch() -> Watch:
    return Watch("one", 11, LEASE_S)


def test_a_callbacks_claim_is_known_by_its_idempotency_key() -> None:
    assert of_callback(EVENT.key) == idempotency_key(EVENT)


def test_what_was_queued_again_by_hand_is_another_matter_than_before() -> None:
    keys = [of_callback(EVENT.key, at) for at in (None, AT, AT.replace(microsecond=1))]
    assert len(set(keys)) == 3
    assert of_callback(EVENT.key, AT) == of_callback(EVENT.key, AT)
    assert all(len(key) == 32 for key in keys)


ODD = st.text(max_size=5)


@given(st.tuples(ODD, ODD, ODD), st.tuples(ODD, ODD, ODD))
def test_other_clicks_have_other_keys(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (of_click(*one) == of_click(*other)) == (one == other)
    assert of_click(*one) != of_callback((*other, "incomingCall"))


def test_nobodys_is_inserted_and_what_is_free_or_ours_taken() -> None:
    assert watch().judge("k", None, 0) == Insert()
    assert watch().judge("k", replace(ROW, token=FREE, version=5), 0) == Take(5)
    assert watch().judge("k", replace(ROW, bridge="one", token=11, version=5), 0) == Take(5), "for another lease"


def test_a_restart_of_ours_waits_for_the_lease_of_the_one_before() -> None:
    assert isinstance(watch().judge("k", replace(ROW, bridge="one", token=10), 0), Held)


def test_what_is_told_says_by_whom() -> None:
    assert watch().judge("k", replace(ROW, told="confirmed"), 0) == Told("two", "confirmed", by_us=False)
    assert watch().judge("k", replace(ROW, bridge="one", told="refused"), 0) == Told("one", "refused", by_us=True)


def test_another_bridges_is_taken_over_when_its_version_stood_for_a_lease() -> None:
    one = watch()
    assert one.judge("k", ROW, 100.0) == Held("two", 100.5)
    assert one.judge("k", ROW, 101.8) == Held("two", 102.0), "not later than the lease ends"
    assert one.judge("k", replace(ROW, version=2), 101.9) == Held("two", 102.4), "it was renewed"
    assert one.judge("k", replace(ROW, version=2), 103.8) == Held("two", 103.9)
    assert one.judge("k", replace(ROW, version=2), 103.9) == Take(2, over="two")


def test_looking_changes_nothing() -> None:
    one = watch()
    assert one.look(None, 5.0) == Held("", 5.0)
    assert one.look(ROW, 5.0) == Held("two", 5.0)
    assert one.look(replace(ROW, told="confirmed"), 5.0) == Told("two", "confirmed", by_us=False)
    assert len(one) == 0


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    one = watch()
    one.judge("old", ROW, 0)
    one.judge("new", ROW, 50)
    one.forget(50)
    assert len(one) == 1
    assert one.judge("old", ROW, 60) == Held("two", 60.5)


@pytest.mark.parametrize(
    ("row", "step"),
    [
        (None, Insert()),
        (replace(ROW, age_s=19.9), Held("two", 7.0)),
        (replace(ROW, age_s=20.0), Take(1, over="two")),
        (replace(ROW, told=PLACED, age_s=9.9), Told("two", PLACED, by_us=False)),
        (replace(ROW, told=PLACED, age_s=10.0), Take(1)),
        (replace(ROW, told="originate_unknown", age_s=9.9), Told("two", "originate_unknown", by_us=False)),
        (replace(ROW, told="originate_failed", age_s=0.1), Take(1)),
        (replace(ROW, token=11, age_s=0.1), Take(1)),
        (replace(ROW, token=FREE), Take(1)),
    ],
)
def test_clicks(row: Row | None, step: Step) -> None:
    again = {"originate_failed", "pbx_not_connected"}
    assert judge_click(row, 7.0, token=11, window_s=10, placing_s=20, again=again) == step


# Two bridges and one row, in any order


@dataclass
class Shared:
    """The row as the database has it: each change is made where the version still is the one that was seen."""

    row: Row | None = None
    sent: int = 0
    told: int = 0


@dataclass
class Bridge:
    """One bridge as a sequence of moments, between any two of which others may act, or it may be stopped for a while.

    Its clock begins anywhere. `until`: of its right to send. It never sends but right after a look at its clock.
    """

    name: str
    token: int
    shared: Shared
    others: list[Bridge] = field(default_factory=list)
    clock: float = 0.0
    until: float = float("-inf")
    is_done: bool = False
    is_dead: bool = False
    doubled: int = 0
    _life: Iterator[None] | None = None

    def step(self) -> None:
        if not self.is_dead and not self.is_done:
            self._life = self._life or self._lives()
            next(self._life)

    def _lives(self) -> Iterator[None]:
        sees = Watch(self.name, self.token, LEASE_S)
        while True:
            asked = self.clock
            yield  # on its way to the database
            row = self.shared.row
            yield  # and back
            step = sees.judge("k", row, self.clock)
            yield
            if isinstance(step, Told):
                self.is_done = True
                yield
            if isinstance(step, Held) or not self._changed(row, step):
                yield
                continue
            self.until = asked + LEASE_S
            yield  # the commit's answer is on its way
            if self.clock < self.until:
                self._send()
                yield  # the CRM's answer is on its way
                assert self.shared.row is not None
                self.shared.row = Row(self.name, self.token, self.shared.row.version + 1, "confirmed", 0)
                self.until = float("-inf")
                self.is_done = True
            yield

    def _changed(self, row: Row | None, step: Step) -> bool:
        """Compare and set."""
        if self.shared.row is not row:
            return False
        version = step.version + 1 if isinstance(step, Take) else 1
        self.shared.row = Row(self.name, self.token, version, "", 0)
        return True

    def _send(self) -> None:
        self.shared.sent += 1
        assert all(other.clock >= other.until or other.is_dead for other in self.others), "two may send at once"


MOVES = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.01, 0.3, 1.0, 2.5])), max_size=120)


@given(MOVES, st.floats(0, 1e6), st.one_of(st.none(), st.integers(0, 60)))
def test_of_two_bridges_never_may_both_send_and_one_always_does(
    moves: list[tuple[int, float]], offset: float, dies: int | None
) -> None:
    """`dies`: the move at which the first one is killed."""
    shared = Shared()
    one, two = Bridge("one", 11, shared), Bridge("two", 22, shared, clock=offset)
    one.others, two.others = [two], [one]
    for number, (who, passed_s) in enumerate(moves):
        one.is_dead = one.is_dead or number == dies
        one.clock += passed_s  # for both alike: who isn't asked to step is frozen
        two.clock += passed_s
        (one, two)[who].step()
    for _ in range(200):  # and now it goes on as usual
        for bridge in (one, two):
            bridge.clock += 0.02
            bridge.step()
    living = [bridge for bridge in (one, two) if not bridge.is_dead]
    assert all(bridge.is_done for bridge in living), "one of them gave up, or waits for ever"
    assert shared.row is not None
    assert shared.row.told == "confirmed"
    assert shared.sent >= 1

"""Which log lines are held back, and that none is lost to the count."""

from __future__ import annotations

import random

import pytest

from crmbridge.repetition import AT_ONCE, EVERY_S, MOST, MOST_ABOUT, Kind, Repetition, kind_of

SAME = Kind("same")


def admitted(repetition: Repetition[int], kind: Kind, times: list[float]) -> list[tuple[float, int]]:
    """When a line was written, and how many were held back before it."""
    told = [(at, repetition.admit(kind, at, lambda at=at: int(at))) for at in times]  # type: ignore[misc]  # mypy and defaults
    return [(at, held) for at, held in told if held is not None]


def test_the_first_are_written_as_they_come_then_one_a_minute_with_the_count() -> None:
    repetition = Repetition[int]()
    written = admitted(repetition, SAME, [float(at) for at in range(200)])
    assert written[:AT_ONCE] == [(float(at), 0) for at in range(AT_ONCE)]
    assert written[AT_ONCE:] == [(60.0, 40), (120.0, 59), (180.0, 59)]
    assert repetition.due(230.0) == []
    assert repetition.due(240.0) == [(199, 18)], "the nineteenth is the line itself"
    assert repetition.due(10_000.0) == repetition.rest(10_000.0) == []
    assert repetition.held_back == 200 - AT_ONCE - 3


def test_at_the_end_all_that_was_held_back_is_told() -> None:
    repetition = Repetition[int]()
    admitted(repetition, SAME, [0.0] * AT_ONCE + [1.0, 2.0, 3.0])
    assert repetition.due(4.0) == []
    assert repetition.rest(4.0) == [(3, 2)]


def test_quiet_gives_the_first_ones_back() -> None:
    repetition = Repetition[int]()
    admitted(repetition, SAME, [0.0] * AT_ONCE)
    after = AT_ONCE * EVERY_S
    assert len(admitted(repetition, SAME, [after] * 100)) == AT_ONCE


def test_different_kinds_do_not_touch_one_another() -> None:
    repetition = Repetition[int]()
    admitted(repetition, SAME, [0.0] * 100)
    assert admitted(repetition, Kind("other"), [0.0]) == [(0.0, 0)]


def test_a_flood_of_different_ones_is_one_kind_after_a_hundred() -> None:
    repetition = Repetition[int]()
    written = sum(len(admitted(repetition, Kind("refused", str(one)), [0.0])) for one in range(10_000))
    assert written == MOST_ABOUT + AT_ONCE
    assert len(repetition) == MOST_ABOUT + 1
    (told,) = repetition.rest(1.0)
    assert told[1] + 1 + written == 10_000


def test_memory_is_bounded_and_what_is_forced_out_is_told() -> None:
    repetition = Repetition[int]()
    admitted(repetition, SAME, [0.0] * (AT_ONCE + 5))
    for one in range(2 * MOST):
        repetition.admit(Kind("call", one, floods=False), 1.0, lambda: 0)
    assert len(repetition) <= MOST
    assert repetition.due(2.0) == [(0, 4)]


def test_what_is_quiet_is_forgotten() -> None:
    repetition = Repetition[int]()
    admitted(repetition, SAME, [0.0])
    admitted(repetition, Kind("other"), [EVERY_S + 1])
    assert len(repetition) == 1


@pytest.mark.parametrize("seed", range(20))
def test_lines_and_counts_are_together_all_there_were(seed: int) -> None:
    dice = random.Random(seed)
    repetition = Repetition[int]()
    now, all_there_were, told = 0.0, 0, 0
    for _ in range(3000):
        now += dice.choice((0.0, 0.1, 5.0, 100.0 if dice.random() < 0.02 else 0.0))
        if dice.random() < 0.02:
            told += sum(1 + more for _, more in repetition.due(now))
        all_there_were += 1
        held = repetition.admit(Kind(dice.randrange(3), dice.randrange(200)), now, lambda: 0)
        told += 0 if held is None else 1 + held
    assert told < all_there_were or not repetition.held_back
    assert told + sum(1 + more for _, more in repetition.rest(now)) == all_there_were


def line(event: str, **fields: object) -> dict[str, object]:
    return {"event": event, "logger": "crmbridge.x", **fields}


@pytest.mark.parametrize(
    ("level", "one", "other", "is_same"),
    [
        ("warning", line("crm.retrying", linkedid="1.1"), line("crm.retrying", linkedid="1.2"), True),
        ("warning", line("http.login_failed", address="a"), line("http.login_failed", address="b"), False),
        ("warning", line("http.login_failed", address="a", pause_s=1.0), line("http.login_failed", address="a"), True),
        ("error", line("intake.event_failed", frame={1: 2}), line("intake.event_failed", frame={}), True),
        ("warning", line("pbx.unknown_line", endpoint="a"), line("pbx.unknown_line", endpoint="b"), False),
        ("info", line("http.request", path="/a", status=200), line("http.request", path="/b", status=200), False),
        ("info", line("http.request", path="/a", status=403), line("http.request", path="/b", status=403), True),
        ("info", line("http.request", status=404), line("http.request", status=403), False),
        ("info", line("http.tls_failed", address="a", reason="x"), line("http.tls_failed", address="a"), True),
        ("error", line("cdr.source_away", pbx="haifa"), line("cdr.source_away", pbx="eilat"), False),
        ("info", line("outbox.pruned", records=1), line("outbox.pruned", records=2), True),
        ("debug", line("phones.state", device="a"), line("phones.state", device="b"), False),
    ],
)
def test_which_lines_are_the_same(level: str, one: dict[str, object], other: dict[str, object], is_same: bool) -> None:
    assert (kind_of(level, one) == kind_of(level, other)) == is_same


@pytest.mark.parametrize(
    ("level", "one"),
    [
        ("info", line("call.rings", linkedid="1.1")),
        ("info", line("dialer.placed", click="crm-1")),
        ("warning", line("crm.refused", linkedid="1.1")),
        ("warning", line("crm.expired", linkedid="1.1")),
        ("info", line("ami.connected")),
        ("warning", line("ami.lost")),
    ],
)
def test_what_happens_to_a_call_is_never_held_back(level: str, one: dict[str, object]) -> None:
    assert kind_of(level, one) is None

"""What is stored is found by these ids: they may never become others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from crmbridge.calls.history import CallRow
from crmbridge.calls.identity import lines, number_id

AT = datetime(2026, 11, 23, 8, tzinfo=UTC)
ROW = CallRow("pbx", "1795413101.1", "10", "777", "033004799", "+97233004799", AT, 5, "a.wav", incoming=True)


def test_ids_stay_what_they_were() -> None:
    assert number_id("033004799", "+97233004799") == 2_880_979_659_132_301_543
    assert lines([ROW]) == [(3_522_272_088_905_033_467, ROW)]
    assert number_id("דנה", "") == 3_277_318_646_586_200_324


def test_ids_fit_into_a_column_with_a_sign() -> None:
    assert all(0 <= number_id(str(n), "") < 1 << 63 for n in range(1000))
    assert len({number_id(str(n), "") for n in range(1000)}) == 1000


@pytest.mark.parametrize(
    "change",
    [{"client_id": "11"}, {"number": "3004799"}, {"started_at": AT + timedelta(1)}, {"talk_s": 9}, {"filename": "b"}],
)
def test_a_line_that_is_corrected_keeps_its_id(change: dict[str, object]) -> None:
    assert lines([ROW._replace(**change)])[0][0] == lines([ROW])[0][0]  # type: ignore[arg-type]  # a test's table


@pytest.mark.parametrize(
    "change",
    [{"pbx": "eilat"}, {"linkedid": "1795413101.2"}, {"extension": "778"}, {"number_key": "x"}, {"incoming": False}],
)
def test_another_conversation_has_another(change: dict[str, object]) -> None:
    assert lines([ROW._replace(**change)])[0][0] != lines([ROW])[0][0]  # type: ignore[arg-type]  # a test's table


def test_fields_do_not_run_into_one_another() -> None:
    assert number_id("1", "23") != number_id("12", "3")
    one, other = ROW._replace(pbx="a", linkedid="bc"), ROW._replace(pbx="ab", linkedid="c")
    assert lines([one])[0][0] != lines([other])[0][0]


def test_the_same_conversation_twice_in_a_call() -> None:
    later = ROW._replace(started_at=AT + timedelta(seconds=9))
    first, second = lines([later, ROW])
    assert (first[1], second[1]) == (ROW, later)
    assert first == lines([ROW])[0]
    assert first[0] != second[0]
    assert lines([ROW, later]) == [first, second]

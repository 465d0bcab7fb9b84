"""How much a query asks for, and how long the database is left alone."""

from __future__ import annotations

from crmbridge.pbx.pace import LONGEST_S, Pace


def test_it_finds_the_range_that_holds_so_many_rows() -> None:
    pace = Pace(4000)
    for rows_per_hour in (100, 1_000_000, 3):
        for _ in range(30):
            rows = pace.span_s * rows_per_hour // 3600
            pace.took(rows, 0.001 + rows / 100_000)
        assert pace.span_s == LONGEST_S or 1000 <= rows <= 8000


def test_it_pauses_as_long_as_a_query_took() -> None:
    pace = Pace(4000)
    assert [pace.took(4000, 0.02) for _ in range(3)] == [0.02] * 3


def test_under_load_it_waits_longer_and_asks_for_less() -> None:
    pace = Pace(4000)
    for _ in range(3):
        pace.took(4000, 0.04)
    before = pace.span_s
    assert pace.took(4000, 0.8) == 4.0
    assert pace.span_s == before // 2
    assert pace.took(2000, 0.03) == 0.03, "and once the load is gone it goes on as before"


def test_it_gets_used_to_a_database_that_stays_slow() -> None:
    pace = Pace(4000)
    pace.took(4000, 0.05)
    pauses = [pace.took(4000, 0.6) for _ in range(60)]
    assert (pauses[0], pauses[-1]) == (3.0, 0.6)


def test_what_was_given_up_is_asked_for_in_smaller_parts() -> None:
    pace = Pace(4000)
    spans = []
    for _ in range(6):
        pace.too_slow()
        spans.append(pace.span_s)
    assert spans == [225, 56, 14, 3, 1, 1]

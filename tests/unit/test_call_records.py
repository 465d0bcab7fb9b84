"""What is said of call records that were taken up."""

from __future__ import annotations

from datetime import UTC, datetime

from structlog.testing import capture_logs

from crmbridge.calls.cdr import Cdr, from_event
from crmbridge.records import MOST_NAMED, say_stored, say_unreadable


def test_each_call_has_a_line_while_they_are_not_history() -> None:
    of_three = [record(number // 2) for number in range(6)]
    with capture_logs() as logs:
        say_stored(of_three)
    assert [(line["linkedid"], line["records"]) for line in logs] == [("0.1", 2), ("1.1", 2), ("2.1", 2)]
    with capture_logs() as logs:
        say_stored([record(number) for number in range(MOST_NAMED + 1)])
    assert not logs


def test_what_is_no_record_is_named_by_its_ids_however_they_are_written() -> None:
    with capture_logs() as logs:
        say_unreadable({"Event": "Cdr", "LinkedID": "1.1", "UniqueID": "1.2", "Source": "033004799"}, "no time")
    assert logs == [
        {"event": "cdr.unreadable", "log_level": "warning", "reason": "no time", "linkedid": "1.1", "uniqueid": "1.2"}
    ]


def record(number: int) -> Cdr:
    event = {"UniqueID": f"{number}.1", "StartTime": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"}
    return from_event(event, pbx="pbx", timezone=UTC)

"""The bench's made-up calls: what the call list makes of their records is what was meant, for each kind of call."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import chain
from random import Random

import pytest
from tests.bench.cdr_making import Call, Line, Row
from tests.bench.cdr_office import EXTENSION_PATTERN, TIMEZONE, TRUNKS, WEEKS, number, starts, wall
from tests.bench.cdr_rows import ROWS_A_CALL, SHARES, shares, week

from crmbridge.calls import cdr
from crmbridge.calls.cdr import Cdr
from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.history import History, is_extension, parties
from crmbridge.calls.numbers import Numbers

NUMBERS = Numbers(region="IL", form="national", anonymous="anonymous")
KNOWN = Endpoints(extensions=EXTENSION_PATTERN, trunks=[trunk.endpoint for trunk in TRUNKS])
HISTORY = History(
    party=parties(KNOWN),
    is_extension=is_extension(KNOWN),
    number=NUMBERS.caller,
    key=NUMBERS.same,
    client=Clients("10").of_call,
)
WITH_A_REPEATED_HOUR = 51
"""The week whose Sunday is the 27th of October 2024: 1:00 to 2:00 came twice."""

HEADERS = {
    "calldate": "StartTime",
    "src": "Source",
    "dst": "Destination",
    "channel": "Channel",
    "dstchannel": "DestinationChannel",
    "duration": "Duration",
    "billsec": "BillableSeconds",
    "disposition": "Disposition",
    "uniqueid": "UniqueID",
    "did": "did",
    "recordingfile": "recordingfile",
    "linkedid": "linkedid",
    "sequence": "sequence",
}
"""Column → header of the AMI event that says the same."""


def record(row: Row) -> Cdr:
    event = {header: str(getattr(row, column)) for column, header in HEADERS.items()}
    return cdr.from_event(event, pbx="pbx", timezone=TIMEZONE)


def lines(call: Call) -> list[Line]:
    """What the history makes of it."""
    calls: dict[str, list[Cdr]] = defaultdict(list)
    for row in call.rows:
        calls[row.linkedid].append(record(row))
    made = chain.from_iterable(HISTORY.rows(records) for records in calls.values())
    return [
        Line(
            *(row.linkedid, int(row.started_at.timestamp()), row.extension, row.number, row.talk_s),
            *(row.filename, row.incoming),
        )
        for row in made
    ]


@pytest.mark.parametrize("number_of_week", [0, WITH_A_REPEATED_HOUR])
def test_the_history_says_of_each_call_what_was_meant(number_of_week: int) -> None:
    kinds = set()
    for call in week(1, number_of_week, 4000):
        assert sorted(lines(call)) == sorted(call.lines), (call.kind, call.rows)
        kinds.add(call.kind)
    assert kinds == {kind.__name__ for kind in SHARES}


def test_the_same_seed_makes_the_same_rows_and_another_others() -> None:
    assert list(week(1, 7, 300)) == list(week(1, 7, 300))
    assert list(week(1, 7, 300)) != list(week(2, 7, 300))
    assert list(week(1, 7, 300)) != list(week(1, 8, 300))


def test_the_wanted_number_of_rows_comes_out() -> None:
    assert sum(shares(1_000_000)) == 1_000_000
    assert len(shares(1_000_000)) == WEEKS
    calls = list(week(1, 3, 12_000))
    rows = sum(len(call.rows) for call in calls)
    assert rows / len(calls) == pytest.approx(ROWS_A_CALL, rel=0.03)


def test_every_record_has_a_key_of_its_own() -> None:
    keys = Counter(record(row).key for call in week(1, 5, 2000) for row in call.rows)
    assert keys.most_common(1)[0][1] == 1


def test_the_rows_fit_into_the_columns() -> None:
    widths = {"uniqueid": 32, "linkedid": 32, "did": 50, "accountcode": 20, "disposition": 45, "recordingfile": 255}
    for call in week(1, 5, 2000):
        for row in call.rows:
            for column, value in row._asdict().items():
                assert len(str(value)) <= widths.get(column, 80), (column, value)


def test_numbers_are_distinct_and_as_the_crm_gets_them() -> None:
    made = [number(rank) for rank in range(0, 600_000, 97)]
    assert len(set(made)) == len(made)
    assert [NUMBERS.caller(one) for one in made[:1000]] == made[:1000]


def test_the_repeated_hour_has_calls_in_both_of_its_turns() -> None:
    begun = starts(Random(1), WITH_A_REPEATED_HOUR, 20_000)
    hours = Counter(datetime.fromtimestamp(at, UTC).hour for at in begun if wall(at).startswith("2024-10-27 01"))
    assert set(hours) == {22, 23}

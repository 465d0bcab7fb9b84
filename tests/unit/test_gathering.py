"""Records gathered into calls: whatever the ranges and the order, the same calls, each whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from crmbridge.calls.cdr import Cdr
from crmbridge.calls.gathering import LONGEST_CALL_S, SLACK_S, Calls, Gathering, calls_of, ended_by, joined

BEGIN = 1_700_000_000


def record(linkedid: str, start: int, duration: int = 0, sequence: int = 0) -> Cdr:
    """`start`: seconds after BEGIN."""
    start_at = datetime.fromtimestamp(BEGIN + start, UTC)
    text = ("", "", "", "", "")
    return Cdr("pbx", linkedid, f"{BEGIN + start}.{sequence}", sequence, *text, start_at, duration, 0, "ANSWERED", "")


def call(n: int, start: int, *parts: tuple[int, int]) -> list[Cdr]:
    """Parts: seconds after the call's start, and duration."""
    return [record(f"{BEGIN + start}.{n}", start + at, duration, m) for m, (at, duration) in enumerate(parts)]


def read(records: Iterable[Cdr], ranges: Iterable[int], gathering: Gathering) -> Iterator[Calls]:
    """Read them range by range, as a table is: all that starts in it, in the order given."""
    since = 0
    records = list(records)
    for until in ranges:
        gathering.take(one for one in records if since <= one.start_at.timestamp() - BEGIN < until)
        yield gathering.settled(BEGIN + until)
        since = until
    gathering.take(one for one in records if one.start_at.timestamp() - BEGIN >= since)
    yield gathering.rest()


parts = st.lists(st.tuples(st.integers(0, SLACK_S), st.integers(0, 2000)), min_size=1, max_size=4)


@st.composite
def histories(draw: st.DrawFn) -> list[Cdr]:
    """Calls whose records follow one another without a gap longer than the slack, in any order."""
    records: list[Cdr] = []
    for n in range(draw(st.integers(1, 8))):
        at = draw(st.integers(10, 20_000))
        start, end = at, at
        for m, (gap, duration) in enumerate(draw(parts)):
            # From the first start on, and until the slack is over after all that there was has ended.
            at = draw(st.integers(at, end + gap)) if m else start
            records.append(record(f"{BEGIN + start}.{n}", at, duration, m))
            end = max(end, at + duration)
    return draw(st.permutations(records))


@settings(max_examples=60)
@given(records=histories(), cuts=st.lists(st.integers(0, 25_000), max_size=12))
def test_any_ranges_and_any_order_give_the_same_calls(records: list[Cdr], cuts: list[int]) -> None:
    gathering = Gathering(BEGIN)
    found: Calls = {}
    for calls in read(records, sorted(cuts), gathering):
        assert not found.keys() & calls.keys(), "each call is given away once"
        found |= calls
    assert {linkedid: sorted(some) for linkedid, some in found.items()} == {
        linkedid: sorted(some) for linkedid, some in calls_of(records).items()
    }
    assert not gathering.again


@settings(max_examples=100)
@given(
    records=histories(),
    late=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30).map(lambda n: n * 1000)), max_size=5),
    cuts=st.lists(st.integers(0, 50).map(lambda n: n * 1000), min_size=3, max_size=20),
    remembered=st.integers(0, 10),
)
def test_a_call_of_which_more_comes_is_read_again_from_its_begin(
    records: list[Cdr], late: list[tuple[int, int]], cuts: list[int], remembered: int
) -> None:
    """However long the gap, and however little is remembered: what is given away last is whole."""
    names = sorted({one.linkedid for one in records})
    for m, (n, start) in enumerate(late):
        linkedid = names[n % len(names)]
        begun = min(one.start_at.timestamp() for one in records if one.linkedid == linkedid) - BEGIN
        records = [*records, record(linkedid, int(begun) + start, 5, 100 + m)]
    gathering = Gathering(BEGIN, remembered=remembered)
    found: Calls = {}
    for calls in read(records, sorted(cuts), gathering):
        for linkedid, some in calls.items():
            again = gathering.again.pop(linkedid, None)
            last = max(one.start_at.timestamp() for one in some)
            before = [
                one
                for one in records
                if again is not None and one.linkedid == linkedid and again <= one.start_at.timestamp() <= last
            ]
            found[linkedid] = joined([*some, *before])
    assert {linkedid: sorted(some) for linkedid, some in found.items()} == {
        linkedid: sorted(some) for linkedid, some in calls_of(records).items()
    }


def test_a_call_stays_until_all_its_records_have_ended() -> None:
    gathering = Gathering(BEGIN)
    long, short = call(1, 100, (0, 7200), (30, 20)), call(2, 200, (0, 60))
    gathering.take([*long, *short])
    assert gathering.settled(BEGIN + 260 + SLACK_S) == {}
    assert gathering.settled(BEGIN + 261 + SLACK_S) == {short[0].linkedid: short}
    assert gathering.oldest == BEGIN + 100
    assert gathering.settled(BEGIN + 7301 + SLACK_S) == {long[0].linkedid: long}
    assert gathering.oldest is None


def test_a_call_that_began_before_the_reading_is_read_again_from_its_begin() -> None:
    gathering = Gathering(BEGIN + 1000)
    gathering.take([*call(1, 400, (700, 10)), *call(2, 1200, (0, 10))])
    assert gathering.again == {f"{BEGIN + 400}.1": BEGIN + 398}


def test_an_id_that_tells_nothing_may_have_begun_any_time_in_the_longest_call() -> None:
    gathering = Gathering(BEGIN)
    gathering.take([record("sales-17", 100), record("sales-18", LONGEST_CALL_S + 1)])
    assert gathering.again == {"sales-17": BEGIN + 100 - LONGEST_CALL_S}
    blind = Gathering(BEGIN, guess=False)
    blind.take([record("sales-17", 100)])
    assert not blind.again, "where nothing can be read again, it is taken for new"


def test_an_id_that_is_used_again_days_later_is_read_from_its_first_use() -> None:
    gathering = Gathering(BEGIN - LONGEST_CALL_S)
    first, second = record("ticket-9", 0), record("ticket-9", 5 * LONGEST_CALL_S)
    gathering.take([first])
    assert gathering.settled(BEGIN + LONGEST_CALL_S) == {"ticket-9": [first]}
    gathering.take([second])
    assert gathering.again == {"ticket-9": BEGIN}


def test_memory_is_bounded() -> None:
    gathering = Gathering(BEGIN, remembered=100)
    for n in range(2000):
        gathering.take(call(n, n * 60, (0, 30)))
        gathering.settled(BEGIN + n * 60)
    assert len(gathering._given) == 100
    assert len(gathering._open) < 20


def test_whether_a_call_has_ended() -> None:
    one = call(1, 0, (0, 100), (10, 20))
    assert ended_by(one, BEGIN + 101)
    assert not ended_by(one, BEGIN + 100)

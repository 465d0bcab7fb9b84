"""Order within a call, calls side by side, pauses and deadlines."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.events import CallEvent, Delivery, Kind, State
from crmbridge.crm.lanes import Entry, Lanes


def delivery(number: int, call: str = "a", pbx: str = "main") -> Delivery:
    event = CallEvent(
        kind=Kind.RING,
        pbx=pbx,
        call=call,
        extension=str(number),
        number="033004799",
        client_id="10",
        at=datetime(2024, 1, 2, tzinfo=UTC),
        linkedid=call,
        uniqueid="u",
    )
    return Delivery(number, event, State.QUEUED, 0, None)


def lanes_of(*deliveries: Delivery, deadline: float = 1000.0) -> Lanes:
    lanes = Lanes()
    for each in deliveries:
        lanes.add(each, 0.0, deadline)
    return lanes


def taken(lanes: Lanes, now: float = 0.0) -> list[int]:
    """The ids that are given out without any coming back."""
    ids = []
    while entry := lanes.take(now):
        ids.append(entry.delivery.id)
    return ids


def take(lanes: Lanes, now: float = 0.0) -> Entry:
    entry = lanes.take(now)
    assert entry
    return entry


def test_a_call_waits_for_its_first_callback() -> None:
    lanes = lanes_of(delivery(1), delivery(2), delivery(3))
    first = take(lanes)
    assert lanes.take(0.0) is None
    lanes.remove(first)
    assert taken(lanes) == [2]


def test_calls_go_side_by_side_newest_first() -> None:
    lanes = lanes_of(delivery(1, "a"), delivery(2, "b"), delivery(3, "a"), delivery(4, "c"))
    assert taken(lanes) == [4, 2, 1]


def test_one_call_id_on_two_pbxes_is_two_calls() -> None:
    assert taken(lanes_of(delivery(1, "a", "tlv"), delivery(2, "a", "haifa"))) == [2, 1]


def test_a_pause_holds_up_its_own_call_only() -> None:
    lanes = lanes_of(delivery(1, "a"), delivery(2, "a"), delivery(3, "b"), delivery(4, "b"))
    three, one = take(lanes), take(lanes)
    lanes.pause(one, 5.0)
    lanes.remove(three)
    assert taken(lanes, 4.9) == [4]
    assert lanes.next_at() == 5.0
    assert taken(lanes, 5.0) == [1]


def test_pauses_end_when_the_crm_is_back() -> None:
    lanes = lanes_of(delivery(1, "a"), delivery(2, "b"))
    for entry in (take(lanes), take(lanes)):
        lanes.pause(entry, 500.0)
    assert taken(lanes, 1.0) == []
    lanes.end_pauses()
    assert taken(lanes, 1.0) == [2, 1]


def test_what_is_too_old_is_taken_out_wherever_it_stands() -> None:
    lanes = Lanes()
    lanes.add(delivery(1), 0.0, 3600.0)
    lanes.add(delivery(2), 0.0, 60.0)
    lanes.add(delivery(3), 0.0, 3600.0)
    assert lanes.next_at() == 60.0
    assert lanes.take_overdue(59.9) == []
    (old,) = lanes.take_overdue(60.0)
    assert old.delivery.id == 2
    lanes.remove(old)
    lanes.remove(take(lanes))
    assert taken(lanes) == [3]


def test_what_is_under_way_when_its_time_is_up_stays() -> None:
    lanes = lanes_of(delivery(1), delivery(2), deadline=60.0)
    take(lanes)
    assert [entry.delivery.id for entry in lanes.take_overdue(60.0)] == [2]
    assert 1 in lanes


def test_one_handed_in_twice_is_there_once() -> None:
    lanes = lanes_of(delivery(1), delivery(1))
    assert len(lanes) == 1
    lanes.remove(take(lanes))
    assert taken(lanes) == []


def test_one_taken_back_makes_room_for_the_next_of_its_call() -> None:
    lanes = lanes_of(delivery(1), delivery(2), delivery(3, "b"))
    lanes.remove_idle(1)
    assert taken(lanes) == [3, 2]
    lanes.remove_idle(3)
    assert 3 in lanes, "under way: it can't be taken back"


def test_memory_does_not_grow_with_what_is_done() -> None:
    lanes = Lanes()
    for number in range(10_000):
        lanes.add(delivery(number, str(number)), 0.0, 3600.0)
        lanes.remove(take(lanes))
    assert len(lanes) == 0
    assert len(lanes._deadlines) < 2000
    assert not lanes._lanes


@given(
    st.lists(st.sampled_from("abc"), min_size=2, max_size=25),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=80),
)
def test_every_callback_comes_out_once_and_in_order_within_its_call(
    calls: list[str], moves: list[tuple[int, bool]]
) -> None:
    lanes = lanes_of(*(delivery(number, call) for number, call in enumerate(calls)))
    under_way: list[Entry] = []
    done: list[Delivery] = []
    now = 0.0
    for choice, ends in [*moves, *[(0, True)] * (len(calls) + 6)]:
        now += 1.0
        while entry := lanes.take(now):
            assert entry.lane not in {other.lane for other in under_way}
            under_way.append(entry)
        if not under_way:
            continue
        entry = under_way.pop(choice % len(under_way))
        if ends:
            done.append(entry.delivery)
            lanes.remove(entry)
        else:
            lanes.pause(entry, now + choice)
    assert sorted(each.id for each in done) == list(range(len(calls)))
    for call in "abc":
        ids = [each.id for each in done if each.event.call == call]
        assert ids == sorted(ids)

"""Recorded calls from the moment at which all channels were listed, by a real PBX: as after a reconnect just then."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from tests.unit.test_tracker import AT, Frame, frames, run, told, tracker_for

from crmbridge.demo.traces import Trace, read

LIST = frozenset({"ExtensionStatus", "ExtensionStateListComplete", "BridgeListItem", "CoreShowChannel"})


def _listed(events: list[Frame]) -> int | None:
    """Where the list begins."""
    return next((at for at, one in enumerate(events) if one.get("Event") in LIST and "ActionID" in one), None)


@cache
def listed() -> dict[str, Trace]:
    return {trace.name: trace for trace in read(Path(__file__).parents[1] / "asterisk" / "listed")}


@pytest.mark.parametrize("name", sorted(listed()))
@pytest.mark.parametrize("trunks", [True, False], ids=["trunks configured", "trunks unknown"])
def test_from_the_list_on(name: str, *, trunks: bool) -> None:
    """What still rings or talks in the list is told, and what comes after it; nothing else, nothing twice."""
    trace = listed()[name]
    events = frames(trace.raw)
    begins = _listed(events)
    assert begins is not None
    there = {one["Uniqueid"] for one in events if one.get("Event") == "CoreShowChannel"}
    tracker = tracker_for(trace)
    whole = [(at, one) for at, event in enumerate(events) for one in tracker.handle(event, AT)]
    assert trace.right(told([one for _, one in whole])), "with all that came before it"
    wanted = Counter(told([one for at, one in whole if at >= begins or one.uniqueid in there]))
    may = Counter(told([one for _, one in whole])) + Counter(trace.optional)
    attached = tracker_for(trace, trunks=trunks)
    result = Counter(told(run(attached, events[begins:])))
    assert not wanted - result, "missing"
    assert not result - may, "too much"
    assert len(attached) == 0


@pytest.mark.parametrize("name", sorted(listed()))
def test_from_the_list_on_with_every_event_twice(name: str) -> None:
    """The end of a list that comes twice is not the end of a second list, in which there is no call."""
    trace = listed()[name]
    events = frames(trace.raw)
    assert trace.right(told(run(tracker_for(trace), [event for event in events for _ in range(2)])))
    begins = _listed(events)
    once, twice = (
        told(run(tracker_for(trace), [event for event in events[begins:] for _ in range(times)])) for times in (1, 2)
    )
    assert twice == once


@pytest.mark.parametrize("name", sorted(listed()))
def test_a_list_that_lacks_a_channel(name: str) -> None:
    """The call of the channel that is not in it goes on."""
    trace = listed()[name]
    events = frames(trace.raw)
    for lacking in [at for at, event in enumerate(events) if event.get("Event") == "CoreShowChannel"]:
        tracker = tracker_for(trace)
        result = told(run(tracker, events[:lacking] + events[lacking + 1 :]))
        assert trace.right(result), f"without {events[lacking]['Channel']}: told {result}"
        assert len(tracker) == 0


@pytest.mark.parametrize("name", sorted(listed()))
def test_a_list_that_was_cut_off_leaves_nothing_behind(name: str) -> None:
    """The connection ended in the middle of a list; when the next is asked for, all calls are over."""
    trace = listed()[name]
    events = frames(trace.raw)
    for cut in [at for at, event in enumerate(events) if event.get("Event") in LIST]:
        tracker = tracker_for(trace)
        run(tracker, events[: cut + 1])
        run(tracker, [{"Event": "CoreShowChannelsComplete", "ActionID": "next", "ListItems": "0"}])
        assert len(tracker) == 0


def test_there_are_calls_with_a_list() -> None:
    assert len(listed()) > 20

"""Recorded calls with neighbouring events the other way round, where Asterisk may tell them so."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.unit.test_tracker import Frame, frames, run, told, traces, tracker_for

from crmbridge.calls.tracker import Tracker

_CHANNELS = ("Uniqueid", "DestUniqueid", "LocalOneUniqueid", "LocalTwoUniqueid")


def _may_come_the_other_way_round(one: Frame, other: Frame) -> bool:
    """Whether different threads of Asterisk told these: of two channels, or a dial and the state of who is dialed.

    What enters and leaves one bridge is told under that bridge's lock. A far side that hangs up before another enters
    its bridge instead of just after was never heard there: another truth, not the same in another order.
    """
    if one.get("BridgeUniqueid", "") == other.get("BridgeUniqueid") or "AttendedTransfer" in (
        one["Event"],
        other["Event"],
    ):
        return False
    if {one["Event"], other["Event"]} == {"BridgeEnter", "HangupRequest"}:
        return False
    shared = {one[key] for key in _CHANNELS if key in one} & {other[key] for key in _CHANNELS if key in other}
    dials = [event for event in (one, other) if event["Event"].startswith("Dial")]
    if not shared or len(dials) != 1:
        return not shared
    return shared == {dials[0]["DestUniqueid"]} and "Newchannel" not in (one["Event"], other["Event"])


@pytest.mark.parametrize("name", sorted(traces()))
def test_recorded_call_with_neighbours_the_other_way_round(name: str) -> None:
    trace = traces()[name]
    events = [frame for frame in frames(trace.raw) if frame.get("Event") in Tracker.EVENTS]
    for at, (one, other) in enumerate(pairwise(events)):
        if _may_come_the_other_way_round(one, other):
            tracker = tracker_for(trace)
            result = told(run(tracker, [*events[:at], other, one, *events[at + 2 :]]))
            assert trace.right(result), f"{one['Event']} and {other['Event']} at {at}: told {result}"
            assert len(tracker) == 0, "what was told of a leg after its end must not keep it"

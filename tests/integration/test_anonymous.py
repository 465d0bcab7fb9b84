"""Every recorded call as it may be given away: the same callbacks but for the numbers, and nothing of who called."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.unit.test_tracker import frames, run, told, traces, tracker_for

from crmbridge.calls.anonymous import Anonymous
from crmbridge.calls.tracker import Tracker

KEY = b"of these tests"


@pytest.mark.parametrize("name", sorted(traces()))
def test_a_recorded_call_leads_to_the_same_callbacks_but_for_the_numbers(name: str) -> None:
    trace = traces()[name]
    anonymous = Anonymous(Tracker.EVENTS, KEY)
    raw = anonymous.feed(trace.raw)
    there = replace(trace, trunks=tuple(anonymous._value("Channel", trunk) for trunk in trace.trunks))
    was = told(run(tracker_for(trace), frames(trace.raw)))
    became = told(run(tracker_for(there), frames(raw)))
    assert [(kind, ext, re.sub(r"\D", "", number)[-7:]) for kind, ext, number in became] == [
        (kind, ext, re.sub(r"\D", "", anonymous.number(number))[-7:]) for kind, ext, number in was
    ]
    for _, _, number in was:
        if len(number) > 6 and number.isdigit():
            assert number[-7:].encode() not in raw

"""Thousands of calls: of the model PBX, which does anything and knows who hears whom; and recorded ones all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random

from hypothesis import settings
from tests.unit.test_tracker_properties import AT, Frame, ModelPbx

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.events import Kind
from crmbridge.calls.tracker import Tracker
from crmbridge.demo.traces import shipped
from crmbridge.pbx.wire import FrameReader


class LongerModelPbx(ModelPbx):
    """The same, for longer."""


LongerModelPbx.TestCase.settings = settings(max_examples=1500, stateful_step_count=40)
TestThousandsOfCalls = LongerModelPbx.TestCase


def test_a_thousand_calls_at_once_give_a_thousand_times_what_one_gives() -> None:
    """Recorded calls, their ids made different, their events shuffled into one another."""
    random = Random(1)
    endpoints = Endpoints(extensions=r"[17]\d\d", inbound_contexts=["from-trunk*", "from-pstn*"])
    tracker = Tracker(pbx="pbx", endpoints=endpoints, clients=Clients("10"), caller=lambda raw: raw)
    recorded = [FrameReader(Tracker.EVENTS).feed(trace.raw) for trace in shipped()]
    alone: list[Counter[tuple[Kind, str]]] = []
    for frames in recorded:
        told = [one for frame in frames for one in tracker.handle(frame, AT)]
        alone.append(Counter((one.kind, one.extension) for one in told))
        assert len(tracker) == 0
    copies = [index % len(recorded) for index in range(1000)]
    waiting = [iter(recorded[index]) for index in copies]
    result: list[Counter[tuple[Kind, str]]] = [Counter() for _ in copies]
    going = list(range(len(copies)))
    while going:
        which = random.randrange(len(going))
        number = going[which]
        frame = next(waiting[number], None)
        if frame is None:
            going[which] = going[-1]
            going.pop()
            continue
        for one in tracker.handle(_as_copy(frame, number), AT):
            assert one.call.startswith(f"{number}-"), "told for another call"
            result[number][(one.kind, one.extension)] += 1
    assert result == [alone[index] for index in copies]
    assert len(tracker) == 0


def _as_copy(frame: Mapping[str, str], number: int) -> Frame:
    return {key: f"{number}-{value}" if key.endswith(("niqueid", "inkedid")) else value for key, value in frame.items()}

"""Each kind of call on a real Asterisk: the phones see and hear what is declared; from what our AMI user was sent the
CRM is told that, and from the call records in the database a lookup by number and the views of direct SQL show that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.asterisk.lab import call_list
from tests.asterisk.lab.cdr import CdrTable
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.rootfs import RECIPES
from tests.asterisk.lab.stage import perform
from tests.asterisk.record import write
from tests.asterisk.scenarios import SCENARIOS
from tests.recorded import as_cdr, differing_in_short, history_of, shown

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.tracker import Tracker
from crmbridge.config import PbxSettings
from crmbridge.demo import traces
from crmbridge.demo.traces import Told, Trace
from crmbridge.pbx.wire import FrameReader

pytestmark = pytest.mark.needs("asterisk", "mariadb")
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PLAYED = [(version, one.name) for version in sorted(RECIPES) for one in SCENARIOS.values() if version in one.versions]


def known(trace: Trace) -> Endpoints:
    """Whose phones are whose, as the administrator says."""
    return Endpoints(
        extensions=trace.extensions,
        trunks=trace.trunks,
        endpoints=trace.endpoints,
        inbound_contexts=trace.inbound_contexts or PbxSettings().inbound_contexts,
    )


def told(trace: Trace, endpoints: Endpoints) -> list[Told]:
    """What the CRM would be told. Which endpoints are trunks is learned from the call."""
    numbers = Numbers(region="IL", form="national", anonymous="anonymous")
    tracker = Tracker(pbx="pbx", endpoints=endpoints, clients=Clients("10"), caller=numbers.caller)
    events = [event for frame in FrameReader().feed(trace.raw) for event in tracker.handle(frame, AT)]
    assert len(tracker) == 0, "channels are left over after the call"
    return [(event.kind.value, event.extension, event.number) for event in events]


@pytest.mark.parametrize(("root", "name"), PLAYED, indirect=["root"])
async def test_scenario(pbx: Pbx, records: CdrTable, name: str, tmp_path: Path) -> None:
    recording = await perform(pbx, SCENARIOS[name])
    assert not recording.disagreement()
    write(recording, tmp_path, asterisk=pbx.release())
    (trace,) = traces.read(tmp_path)
    endpoints = known(trace)
    events = told(trace, endpoints)
    assert trace.right(events), events
    rows = await records.rows_of(recording.records)
    lines = shown(history_of(endpoints), map(as_cdr, rows))
    assert not differing_in_short(lines, recording.readable()), rows
    assert await call_list.made(records, history_of(endpoints)) == (call_list.seen(lines), call_list.seen(lines))

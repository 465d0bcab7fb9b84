"""Calls from the records that real Asterisks wrote for them: each must be listed as the phones say that it was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
from tests.recorded import NUMBERS, Recorded, as_cdr, differing, history, recorded_calls, shown

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.history import CallRow
from crmbridge.calls.tracker import Tracker
from crmbridge.config import PbxSettings
from crmbridge.demo.traces import Trace, read
from crmbridge.pbx.wire import FrameReader

CALLS = recorded_calls()
ROOT = Path(__file__).parents[2]
Row = Mapping[str, str]
MOST_FOR_ALL_SUBSETS = 6


def without(rows: tuple[Row, ...], *columns: str) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def told(rows: list[CallRow]) -> Counter[tuple[str, str, bool]]:
    return Counter((row.extension, row.number, row.incoming) for row in rows)


def subsets(one: Recorded) -> Iterator[tuple[Row, ...]]:
    """What may be there of a call's records; of many, what is there when all came in their order or backwards."""
    rows = one.rows
    if len(rows) <= MOST_FOR_ALL_SUBSETS:
        for count in range(1, len(rows)):
            yield from combinations(rows, count)
    else:
        for count in range(1, len(rows)):
            yield rows[:count]
            yield rows[count:]


def test_recorded_calls() -> None:
    """All in one: hundreds of tests would take as long again as what they try."""
    wrong = {name: differing(one.shown(one.rows), one.read_as) for name, one in CALLS.items()}
    assert {name: what for name, what in wrong.items() if what} == {}


def test_all_scenarios_are_there_on_both_versions() -> None:
    versions = {version: {name[3:] for name in CALLS if name.startswith(version)} for version in ("16", "22")}
    # Macros and chan_sip are gone from 21 on.
    only_16 = {name for name in versions["16"] if name.startswith(("sip_", "confirm_macro")) or name == "listed_sip"}
    assert versions["16"] - only_16 == versions["22"]
    assert len(versions["22"]) > 150


@pytest.mark.parametrize("name", [name for name, one in CALLS.items() if one.read_as != one.lines])
def test_what_records_cannot_tell_has_a_reason(name: str) -> None:
    one = CALLS[name]
    assert one.because
    assert differing(one.shown(one.rows), one.lines), "records do tell: nothing to be explained"


def test_recordings_are_those_that_asterisk_left() -> None:
    recorded = [one for one in CALLS.values() if one.recordings]
    assert len(recorded) > 100
    for one in recorded:
        lines = one.shown(one.rows)
        files = {line.filename for line in lines if line.filename}
        assert files <= one.recordings, one.name
        assert bool(files) == any(line.talk_s for line in lines), one.name
        assert not any(line.filename for line in lines if not line.talk_s), one.name


@pytest.mark.parametrize("column", ["sequence", "did"])
def test_a_table_without_a_column(column: str) -> None:
    wrong = {
        name: difference
        for name, one in CALLS.items()
        if (difference := differing(one.shown(without(one.rows, column)), one.read_as))
    }
    assert not wrong


WRONG_WITHOUT_LINKEDID = {
    # A Local behind a Local has no name that says whose it is; a pickup behind a Local is whose phone rang.
    *("local_nested_kept", "listed_locals", "pickup_from_queue_of_locals", "pickup_through_local"),
    # Clicks through a Local are not listed.
    *("freepbx_click_local", "freepbx_click_into_mailbox"),
    # A customer whom we called becomes a caller, or the colleague has no line.
    *("outbound_handed_on", "outbound_handed_on_attended"),
    # What was behind a Local that was answered isn't known.
    *("followme_app_hung_up", "transfer_returned"),
}


def test_a_table_without_linkedid_has_records_that_stand_alone() -> None:
    wrong = {name for name, one in CALLS.items() if differing(one.shown(without(one.rows, "linkedid")), one.read_as)}
    assert wrong == {f"{version}/{name}" for version in ("16", "22") for name in WRONG_WITHOUT_LINKEDID}


def test_nobody_from_inside_ever_becomes_a_caller() -> None:
    """Internal calls, calls to customers and clicks, whatever there is yet of their records."""
    inside = [one for one in CALLS.values() if not any(line.incoming for line in (*one.read_as, *one.lines))]
    assert any("click_local" in one.name for one in inside)
    for one in inside:
        for some in subsets(one):
            assert not [line for line in one.shown(some) if line.incoming], (one.name, some)


def test_no_line_twice_while_records_come_in() -> None:
    for one in CALLS.values():
        most = told(one.shown(one.rows))
        for some in subsets(one):
            for line, count in told(one.shown(some)).items():
                assert count <= max(1, most[line]), (one.name, line, some)


def test_lines_are_of_records_in_any_order_and_however_often() -> None:
    for one in CALLS.values():
        expected = one.shown(one.rows)
        assert sorted(one.shown(one.rows[::-1])) == sorted(expected), one.name
        assert sorted(one.shown((*one.rows, *one.rows))) == sorted(expected), one.name


def test_a_trunk_that_nobody_has_named_is_known_by_the_did() -> None:
    """As FreePBX's, before its first call to a running bridge."""
    one = CALLS["22/freepbx_did"]
    unnamed = history(r"^1\d\d$", ())
    assert not differing(shown(unnamed, map(as_cdr, one.rows)), one.read_as)
    assert shown(unnamed, map(as_cdr, without(one.rows, "did"))) == []


def test_what_the_page_names_is_recorded() -> None:
    page = (ROOT / "docs" / "call-list.md").read_text(encoding="utf-8")
    recorded = {name[3:] for name in CALLS}
    tables = [
        line.split("|")[-2] for line in page.splitlines() if line.startswith("| ") and not line.endswith("names |")
    ]
    named = {name for cell in tables for name in re.findall(r"`([a-z0-9_]+)`", cell)}
    assert named
    assert named <= recorded
    unexplained = {one.name[3:] for one in CALLS.values() if one.because} - set(re.findall(r"`([a-z0-9_]+)`", page))
    assert not unexplained


class ByDid(Clients):
    """Each called number is a client of its own."""

    def of_call(self, *, did: str, trunk: str, extension: str) -> str:
        del trunk, extension
        return did


@cache
def traces_by_name() -> dict[str, Trace]:
    folders = (ROOT / "tests" / "traces", ROOT / "tests" / "asterisk" / "listed")
    return {trace.name: trace for folder in folders for trace in read(folder)}


def told_of(trace: Trace) -> set[str]:
    """The called numbers that the tracker takes for the client's, in a recording of the same scenario."""
    known = Endpoints(
        extensions=trace.extensions,
        trunks=trace.trunks,
        endpoints=trace.endpoints,
        inbound_contexts=trace.inbound_contexts or PbxSettings().inbound_contexts,
    )
    tracker = Tracker(pbx="pbx", endpoints=known, clients=ByDid("10"), caller=NUMBERS.caller)
    frames = FrameReader().feed(trace.raw)
    return {event.client_id for frame in frames for event in tracker.handle(frame, datetime(2026, 11, 27, tzinfo=UTC))}


# A dialplan that doesn't set CDR(did), and in which the call has gone on to another extension.
CALLED_NUMBER_IS_LOST = {"ivr_then_extension", "ivr_then_group", "endpoint_of_another_name", "sip_blind_transfer"}


def test_a_call_is_the_client_of_whom_the_tracker_has_told() -> None:
    other = set()
    for name, one in CALLS.items():
        clients = {line.client_id for line in one.shown(one.rows, ByDid("10")) if line.incoming}
        told = told_of(traces_by_name()[name])
        if told and not told <= clients:
            other.add(name[3:])
    assert other == CALLED_NUMBER_IS_LOST

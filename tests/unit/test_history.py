"""Calls from their records: every recorded call, and what no recording shows."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import permutations
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls import cdr
from crmbridge.calls.cdr import Cdr
from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Clients
from crmbridge.calls.history import CallRow, History, is_extension, parties
from crmbridge.calls.numbers import Numbers
from crmbridge.demo.traces import Trace, read
from crmbridge.pbx.wire import FrameReader

NUMBERS = Numbers(region="IL", form="national", anonymous="anonymous")
TRUNKS = ("PJSIP/Calls", "SIP/primario")  # of the recordings that don't name them
JERUSALEM = ZoneInfo("Asia/Jerusalem")

Line = tuple[str, str, int, bool]
"""Extension, number, seconds, incoming."""

CALLER, MOBILE = "033004799", "0501112222"

# Every recorded call whose PBX sent records. Seconds are Asterisk's whole ones; what the phones did and heard (the
# `expected` of each recording) says which extensions talked.
RECORDED: dict[str, list[Line]] = {
    "freepbx/fp16_c2c_local_rtp": [("101", "0501234567", 6, False)],
    "freepbx/fp16_c2c_pjsip": [("101", "0501234567", 9, False)],
    "freepbx/fp16_callforward_ext": [("102", MOBILE, 3, True)],
    "freepbx/fp16_did_ext": [("101", MOBILE, 3, True)],
    "freepbx/fp16_did_ext_abandon": [("101", MOBILE, 0, True)],
    "freepbx/fp16_did_ext_noanswer_vm": [("101", MOBILE, 0, True)],
    "freepbx/fp16_did_hidden_cid": [("101", "anonymous", 2, True)],
    "freepbx/fp16_followme_internal_rtp": [("103", MOBILE, 3, True)],
    "freepbx/fp16_followme_mobile": [("103", MOBILE, 0, True)],
    "freepbx/fp16_internal": [],
    "freepbx/fp16_internal_xfer": [],
    "freepbx/fp16_ivr_ext": [("102", MOBILE, 11, True)],  # 11 s with the IVR: see the module's last paragraph
    "freepbx/fp16_outbound": [("101", "0501234567", 2, False)],
    "freepbx/fp16_pickup": [("102", MOBILE, 3, True)],
    "freepbx/fp16_queue_ringall": [("102", MOBILE, 3, True)],
    "freepbx/fp16_queue_twice": [("101", MOBILE, 0, True)],
    "freepbx/fp16_ringgroup_ringall": [("103", MOBILE, 4, True)],
    "freepbx/fp16_xfer_att_refer": [("101", MOBILE, 4, True), ("102", MOBILE, 3, True)],
    "freepbx/fp16_xfer_blind_ami": [("101", MOBILE, 2, True), ("102", MOBILE, 6, True)],
    "freepbx/fp17like_did_ext_rtp": [("101", MOBILE, 3, True)],
    "freepbx/fp17like_queue_ringall_rtp": [("102", MOBILE, 3, True)],
    "freepbx/fp_issabel_did_ext": [("101", MOBILE, 3, True)],
    "freepbx/fp_issabel_queue_direct_ringall_rtp": [("102", MOBILE, 7, True)],  # with the wait in the queue
    "freepbx/fp_issabel_xfer_blind_refer": [("101", MOBILE, 5, True), ("102", MOBILE, 5, True)],
    "vanilla-16/04_noanswer_voicemail": [("777", CALLER, 0, True)],
    "vanilla-16/08r_queue_local_n_race": [("778", CALLER, 2, True)],
    "vanilla-16/11b_blind_refer": [("777", CALLER, 1, True), ("778", CALLER, 3, True)],
    "vanilla-16/14_park_unpark": [("777", CALLER, 1, True), ("779", CALLER, 2, True)],
    "vanilla-16/16_internal_call": [],
    "vanilla-16/17_outbound": [("777", "0521111111", 2, False)],
    "vanilla-16/26b_confirm_U_hangup": [("777", CALLER, 0, True)],
    "vanilla-16/28a_alice_goto": [("781", CALLER, 2, True)],
    "vanilla-16/50_sip_did_answered": [("777", CALLER, 2, True)],
    "vanilla-22/01_did_to_ext_answered": [("777", CALLER, 2, True)],
    "vanilla-22/03a_busy_486_immediate": [("777", CALLER, 0, True)],
    "vanilla-22/05_ivr_then_ext": [("777", CALLER, 4, True)],
    "vanilla-22/06_ring_group_778_first": [("778", CALLER, 2, True)],
    "vanilla-22/08_queue_local_n": [("778", CALLER, 2, True)],
    "vanilla-22/09_dial_local_optimized": [("777", CALLER, 2, True)],
    "vanilla-22/10a_followme_seq_mobile": [("777", CALLER, 0, True)],
    "vanilla-22/12b_atxfer_refer_replaces": [("777", CALLER, 4, True), ("779", CALLER, 3, True)],
    "vanilla-22/13a_pickup_star8": [("778", CALLER, 2, True)],
    "vanilla-22/15a_forward_302_ext": [("778", CALLER, 1, True)],
    "vanilla-22/18a_c2c_pjsip": [("777", "0521111111", 3, False)],
    "vanilla-22/20a_name_hebrew": [("777", CALLER, 1, True)],
    "vanilla-22/22_twice_in_a_row": [("777", CALLER, 1, True), ("777", CALLER, 1, True)],
}


@cache
def recorded() -> dict[str, Trace]:
    return {trace.name.removeprefix("recorded/"): trace for trace in read(Path(__file__).parents[1] / "traces")}


def history(extensions: str, trunks: tuple[str, ...], endpoints: dict[str, str] | None = None) -> History:
    known = Endpoints(extensions=extensions, trunks=trunks, endpoints=endpoints)
    return History(
        party=parties(known),
        is_extension=is_extension(known),
        number=NUMBERS.caller,
        key=NUMBERS.same,
        client=Clients("10").of_call,
    )


HISTORY = history(r"7\d\d", ("PJSIP/trunk-bezeq",))


def calls(trace: Trace) -> list[list[Cdr]]:
    """The recording's calls. Its PBX did not map `linkedid`, so the channels' own events tell it."""
    linkedids: dict[str, str] = {}
    found: dict[str, list[Cdr]] = defaultdict(list)
    for frame in FrameReader().feed(trace.raw):
        if "Uniqueid" in frame and "Linkedid" in frame:
            linkedids[frame["Uniqueid"]] = frame["Linkedid"]
        if frame.get("Event") == "Cdr":
            one = cdr.from_event({**frame, "linkedid": linkedids[frame["UniqueID"]]}, pbx="pbx", timezone=UTC)
            found[one.linkedid].append(one)
    return list(found.values())


def lines(rows: list[CallRow]) -> list[Line]:
    return [(row.extension, row.number, row.talk_s, row.incoming) for row in rows]


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_call(name: str) -> None:
    trace = recorded()[name]
    reader = history(trace.extensions, trace.trunks or TRUNKS, trace.endpoints)
    assert [line for call in calls(trace) for line in lines(reader.rows(call))] == RECORDED[name]


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_who_talked_is_who_the_phones_say_talked(name: str) -> None:
    trace = recorded()[name]
    heard = {ext for operation, ext, _ in trace.expected if operation == "incomingCallAnswered"}
    assert {ext for ext, _, talk_s, incoming in RECORDED[name] if incoming and talk_s} == heard


@pytest.mark.parametrize("name", ["vanilla-22/09_dial_local_optimized", "freepbx/fp16_c2c_local_rtp"])
def test_records_may_come_in_any_order(name: str) -> None:
    trace = recorded()[name]
    reader = history(trace.extensions, trace.trunks or TRUNKS)
    (call,) = calls(trace)
    for order in permutations(call):
        assert lines(reader.rows(order)) == RECORDED[name]


def test_a_click_is_never_an_incoming_call_while_its_records_come_in() -> None:
    trace = recorded()["freepbx/fp16_c2c_local_rtp"]
    reader = history(trace.extensions, TRUNKS)
    (call,) = calls(trace)
    for order in permutations(call):
        for count in range(len(order)):
            assert not [row for row in reader.rows(order[:count]) if row.incoming]


BEGAN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


def record(channel: str, dstchannel: str, **other: object) -> Cdr:
    values: dict[str, object] = {
        "pbx": "pbx",
        "linkedid": "1795413177.1",
        "uniqueid": "1795413177.1",
        "sequence": 1,
        "src": CALLER,
        "dst": "0723456777",
        "did": "",
        "start_at": BEGAN,
        "duration_s": 9,
        "billsec_s": 9,
        "disposition": "ANSWERED",
        "recordingfile": "",
    }
    return Cdr(channel=channel, dstchannel=dstchannel, **(values | other))  # type: ignore[arg-type]  # a test's table


def test_times_first_the_call_then_each_transfer() -> None:
    later = BEGAN + timedelta(seconds=30)
    rows = HISTORY.rows(
        [
            record("PJSIP/trunk-bezeq-1", "PJSIP/778-3", start_at=later, sequence=2, recordingfile="b.wav"),
            record("PJSIP/trunk-bezeq-1", "PJSIP/777-2", recordingfile="a.wav"),
        ]
    )
    assert [(row.extension, row.started_at, row.filename) for row in rows] == [
        ("777", BEGAN, "a.wav"),
        ("778", later, "b.wav"),
    ]


def test_a_recording_that_stands_in_another_record_of_the_call() -> None:
    rows = HISTORY.rows(
        [
            record("PJSIP/trunk-bezeq-1", "Local/777@from-queue-1;1", recordingfile="q.wav"),
            record("Local/777@from-queue-1;2", "PJSIP/777-2", uniqueid="1795413177.3"),
        ]
    )
    assert [(row.extension, row.filename) for row in rows] == [("777", "q.wav")]


def test_a_missed_call_has_no_recording_even_if_the_pbx_names_one() -> None:
    (row,) = HISTORY.rows(
        [record("PJSIP/trunk-bezeq-1", "PJSIP/777-2", disposition="NO ANSWER", recordingfile="none.wav")]
    )
    assert (row.talk_s, row.filename, row.extension) == (0, "", "777")


def test_two_agents_pick_up_at_once_and_one_gets_the_call() -> None:
    rows = HISTORY.rows(
        [
            record("PJSIP/trunk-bezeq-1", "Local/777@q-1;1"),
            record("PJSIP/trunk-bezeq-1", "Local/778@q-2;1", disposition="NO ANSWER"),
            record("Local/777@q-1;2", "PJSIP/777-2", uniqueid="1795413177.3", billsec_s=8),
            record("Local/778@q-2;2", "PJSIP/778-3", uniqueid="1795413177.5", billsec_s=1),
        ]
    )
    assert lines(rows) == [("777", CALLER, 8, True)]


def test_an_ivr_that_nobody_left_is_a_missed_call_without_extension() -> None:
    assert lines(HISTORY.rows([record("PJSIP/trunk-bezeq-1", "")])) == [("", CALLER, 0, True)]


def test_two_callers_joined_by_an_agent_are_two_calls() -> None:
    second = {"uniqueid": "1795413190.7", "src": "0501234567", "sequence": 5}
    rows = HISTORY.rows(
        [
            record("PJSIP/trunk-bezeq-1", "PJSIP/777-2"),
            record("PJSIP/trunk-bezeq-7", "PJSIP/777-8", **second),
            record("PJSIP/trunk-bezeq-1", "PJSIP/trunk-bezeq-7", sequence=9),
        ]
    )
    assert lines(rows) == [("777", CALLER, 9, True), ("777", "0501234567", 9, True)]


def test_an_agent_who_consults_somebody_outside_has_made_a_call_too() -> None:
    rows = HISTORY.rows(
        [
            record("PJSIP/trunk-bezeq-1", "PJSIP/777-2"),
            record("PJSIP/777-4", "PJSIP/trunk-bezeq-5", uniqueid="1795413180.4", src="777", dst="0501234567"),
        ]
    )
    assert lines(rows) == [("777", CALLER, 9, True), ("777", "0501234567", 9, False)]


def test_a_second_trunk_tried_after_a_busy_one_is_one_call() -> None:
    outgoing = {"src": "777", "dst": "0501234567"}
    rows = HISTORY.rows(
        [
            record("PJSIP/777-1", "PJSIP/trunk-bezeq-2", disposition="BUSY", **outgoing),
            record("PJSIP/777-1", "PJSIP/trunk-bezeq-3", sequence=2, **outgoing),
        ]
    )
    assert lines(rows) == [("777", "0501234567", 9, False)]


def test_an_unanswered_outgoing_call_is_listed_though_the_agent_was_up() -> None:
    """After a click the agent's leg is Up before the customer's rings: billsec counts, the disposition tells."""
    unanswered = {"src": "777", "dst": "0501234567", "disposition": "NO ANSWER"}
    assert lines(HISTORY.rows([record("PJSIP/777-1", "PJSIP/trunk-bezeq-2", **unanswered)])) == [
        ("777", "0501234567", 0, False)
    ]


def test_the_record_of_a_busy_outbound_leg_itself_is_no_incoming_call() -> None:
    assert HISTORY.rows([record("PJSIP/trunk-bezeq-2", "", src="0501234567", dst="0501234567")]) == []


def test_a_click_through_a_local_over_a_trunk_that_nobody_has_called_in_by() -> None:
    """As 16 and 22 record it, the Locals optimised away (tests/asterisk/test_clicks.py)."""
    root, stem = "crm-1795466036.a244e6c880", "Local/101@originate-skipvm-00000000"
    records = [
        record(f"{stem};2", "PJSIP/101-1", uniqueid=f"{root};2", linkedid=root, src="s", dst="101", billsec_s=0),
        record(
            f"{stem};1", "PJSIP/new-2", uniqueid=root, linkedid=root, src="0723457000", dst="0501234567", billsec_s=0
        ),
        record("PJSIP/101-1", "PJSIP/new-2", uniqueid="1795466036.2", linkedid=root, src="101", dst="", billsec_s=1),
    ]
    assert lines(history(r"1\d\d", ()).rows(records)) == [("101", "0501234567", 1, False)]


def test_an_outgoing_call_given_to_a_colleague() -> None:
    rows = HISTORY.rows(
        [
            record("PJSIP/777-1", "PJSIP/trunk-bezeq-2", src="777", dst="0501234567"),
            record("PJSIP/trunk-bezeq-2", "PJSIP/778-3", uniqueid="1795413177.2", src="0501234567", dst="778"),
        ]
    )
    assert lines(rows) == [("777", "0501234567", 9, False), ("778", "0501234567", 9, False)]


def test_a_line_that_nobody_knows_is_left_alone_unless_the_pbx_names_a_did() -> None:
    assert HISTORY.rows([record("SIP/door-1", "PJSIP/777-2")]) == []
    assert lines(HISTORY.rows([record("SIP/new-trunk-1", "PJSIP/777-2", did="0723456777")])) == [
        ("777", CALLER, 9, True)
    ]


def test_locals_behind_one_another_without_end() -> None:
    loop = [
        record("PJSIP/trunk-bezeq-1", "PJSIP/777-2"),
        record("Local/a@c-1;2", "Local/b@c-2;1", uniqueid="1795413177.3"),
        record("Local/b@c-2;2", "Local/a@c-1;1", uniqueid="1795413177.5"),
        record("Local/b@c-2;2", "PJSIP/778-4", uniqueid="1795413177.5", sequence=3),
    ]
    assert lines(HISTORY.rows(loop)) == [("777", CALLER, 9, True)]


_CHANNELS = st.sampled_from(
    ["", "PJSIP/777-1", "PJSIP/778-2", "PJSIP/trunk-bezeq-3", "PJSIP/trunk-bezeq-4", "SIP/door-5"]
    + [f"Local/{name};{half}" for name in ("777@q-6", "778@q-7") for half in "12"]
)
_RECORDS = st.builds(
    record,
    _CHANNELS,
    _CHANNELS,
    uniqueid=st.sampled_from(["1795413177.1", "1795413177.2"]),
    src=st.sampled_from(["", "777", CALLER, "<unknown>"]),
    dst=st.sampled_from(["", "s", "778", "0501234567", "*8"]),
    disposition=st.sampled_from(["ANSWERED", "NO ANSWER", "BUSY", ""]),
    billsec_s=st.integers(0, 5),
    start_at=st.integers(0, 9).map(lambda s: BEGAN + timedelta(seconds=s)),
)


@given(st.lists(_RECORDS, max_size=8))
def test_whatever_the_records_are(records: list[Cdr]) -> None:
    rows = HISTORY.rows(records)
    keys = [(row.extension, row.number_key, row.incoming, row.started_at) for row in rows]
    assert all(row.extension or not row.talk_s for row in rows)
    assert all(row.extension or row.incoming for row in rows)
    assert sum(row.talk_s for row in rows) <= sum(one.billsec_s for one in records)
    assert sorted(keys) == sorted(
        (r.extension, r.number_key, r.incoming, r.started_at) for r in HISTORY.rows(records[::-1])
    )


# Reading a record


EVENT = {
    "Event": "Cdr",
    "Source": CALLER,
    "Destination": "0723456777",
    "Channel": "PJSIP/trunk-bezeq-000000ea",
    "DestinationChannel": "PJSIP/777-000000eb",
    "StartTime": "2026-11-23 05:52:57",
    "AnswerTime": "2026-11-23 05:52:59",
    "EndTime": "2026-11-23 05:53:01",
    "Duration": "4",
    "BillableSeconds": "2",
    "Disposition": "ANSWERED",
    "UniqueID": "1795413177.274",
}


def test_a_record_as_asterisk_sends_it() -> None:
    one = cdr.from_event(EVENT, pbx="haifa", timezone=UTC)
    assert one.key == ("haifa", "1795413177.274", "1795413177.274", -1795413177, "PJSIP/777-000000eb")
    assert one.start_at == datetime(2026, 11, 23, 5, 52, 57, tzinfo=UTC)
    assert (one.duration_s, one.billsec_s, one.did, one.recordingfile) == (4, 2, "", "")


@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_mapped_headers_in_any_case(spelling: object) -> None:
    mapped = {"linkedid": "1795413170.1", "sequence": "41", "recordingfile": "in.wav", "did": "0723456777"}
    one = cdr.from_event(
        {**EVENT, **{str(spelling(name)): value for name, value in mapped.items()}},  # type: ignore[operator]  # str's own
        pbx="pbx",
        timezone=UTC,
    )
    assert (one.linkedid, one.sequence, one.recordingfile, one.did) == ("1795413170.1", 41, "in.wav", "0723456777")


@pytest.mark.parametrize(
    ("wall", "uniqueid", "utc"),
    [
        # On 2026-10-25 at 02:00 summer time (23:00 UTC), Jerusalem's clocks went back to 01:00.
        ("2026-10-25 01:30:00", "1792881000.5", datetime(2026, 10, 24, 22, 30, tzinfo=UTC)),
        ("2026-10-25 01:30:00", "1792884600.5", datetime(2026, 10, 24, 23, 30, tzinfo=UTC)),
        ("2026-10-25 01:30:00", "pbx1-1792884600.5", datetime(2026, 10, 24, 23, 30, tzinfo=UTC)),
        ("2026-10-25 01:30:00", "crm-1792884600.a1b2c3d4e5", datetime(2026, 10, 24, 23, 30, tzinfo=UTC)),
        ("2026-10-25 01:30:00", "no-epoch", datetime(2026, 10, 24, 22, 30, tzinfo=UTC)),
        ("2026-10-25 03:30:00", "1792884600.5", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
        # a call from before the change that got a second record after it
        ("2026-10-25 01:10:00", "1792881000.5", datetime(2026, 10, 24, 23, 10, tzinfo=UTC)),
    ],
)
def test_the_hour_that_a_clock_change_repeats(wall: str, uniqueid: str, utc: datetime) -> None:
    event = EVENT | {"UniqueID": uniqueid, "StartTime": wall, "AnswerTime": "", "EndTime": wall}
    one = cdr.from_event(event, pbx="pbx", timezone=JERUSALEM)
    assert one.start_at == utc


@pytest.mark.parametrize("broken", [{"UniqueID": ""}, {"StartTime": ""}, {"StartTime": "yesterday"}])
def test_a_record_without_identity_or_start_is_refused(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"Cdr|isoformat"):
        cdr.from_event(EVENT | broken, pbx="pbx", timezone=UTC)


def test_hostile_values_are_cut_and_cleaned() -> None:
    event = EVENT | {
        "Source": "0" * 5000,
        "Destination": "1\r\nAction: x\x00",
        "BillableSeconds": "-4",
        "sequence": "٣",
    }
    one = cdr.from_event(event, pbx="pbx", timezone=UTC)
    assert len(one.src) == cdr.MAX_LENGTH
    assert one.dst == "1Action: x"
    assert (one.billsec_s, one.sequence) == (0, -1795413177)

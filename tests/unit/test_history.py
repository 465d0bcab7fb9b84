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
from tests.recorded import history, history_of

from crmbridge.calls import cdr
from crmbridge.calls.cdr import Cdr
from crmbridge.calls.channels import Endpoints, parse_name
from crmbridge.calls.clients import Client, Clients
from crmbridge.calls.conversations import Leg, Row
from crmbridge.calls.history import CallRow, History
from crmbridge.demo.traces import Trace, read
from crmbridge.pbx.wire import FrameReader

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
    "freepbx/fp_issabel_queue_direct_ringall_rtp": [("102", MOBILE, 4, True)],  # of 7 s since the queue answered
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


def of_clients(*clients: Client) -> History:
    known = Endpoints(extensions=r"7\d\d", trunks=TRUNKS_OF_777)
    return history_of(known, Clients("10", clients))


TRUNKS_OF_777 = ("PJSIP/trunk-bezeq", "PJSIP/trunk-cellcom")
HISTORY = history(r"7\d\d", TRUNKS_OF_777)


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
            record("PJSIP/777-1", "PJSIP/trunk-bezeq-2", disposition="BUSY", duration_s=1, billsec_s=0, **outgoing),
            record("PJSIP/777-1", "PJSIP/trunk-bezeq-3", sequence=2, start_at=BEGAN + timedelta(seconds=1), **outgoing),
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


def test_a_customer_who_got_to_hear_the_agents_mailbox_has_talked_with_nobody() -> None:
    """freepbx_click_into_mailbox (tests/records), heard to its end."""
    click = {"linkedid": "crm-1"}
    records = [
        record("Local/777@from-internal-1;1", "PJSIP/trunk-bezeq-2", uniqueid="crm-1", dst="0501234567", **click),
        record("Local/777@from-internal-1;2", "PJSIP/777-1", uniqueid="crm-1;2", disposition="NO ANSWER", **click),
        record("Local/777@from-internal-1;2", "", uniqueid="crm-1;2", dst="vmu777", sequence=3, **click),
    ]
    assert lines(HISTORY.rows(records)) == [("777", "0501234567", 0, False)]


def test_an_outgoing_call_given_to_a_colleague() -> None:
    rows = HISTORY.rows(
        [
            record("PJSIP/777-1", "PJSIP/trunk-bezeq-2", src="777", dst="0501234567"),
            record("PJSIP/trunk-bezeq-2", "PJSIP/778-3", uniqueid="1795413177.2", src="0501234567", dst="778"),
        ]
    )
    assert lines(rows) == [("777", "0501234567", 9, False), ("778", "0501234567", 9, False)]


def test_seconds_begin_when_other_phones_stopped_ringing_for_a_caller_who_was_up_before() -> None:
    """As 16 and 22 record a queue, or a menu and a ring group: queue_waits, ivr_then_group (tests/records)."""
    up = {"duration_s": 30, "billsec_s": 30}
    answered = record("PJSIP/trunk-bezeq-1", "PJSIP/777-2", **up)
    for other, seconds in (
        (record("PJSIP/trunk-bezeq-1", "PJSIP/778-3", disposition="NO ANSWER", duration_s=12, billsec_s=12), 18),
        (record("PJSIP/trunk-bezeq-1", "PJSIP/778-3", disposition="BUSY", duration_s=0, billsec_s=0), 30),
        (record("PJSIP/trunk-bezeq-1", "PJSIP/778-3", disposition="NO ANSWER", duration_s=30), 1),
        (record("PJSIP/trunk-bezeq-1", "PJSIP/778-3", disposition="NO ANSWER", duration_s=31), 30),  # of another time
        (record("PJSIP/trunk-bezeq-1", "", disposition="NO ANSWER", duration_s=12), 30),  # no phone
    ):
        assert lines(HISTORY.rows([answered, other])) == [("777", CALLER, seconds, True)]


def test_a_caller_who_came_up_with_the_answer_has_talked_since() -> None:
    talk = record("PJSIP/trunk-bezeq-1", "PJSIP/777-2", duration_s=30, billsec_s=20)
    other = record("PJSIP/trunk-bezeq-1", "PJSIP/778-3", disposition="NO ANSWER", duration_s=29, billsec_s=0)
    assert lines(HISTORY.rows([talk, other])) == [("777", CALLER, 20, True)]


def test_nobody_had_it_for_a_second_and_who_answered_is_named() -> None:
    rows = [
        record("PJSIP/trunk-bezeq-1", "PJSIP/777-2", disposition="NO ANSWER", billsec_s=0),
        record("PJSIP/trunk-bezeq-1", "PJSIP/778-3", billsec_s=0, sequence=2),
    ]
    assert lines(HISTORY.rows(rows)) == [("778", CALLER, 0, True)]


def test_a_local_without_a_record_of_its_other_half_is_the_extension_that_it_names() -> None:
    rows = [
        record("PJSIP/trunk-bezeq-1", "Local/778@from-queue-0000000a;1", disposition="NO ANSWER", duration_s=0),
        record("PJSIP/trunk-bezeq-1", "Local/777@from-queue-0000000b;1"),
        record("PJSIP/trunk-bezeq-1", "Local/0501234567@from-internal-0000000c;1", sequence=2),
    ]
    assert lines(HISTORY.rows(rows)) == [("777", CALLER, 9, True)]


def test_the_far_end_of_a_click_in_another_call_than_its_dial_is_no_caller() -> None:
    """caller_joined_with_an_outbound_call (tests/records): a leg that was dialed has no dst."""
    rows = [
        record("PJSIP/trunk-bezeq-1", "PJSIP/777-2"),
        record("PJSIP/trunk-bezeq-4", "PJSIP/777-2", uniqueid="1795413190.7", src="0501234567", dst=""),
    ]
    assert lines(HISTORY.rows(rows)) == [("777", CALLER, 9, True)]


HAIFA = Client("11", dids=frozenset({"0723456777"}), extensions=frozenset({"778"}))
EILAT = Client("12", trunks=frozenset({"PJSIP/trunk-cellcom"}), extensions=frozenset({"779"}))


@pytest.mark.parametrize(
    ("client_id", "records"),
    [
        ("11", [record("PJSIP/trunk-bezeq-1", "PJSIP/777-2")]),  # a dialplan without CDR(did): what was dialed
        ("11", [record("PJSIP/trunk-cellcom-1", "PJSIP/779-2")]),  # the number counts before the trunk
        ("11", [record("PJSIP/trunk-bezeq-1", "PJSIP/777-2", did="0723456777", dst="101")]),
        ("12", [record("PJSIP/trunk-cellcom-1", "PJSIP/778-2", did="0723456000")]),  # and the trunk before extensions
        ("11", [record("PJSIP/trunk-bezeq-1", "PJSIP/778-2", dst="s")]),
        ("10", [record("PJSIP/trunk-bezeq-1", "PJSIP/777-2", dst="s")]),
        # Outgoing: nothing of ours was called, though it looks so
        ("12", [record("PJSIP/778-1", "PJSIP/trunk-cellcom-2", src="778", dst="0723456777")]),
        ("11", [record("PJSIP/778-1", "PJSIP/trunk-bezeq-2", src="778", dst="0501234567")]),
    ],
)
def test_whose_client_a_call_is(client_id: str, records: list[Cdr]) -> None:
    assert [row.client_id for row in of_clients(HAIFA, EILAT).rows(records)] == [client_id]


def test_all_of_a_call_is_one_clients() -> None:
    """778 rang first; a transfer to 779 puts its target where the called number was; 779 consults somebody."""
    rows = of_clients(HAIFA, EILAT).rows(
        [
            record("PJSIP/trunk-bezeq-1", "PJSIP/778-2", dst="s"),
            record("PJSIP/trunk-bezeq-1", "PJSIP/779-3", dst="779", sequence=2, start_at=BEGAN + timedelta(seconds=9)),
            record("PJSIP/779-3", "PJSIP/trunk-cellcom-4", uniqueid="1795413177.3", src="779", dst="0501234567"),
        ]
    )
    assert [(row.extension, row.incoming, row.client_id) for row in rows] == [
        ("778", True, "11"),
        ("779", True, "11"),
        ("779", False, "11"),
    ]


def test_the_called_number_is_found_behind_a_transfer() -> None:
    """half_attended_by_cancel (tests/records): the first record's dst is where the caller was sent later."""
    rows = of_clients(HAIFA, EILAT).rows(
        [
            record("PJSIP/trunk-bezeq-1", "PJSIP/779-2", dst="778"),
            record("PJSIP/trunk-bezeq-1", "PJSIP/777-3", sequence=2, start_at=BEGAN + timedelta(seconds=9)),
        ]
    )
    assert [row.client_id for row in rows] == ["11", "11"]


def test_an_endpoint_becomes_a_trunk_while_records_are_read() -> None:
    known = Endpoints(extensions=r"7\d\d")
    reader = history_of(known)
    calls_in = [record("SIP/new-1", "PJSIP/777-2")]
    assert reader.rows(calls_in) == []
    known.learn_trunk(parse_name("SIP/new-9"))
    assert lines(reader.rows(calls_in)) == [("777", CALLER, 9, True)]
    known.learn_hints({"PJSIP/alice": "779"})
    assert lines(reader.rows([record("SIP/new-1", "PJSIP/alice-2")])) == [("779", CALLER, 9, True)]


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


class General(History):
    """Without the short way for a single record."""

    def _of_one(self, row: Row) -> list[Leg] | None:
        del row
        return None


@given(_RECORDS)
def test_the_short_way_for_a_single_record_is_the_same(one: Cdr) -> None:
    known = Endpoints(extensions=r"7\d\d", trunks=TRUNKS_OF_777)
    general = history_of(known, kind=General)
    for record_ in (one, one._replace(linkedid=one.uniqueid), one._replace(src=one.dst)):
        assert HISTORY.rows([record_]) == general.rows([record_])


@given(
    st.lists(_RECORDS, max_size=8, unique_by=lambda one: one.key).flatmap(
        lambda s: st.tuples(st.just(s), st.permutations(s * 2))
    )
)
def test_lines_are_a_function_of_the_set_of_records(some: tuple[list[Cdr], list[Cdr]]) -> None:
    records, twice = some
    assert HISTORY.rows(twice) == HISTORY.rows(records)


_CLICK = [
    record("Local/101@skip-7;1", "PJSIP/new-2", uniqueid="crm-1", linkedid="crm-1", src="0723457000", dst="0501234567"),
    record("Local/101@skip-7;2", "PJSIP/777-1", uniqueid="crm-1;2", linkedid="crm-1", src="s", dst="777", sequence=2),
    record("PJSIP/777-1", "PJSIP/new-2", uniqueid="1.2", linkedid="crm-1", src="777", dst="", sequence=3),
    record("PJSIP/new-2", "PJSIP/777-1", uniqueid="1.3", linkedid="crm-1", src="0501234567", dst="", sequence=4),
    record("PJSIP/new-2", "", uniqueid="1.3", linkedid="crm-1", src="0501234567", dst="0501234567", sequence=5),
]


@given(st.permutations(_CLICK), st.integers(0, len(_CLICK)), st.booleans())
def test_a_click_is_no_call_from_outside_whatever_there_is_of_it(order: list[Cdr], count: int, named: bool) -> None:
    reader = history(r"7\d\d", ("PJSIP/new",) if named else ())
    rows = reader.rows(order[:count])
    assert not any(row.incoming for row in rows)
    assert len(rows) <= 1


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

"""The tracker on every recorded call, and on the orders and gaps that a recording does not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import count
from random import Random

import pytest

from crmbridge.calls.channels import Endpoints
from crmbridge.calls.clients import Client, Clients
from crmbridge.calls.debatable import Debatable
from crmbridge.calls.events import CallEvent, Kind
from crmbridge.calls.numbers import Numbers
from crmbridge.calls.phases import Phase
from crmbridge.calls.tracker import Tracker
from crmbridge.config import PbxSettings
from crmbridge.demo.traces import Told, Trace, shipped
from crmbridge.pbx.wire import FrameReader

Frame = dict[str, str]

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NUMBERS = Numbers(region="IL", form="national", anonymous="anonymous")


@cache
def traces() -> dict[str, Trace]:
    return {trace.name: trace for trace in shipped()}


def find(end: str) -> Trace:
    (found,) = [trace for name, trace in traces().items() if name.endswith(end)]
    return found


def tracker_for(
    trace: Trace, *, clients: Clients | None = None, trunks: bool = True, debatable: Debatable | None = None
) -> Tracker:
    endpoints = Endpoints(
        extensions=trace.extensions,
        trunks=trace.trunks if trunks else (),
        endpoints=trace.endpoints,
        inbound_contexts=trace.inbound_contexts or PbxSettings().inbound_contexts,
    )
    clients = clients or Clients("10")
    return Tracker(pbx="pbx", endpoints=endpoints, clients=clients, caller=NUMBERS.caller, debatable=debatable)


@cache
def _parsed(raw: bytes) -> tuple[Frame, ...]:
    return tuple(dict(frame) for frame in FrameReader().feed(raw))


def frames(raw: bytes) -> list[Frame]:
    """A list of one's own, of frames that nobody may alter: each recording is parsed once for all tests."""
    return list(_parsed(raw))


def run(tracker: Tracker, events: Iterable[Mapping[str, str]]) -> list[CallEvent]:
    return [told for event in events for told in tracker.handle(event, AT)]


def told(events: list[CallEvent]) -> list[Told]:
    return [(event.kind.value, event.extension, event.number) for event in events]


def test_there_are_recorded_calls() -> None:
    assert len(traces()) >= 40


@pytest.mark.parametrize("name", sorted(traces()))
def test_recorded_call(name: str) -> None:
    """One test for all ways to read it: a thousand tests more would take as long as what they try."""
    trace = traces()[name]
    tracker = tracker_for(trace)
    events = frames(trace.raw)
    results = {
        "as it came": told(run(tracker, events)),
        "every event twice": told(run(tracker_for(trace), [frame for frame in events for _ in range(2)])),
        "no trunk configured": told(run(tracker_for(trace, trunks=False), events)),
        "in random pieces": told(_in_pieces(trace, Random(name))),
    }
    assert {how: result for how, result in results.items() if not trace.right(result)} == {}, trace.scenario
    assert (len(tracker), tracker.calls) == (0, 0), "channels are left over after the call"
    # In the middle, at one event; `tests/integration/test_tracker_attached.py` takes every one.
    random = Random(name)
    check_attached(trace, lambda events: [random.randrange(events)], stale=random.choice((0, 3)))


def _in_pieces(trace: Trace, random: Random) -> list[CallEvent]:
    reader, tracker, rest = FrameReader(Tracker.EVENTS), tracker_for(trace), trace.raw
    result: list[CallEvent] = []
    while rest:
        size = random.choice((random.randint(1, 20), random.randint(1, 2000)))
        result += run(tracker, reader.feed(rest[:size]))
        rest = rest[size:]
    return result


def test_who_dialed_may_become_known_last() -> None:
    """A phone behind a Local rings before the dial of the Local itself is told (seen on Asterisk 16)."""
    events = frames(find("01_did_to_ext_answered").raw)
    ringing = next(i for i, e in enumerate(events) if e.get("Event") == "Newstate" and e["ChannelState"] == "5")
    dial = next(i for i, e in enumerate(events) if e.get("Event") == "DialBegin")
    events.insert(ringing, events.pop(dial))  # Newstate 5 first, then DialBegin
    states_first = [e for e in events if e.get("Event") != "DialState"]
    trace = find("01_did_to_ext_answered")
    assert told(run(tracker_for(trace), states_first)) == list(trace.expected)


def test_both_facts_name_call_phone_and_client() -> None:
    trace = find("01_did_to_ext_answered")
    clients = Clients("10", [Client("11", dids=frozenset({"0723456777"})), Client("12", extensions=frozenset({"777"}))])
    ring, answer = run(tracker_for(trace, clients=clients), frames(trace.raw))
    assert (ring.client_id, answer.client_id) == ("11", "11")
    assert ring.call == ring.linkedid == "1795413177.274"
    assert ring.uniqueid == answer.uniqueid == "1795413177.275"
    assert ring.key == ("pbx", "1795413177.274", "777", "incomingCall")
    assert ring.key != answer.key


def test_client_by_extension_is_that_of_the_first_phone_for_the_whole_call() -> None:
    trace = find("06_ring_group_778_first")
    clients = Clients("10", [Client("12", extensions=frozenset({"777", "779"}))])
    events = run(tracker_for(trace, clients=clients), frames(trace.raw))
    assert len({event.client_id for event in events}) == 1


def test_a_caller_on_an_unknown_line_is_noted_once_and_told_to_nobody() -> None:
    trace = find("01_did_to_ext_answered")
    endpoints = Endpoints(extensions=trace.extensions, inbound_contexts=["from-elsewhere"])
    tracker = Tracker(pbx="pbx", endpoints=endpoints, clients=Clients("10"), caller=NUMBERS.caller)
    for _ in range(2):
        assert run(tracker, frames(trace.raw)) == []
    assert tracker.strangers() == [("PJSIP/trunk-bezeq", "from-trunk", "1795413177.274")]
    assert tracker.strangers() == []


def _snapshot(events: list[Frame]) -> list[Frame]:
    """What CoreShowChannels would list after these events."""
    channels: dict[str, Frame] = {}
    bridges: dict[str, Frame] = {}
    for event in events:
        if event.get("Event") == "BridgeEnter":
            kept = {key: event.get(key, "") for key in ("BridgeUniqueid", "BridgeTechnology", "BridgeCreator")}
            bridges[event["BridgeUniqueid"]] = {"Event": "BridgeListItem", **kept}
        name, uniqueid = event.get("Event"), event.get("Uniqueid", "")
        if name == "Hangup":
            channels.pop(uniqueid, None)
        elif name == "DialBegin" and event["DestUniqueid"] in channels:
            channels[event["DestUniqueid"]]["Application"] = "AppDial"
        if uniqueid in channels or name == "Newchannel":
            kept = {k: v for k, v in event.items() if k not in ("Event", "BridgeUniqueid")}
            channels[uniqueid] = {**channels.get(uniqueid, {}), **kept, "Event": "CoreShowChannel"}
            if name in ("BridgeEnter", "BridgeLeave"):
                channels[uniqueid]["BridgeId"] = event["BridgeUniqueid"] if name == "BridgeEnter" else ""
    return [
        *bridges.values(),
        *channels.values(),
        {"Event": "CoreShowChannelsComplete", "ListItems": str(len(channels))},
    ]


def check_attached(trace: Trace, cuts: Callable[[int], Iterable[int]], *, stale: int) -> None:
    """Attached at each of these events, what is still to come is told; nothing else, nothing twice.

    The snapshot may be newer than the first events that come after it (`stale` of them): they were on their way. What
    was over when it was taken is nobody's popup any more.
    """
    events = frames(trace.raw)
    tracker = tracker_for(trace)
    whole = [(index, one) for index, event in enumerate(events) for one in told(tracker.handle(event, AT))]
    may = Counter(_without_number(one) for one in [*(one for _, one in whole), *trace.optional])
    for cut in cuts(len(events)):
        tracker = tracker_for(trace)
        result = Counter(map(_without_number, told(run(tracker, _snapshot(events[: cut + stale]) + events[cut:]))))
        to_come = Counter(_without_number(one) for index, one in whole if index >= cut + stale)
        assert not to_come - result, f"cut at {cut}: missing"
        too_much = result - may
        if too_much:
            too_much -= Counter(_not_to_be_known(trace, events, cut, cut + stale))
        assert not too_much, f"cut at {cut}: {too_much} too much"
        assert len(tracker) == 0


def _without_number(one: Told) -> tuple[str, str]:
    """An outbound route may have rewritten the caller's number by now; after a restart the outbox knows it."""
    return one[:2]


def _not_to_be_known(trace: Trace, events: list[Frame], *cuts: int) -> set[tuple[str, str]]:
    """What a snapshot can't rule out: that the far side has just hung up, and that a ring was for a consultation."""
    found = set()
    for cut in cuts:
        tracker = tracker_for(trace)
        run(tracker, events[:cut])
        for leg in tracker._legs:
            if leg.extension is not None:
                found.add(("incomingCall", leg.extension))
                if leg.phase is Phase.LEAVING:
                    found.add(("incomingCallAnswered", leg.extension))
    return found


def test_attached_while_a_phone_rings_or_talks() -> None:
    """What had begun before the gap and still goes on is told, too: the outbox knows whether it was told already."""
    trace = find("01_did_to_ext_answered")
    events = frames(trace.raw)
    ringing = next(i for i, e in enumerate(events) if e.get("Event") == "DialState")
    over = next(i for i, e in enumerate(events) if e.get("Event") == "HangupRequest")
    for cut in (ringing, over):
        result = told(run(tracker_for(trace), _snapshot(events[:cut]) + events[cut:]))
        assert result == list(trace.expected)


def test_attached_to_an_internal_call_of_a_phone_with_a_name_of_its_own() -> None:
    """No guess about a line that was not seen to come in makes an outside call of it."""
    event = {
        "Event": "CoreShowChannel",
        "Channel": "PJSIP/alice-desk-00000001",
        "Uniqueid": "1.1",
        "Linkedid": "1.1",
        "ChannelState": "4",
        "CallerIDNum": "781",
        "Context": "from-internal",
    }
    phone = event | {
        "Channel": "PJSIP/777-00000002",
        "Uniqueid": "1.2",
        "ChannelState": "5",
        "CallerIDNum": "777",
        "Application": "AppDial",
    }
    tracker = tracker_for(find("01_did_to_ext_answered"))
    assert run(tracker, [event, phone, {"Event": "CoreShowChannelsComplete"}]) == []


def test_a_snapshot_in_the_middle_changes_nothing() -> None:
    for name in ("08_queue_local_n", "12b_atxfer_refer_replaces", "14_park_unpark", "fp16_followme_internal_rtp"):
        trace = find(name)
        events = frames(trace.raw)
        for cut in range(0, len(events), 7):
            tracker = tracker_for(trace)
            result = told(run(tracker, events[:cut] + _snapshot(events[:cut]) + events[cut:]))
            assert trace.right(result), f"{name} cut at {cut}: {result}"


def test_a_call_that_goes_on_keeps_its_client_and_number_across_a_restart() -> None:
    """The leg has left its inbound context and carries another number by now; what was told is not told again."""
    trace = find("01_did_to_ext_answered")
    clients = Clients("10", [Client("11", dids=frozenset({"0723456777"}))])
    events = frames(trace.raw)
    answered = next(i for i, e in enumerate(events) if e.get("Event") == "DialEnd")
    ring = run(tracker_for(trace, clients=clients), events[:answered])
    after = [
        event | {"Context": "macro-dial-one", "Exten": "s", "CallerIDNum": "0700000000"}
        if event.get("Channel", "").startswith("PJSIP/trunk")
        else event
        for event in _snapshot(events[:answered]) + events[answered:]
    ]
    tracker = tracker_for(trace, clients=clients)
    tracker.recall(ring)
    (answer,) = run(tracker, after)
    assert (answer.kind, answer.client_id, answer.number) == (Kind.ANSWER, "11", "033004799")
    forgetful = run(tracker_for(trace, clients=clients), after)
    assert {one.client_id for one in forgetful} == {"10"}, "this is what recalling is for"


def test_phones_are_known_by_the_pbx_s_hints() -> None:
    trace = find("01_did_to_ext_answered")
    raw = trace.raw.replace(b"PJSIP/777", b"PJSIP/desk-7").replace(b"CallerIDNum: 777", b"CallerIDNum: <unknown>")
    tracker = tracker_for(trace)
    plays = count(1)

    def another_call() -> list[Frame]:
        return frames(raw.replace(b"1795413177.", b"%d." % next(plays)))

    assert run(tracker, another_call()) == []
    listed = {"Event": "ExtensionStatus", "Exten": "777", "Hint": "PJSIP/desk-7&Custom:DND777", "ActionID": "1"}
    assert run(tracker, [listed]) == []
    assert run(tracker, another_call()) == [], "a list counts when it is complete"
    run(tracker, [listed, {"Event": "ExtensionStateListComplete", "ActionID": "1", "ListItems": "1"}])
    assert told(run(tracker, another_call())) == list(trace.expected)
    run(tracker, [{"Event": "ExtensionStateListComplete", "ActionID": "2", "ListItems": "0"}])
    assert run(tracker, another_call()) == [], "what is in the list no more is forgotten"
    changed = {key: value for key, value in listed.items() if key != "ActionID"}
    run(tracker, [changed])
    assert told(run(tracker, another_call())) == list(trace.expected), "a change is taken at once"


def test_phones_are_known_by_freepbx_s_devices() -> None:
    trace = find("01_did_to_ext_answered")
    raw = trace.raw.replace(b"PJSIP/777", b"PJSIP/9777").replace(b"CallerIDNum: 777", b"CallerIDNum: <unknown>")
    entries = [
        {"Event": "DBGetTreeResponse", "ActionID": "1", "Key": f"/DEVICE/9777/{field}", "Val": value}
        for field, value in (("dial", "PJSIP/9777"), ("user", "777"))
    ]
    end = {"Event": "DBGetTreeComplete", "ActionID": "1", "ListItems": "2"}
    cut_off = run(tracker_for(trace), [entries[0], end, *frames(raw)])
    assert cut_off == []
    assert told(run(tracker_for(trace), [*entries, end, *frames(raw)])) == list(trace.expected)


def test_who_waits_together_in_parking_does_not_talk_after_a_reconnect() -> None:
    bridge = {"Event": "BridgeListItem", "BridgeUniqueid": "b-1", "BridgeTechnology": "holding_bridge"}
    caller = {
        "Event": "CoreShowChannel",
        "Channel": "PJSIP/trunk-bezeq-00000001",
        "Context": "from-trunk",
        "Uniqueid": "1.1",
        "Linkedid": "1.1",
        "ChannelState": "6",
        "CallerIDNum": "033004799",
        "BridgeId": "b-1",
    }
    phone = caller | {"Channel": "PJSIP/777-00000002", "Context": "from-internal", "Uniqueid": "1.2", "Linkedid": "1.2"}
    complete = {"Event": "CoreShowChannelsComplete"}
    trace = find("01_did_to_ext_answered")
    assert run(tracker_for(trace), [bridge, caller, phone, complete]) == []
    talking = run(tracker_for(trace), [caller, phone, complete])
    assert told(talking) == [("incomingCallAnswered", "777", "033004799")]


def debated(name: str, debatable: Debatable) -> list[Told]:
    """What is told of a recorded call beyond what is told by default."""
    trace = find(name)
    result = told(run(tracker_for(trace, debatable=debatable), frames(trace.raw)))
    by_default = told(run(tracker_for(trace), frames(trace.raw)))
    assert not Counter(by_default) - Counter(result)
    return list((Counter(result) - Counter(by_default)).elements())


def test_debatable_a_queue_rings_the_same_phone_again() -> None:
    trace = find("fp16_queue_twice")
    rings = run(tracker_for(trace, debatable=Debatable(ring_again=True)), frames(trace.raw))
    legs = [e["Uniqueid"] for e in frames(trace.raw) if e.get("Event") == "Newstate" and e["ChannelState"] == "5"]
    phones = [ring.uniqueid for ring in rings]
    assert phones == [leg for leg in legs if leg in phones]
    assert len(phones) == 3
    assert len({ring.key for ring in rings}) == 3, "the outbox must take each for another fact"
    for several_phones in ("06_ring_group_778_first", "fp16_queue_ringall"):
        assert debated(several_phones, Debatable(ring_again=True)) == []


def test_debatable_a_colleague_is_rung_to_consult() -> None:
    for name, colleague in (("12b_atxfer_refer_replaces", "779"), ("fp16_xfer_att_refer", "102")):
        number = find(name).expected[0][2]
        assert debated(name, Debatable(consult_ring=True)) == [("incomingCall", colleague, number)]
    for internal in ("16_internal_call", "fp16_internal_xfer"):
        assert debated(internal, Debatable(consult_ring=True)) == []


def test_debatable_follow_me_reaches_the_agent_s_mobile() -> None:
    mine = Debatable(mobiles={"0501234567": "777"})
    assert debated("10a_followme_seq_mobile", mine) == [("incomingCallAnswered", "777", "033004799")]
    assert debated("10a_followme_seq_mobile", Debatable(mobiles={"0500000000": "777"})) == []
    assert debated("17_outbound", Debatable(mobiles={"0521111111": "778"})) == []


def test_debatable_an_outgoing_call_is_handed_over() -> None:
    """777 calls out and hands the customer over to 778, who rings and answers."""
    events = frames(find("17_outbound").raw)
    dial = next(event for event in events if event.get("Event") == "DialBegin")
    trunk = {key.removeprefix("Dest"): value for key, value in dial.items() if key.startswith("Dest")}
    phone = {"Channel": "PJSIP/778-000000ff", "Uniqueid": "9.9", "Linkedid": trunk["Linkedid"], "ChannelState": "5"}
    handed = [
        {"Event": "DialBegin", **trunk, **{f"Dest{key}": value for key, value in phone.items()}},
        {"Event": "BridgeEnter", "BridgeUniqueid": "b", **trunk},
        {"Event": "BridgeEnter", "BridgeUniqueid": "b", **phone},
    ]
    over = next(index for index, event in enumerate(events) if event.get("Event") == "HangupRequest")
    trace = find("17_outbound")
    for wanted, expected in ((False, []), (True, ["incomingCall", "incomingCallAnswered"])):
        tracker = tracker_for(trace, debatable=Debatable(handed_over=wanted))
        result = told(run(tracker, events[:over] + handed))
        assert result == [(operation, "778", "0521111111") for operation in expected]
    assert debated("17_outbound", Debatable(handed_over=True)) == []
    assert debated("18a_c2c_pjsip", Debatable(handed_over=True)) == []


@pytest.mark.parametrize("counts", [True, False])
def test_debatable_a_conference_room(counts: bool) -> None:  # a table's column
    trace = find("01_did_to_ext_answered")
    room = {"BridgeUniqueid": "r", "BridgeTechnology": "softmix", "BridgeCreator": "ConfBridge"}
    events = [event | room if event.get("Event") == "BridgeEnter" else event for event in frames(trace.raw)]
    result = told(run(tracker_for(trace, debatable=Debatable(conference=counts)), events))
    assert (("incomingCallAnswered", "777", "033004799") in result) == counts


def test_a_trunk_that_looks_like_a_phone_is_noted() -> None:
    trace = find("01_did_to_ext_answered")
    raw = trace.raw.replace(b"PJSIP/trunk-bezeq", b"PJSIP/700")
    endpoints = Endpoints(extensions=r"7\d\d", inbound_contexts=["from-trunk"])
    tracker = Tracker(pbx="pbx", endpoints=endpoints, clients=Clients("10"), caller=NUMBERS.caller)
    assert run(tracker, frames(raw)) == []
    assert tracker.strangers() == [("PJSIP/700", "from-trunk", "1795413177.274")]


def test_events_without_their_headers_do_no_harm() -> None:
    tracker = tracker_for(find("01_did_to_ext_answered"))
    for name in Tracker.EVENTS:
        assert tracker.handle({"Event": name}, AT) == []
        assert tracker.handle({"Event": name, "Uniqueid": "1.1", "DestUniqueid": "1.1"}, AT) == []
    assert tracker.handle({}, AT) == []
    assert tracker.handle({"Event": "NoSuchEvent"}, AT) == []

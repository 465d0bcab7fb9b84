"""How clicks end, on recorded calls and on what may come in other orders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.test_tracker import find

from crmbridge.calls.click_calls import NOT_SEEN, ClickCalls
from crmbridge.calls.clicks import News, Outcome, Side
from crmbridge.pbx.wire import FrameReader

Event = Mapping[str, str]

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
ID = "crm-1795463500.0123456789"
RECORDED = {
    "22/click_to_call": Outcome.ANSWERED,
    "16/click_to_call": Outcome.ANSWERED,
    "22/freepbx_click_local": Outcome.ANSWERED,
    "16/freepbx_click_local": Outcome.ANSWERED,
    "22/freepbx_click_pjsip": Outcome.ANSWERED,
    "16/freepbx_click_pjsip": Outcome.ANSWERED,
    "22/freepbx_click_into_mailbox": Outcome.ANSWERED,
    # 480 after half a second: the phone rang and refused
    "22/freepbx_click_local_no_answer": Outcome.AGENT_NO_ANSWER,
    "16/freepbx_click_local_no_answer": Outcome.AGENT_NO_ANSWER,
    "vanilla-22/18a_c2c_pjsip": Outcome.ANSWERED,
    "freepbx/fp16_c2c_local_rtp": Outcome.ANSWERED,
    "freepbx/fp16_c2c_pjsip": Outcome.ANSWERED,
}


def recorded(name: str) -> list[Event]:
    return [frame for frame in FrameReader(ClickCalls.EVENTS).feed(find(name).raw) if "Event" in frame]


def click_id(events: Sequence[Event]) -> str:
    return next(event["Uniqueid"] for event in events if event["Event"] == "Newchannel")


def calls(click: str = ID) -> ClickCalls:
    made = ClickCalls(longest_ring_s=90)
    made.begin(click, AT)
    return made


def told(follower: ClickCalls, events: Iterable[Event], at: datetime = AT) -> list[News]:
    return [news for event in events for news in follower.handle(event, at)]


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded(name: str) -> None:
    events = recorded(name)
    follower = calls(click_id(events))
    news = told(follower, events)
    assert news[-1].outcome is RECORDED[name]
    assert [one.outcome for one in news[:-1]] == [Outcome.IN_PROGRESS] * (len(news) - 1)
    assert len(follower) == 0
    if news[-1].outcome is Outcome.ANSWERED:
        assert news[-1].talk_s is not None
        phone = [one.phone for one in news if one.number is None]
        assert phone == [Side.RINGS, Side.ANSWERED]
        assert [one.number for one in news if one.number] == [Side.RINGS, Side.ANSWERED, Side.ANSWERED]


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_the_response_may_come_at_any_time(name: str) -> None:
    """It travels another way than the channels' events."""
    events = recorded(name)
    response = next(event for event in events if event["Event"] == "OriginateResponse")
    rest = [event for event in events if event is not response]
    for place in range(len(rest) + 1):
        follower = calls(click_id(events))
        news = told(follower, [*rest[:place], response, *rest[place:]])
        if place or response["Response"] == "Success":
            assert news[-1].outcome is RECORDED[name], place
        assert len(follower) == 0, place
        assert sum(one.outcome is not Outcome.IN_PROGRESS for one in news) == 1, place


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_events_lost_at_any_time_end_in_a_word_that_is_true(name: str) -> None:
    """From some event on nothing is heard; then a list of channels says that the call is over."""
    events = recorded(name)
    for heard in range(len(events)):
        follower = calls(click_id(events))
        news = told(follower, events[:heard])
        news += told(follower, listing(), AT + NOT_SEEN)
        assert len(follower) == 0, heard
        assert news[-1].outcome in (RECORDED[name], Outcome.UNKNOWN), heard


def test_whose_beginning_was_not_heard() -> None:
    """The agent has answered and talks with the number when the bridge comes back, then they hang up."""
    follower = ClickCalls(longest_ring_s=90)
    follower.recall(News(ID, AT, Outcome.IN_PROGRESS, phone=Side.RINGS), AT)
    news = told(follower, listing({"Uniqueid": ID, "ChannelState": "6", "BridgeId": "b"}, {"Uniqueid": "2.1"}))
    assert [(one.phone, one.number) for one in news] == [(Side.ANSWERED, None), (Side.ANSWERED, Side.ANSWERED)]
    news = told(follower, [hangup("2.1"), hangup(ID)], AT + timedelta(seconds=5))
    assert (news[-1].outcome, news[-1].talk_s) == (Outcome.ANSWERED, 5)


def test_a_click_of_before_that_is_gone_is_unknown() -> None:
    follower = ClickCalls(longest_ring_s=90)
    follower.recall(News(ID, AT, Outcome.IN_PROGRESS, phone=Side.ANSWERED), AT)
    (news,) = told(follower, listing({"Uniqueid": "other", "Linkedid": "other"}))
    assert (news.outcome, news.phone, news.talk_s) == (Outcome.UNKNOWN, Side.ANSWERED, None)
    assert len(follower) == 0


def test_a_list_just_after_a_click_does_not_end_it() -> None:
    """Its channel may not be there yet."""
    follower = calls()
    assert told(follower, listing(), AT + timedelta(seconds=1)) == []
    assert len(follower) == 1


def test_half_a_list_ends_nothing() -> None:
    follower = calls()
    told(follower, [newchannel(ID)])
    items = listing({"Uniqueid": "other"}, {"Uniqueid": ID})
    assert told(follower, [items[0], items[2]]) == []
    assert len(follower) == 1


def test_nothing_ever_seen() -> None:
    follower = calls()
    assert follower.expire(AT + timedelta(seconds=90)) == []
    (news,) = follower.expire(AT + timedelta(seconds=91))
    assert (news.outcome, len(follower)) == (Outcome.UNKNOWN, 0)


def test_a_call_that_goes_on_does_not_expire() -> None:
    follower = calls()
    told(follower, [newchannel(ID), response("Success", "4")])
    assert follower.expire(AT + timedelta(days=1)) == []


def test_not_placed_is_not_followed() -> None:
    follower = calls()
    follower.not_placed(ID)
    follower.not_placed(ID)
    assert len(follower) == 0
    assert told(follower, [newchannel(ID), response("Failure", "0")]) == []


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        # As 16 and 22 tell it, in either order (tests/asterisk/test_clicks.py)
        (["response 0"], Outcome.AGENT_UNREACHABLE),
        (["newchannel", "end BUSY", "response 0", "hangup 17"], Outcome.AGENT_BUSY),
        (["newchannel", "response 0", "end BUSY", "hangup 17"], Outcome.AGENT_BUSY),
        (["newchannel", "response 5", "hangup 0"], Outcome.AGENT_BUSY),
        (["newchannel", "end NOANSWER", "response 0", "hangup 21"], Outcome.AGENT_DECLINED),
        (["newchannel", "hangup 19", "response 3"], Outcome.AGENT_NO_ANSWER),
        (["newchannel", "response 3", "hangup 0"], Outcome.AGENT_NO_ANSWER),
        (["newchannel", "end NOANSWER", "hangup 3", "response 0"], Outcome.AGENT_UNREACHABLE),
        (["newchannel", "response 4", "hangup 16"], Outcome.NOT_DIALED),
        (["newchannel", "response 4", "dial", "far BUSY 17", "hangup 17"], Outcome.BUSY),
        (["newchannel", "response 4", "dial", "far NOANSWER 19", "hangup 19"], Outcome.NO_ANSWER),
        (["newchannel", "response 4", "dial", "far NOANSWER 127", "hangup 16"], Outcome.FAILED),
        (["newchannel", "response 4", "dial", "rings", "far NOANSWER 127", "hangup 16"], Outcome.NO_ANSWER),
        (["newchannel", "response 4", "dial", "far CONGESTION 34", "hangup 34"], Outcome.FAILED),
        (["newchannel", "response 4", "dial", "far CONGESTION 1", "hangup 1"], Outcome.WRONG_NUMBER),
        (["newchannel", "response 4", "dial", "far NOANSWER 21", "hangup 21"], Outcome.DECLINED),
        (["newchannel", "response 4", "dial", "rings", "far CANCEL 16", "hangup 16"], Outcome.GIVEN_UP),
        (["newchannel", "response 4", "dial", "rings", "hangup 16"], None),
        (["newchannel", "response 4", "dial", "far ANSWER 16", "hangup 16"], Outcome.ANSWERED),
        # A second trunk after a first that failed
        (["newchannel", "response 4", "dial", "far CONGESTION 34", "dial", "far BUSY 17", "hangup 17"], Outcome.BUSY),
    ],
)
def test_ends(events: list[str], outcome: Outcome | None) -> None:
    follower = calls()
    news = told(follower, [event for word in events for event in spelled(word)])
    if outcome is None:
        assert len(follower) == 1
    else:
        assert (news[-1].outcome, len(follower)) == (outcome, 0)
        assert news[-1].phone is (Side.FAILED if outcome.value.startswith("agent") else Side.ANSWERED)


def spelled(word: str) -> list[Event]:
    what, *rest = word.split()
    first, second = [*rest, "", ""][:2]
    far = {"Uniqueid": ID, "Linkedid": ID, "DestUniqueid": "2.1", "DestLinkedid": ID}
    meanings: dict[str, list[Event]] = {
        "newchannel": [newchannel(ID)],
        "response": [response("Success" if first == "4" else "Failure", first)],
        "hangup": [hangup(ID, first)],
        "end": [{"Event": "DialEnd", "DestUniqueid": ID, "DestLinkedid": ID, "DialStatus": first}],
        "dial": [{**far, "Event": "DialBegin"}],
        "rings": [{**far, "Event": "DialState", "DialStatus": "RINGING"}],
        "far": [{**far, "Event": "DialEnd", "DialStatus": first}, hangup("2.1", second)],
    }
    return meanings[what]


def newchannel(uniqueid: str) -> Event:
    return {"Event": "Newchannel", "Uniqueid": uniqueid, "Linkedid": ID, "ChannelState": "0", "Channel": "PJSIP/777-1"}


def hangup(uniqueid: str, cause: str = "16") -> Event:
    return {"Event": "Hangup", "Uniqueid": uniqueid, "Linkedid": ID, "Cause": cause}


def response(how: str, reason: str) -> Event:
    return {"Event": "OriginateResponse", "ActionID": ID, "Response": how, "Uniqueid": ID, "Reason": reason}


def listing(*channels: Event) -> list[Event]:
    items = [{"Event": "CoreShowChannel", "ActionID": "a", "Linkedid": ID, **channel} for channel in channels]
    return [*items, {"Event": "CoreShowChannelsComplete", "ActionID": "a", "ListItems": str(len(items))}]


def test_legs_behind_locals_are_the_numbers() -> None:
    """The number is an extension that the dialplan reaches through a Local: what the inner leg does is known, too."""
    far, one, two = "3.3", "2.1", "2.2"
    follower = calls()
    told(follower, [newchannel(ID), response("Success", "4")])
    news = told(
        follower,
        [
            {"Event": "LocalBridge", **half("One", one), **half("Two", two)},
            {"Event": "DialBegin", "Uniqueid": two, "Linkedid": ID, "DestUniqueid": far, "DestLinkedid": ID},
            {"Event": "DialBegin", "Uniqueid": ID, "Linkedid": ID, "DestUniqueid": one, "DestLinkedid": ID},
            {"Event": "Newstate", "Uniqueid": far, "Linkedid": ID, "ChannelState": "5", "Channel": "PJSIP/778-1"},
        ],
    )
    assert [one.number for one in news] == [Side.RINGS]


def half(which: str, uniqueid: str) -> Event:
    return {f"Local{which}Uniqueid": uniqueid, f"Local{which}Linkedid": ID}


def test_other_calls_are_none_of_ours() -> None:
    events = [event for name in ("22/did_answered", "22/outbound") for event in recorded(name)]
    follower = calls()
    assert told(follower, events) == []
    assert len(follower) == 1

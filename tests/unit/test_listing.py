"""What goes on, and in which order, while all that there is on the PBX is listed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crmbridge.calls.tracker import Tracker
from crmbridge.pbx.actions import Action
from crmbridge.pbx.listing import LISTS, OF_LISTS, List, Listing, Taken, refusal
from crmbridge.pbx.wire import Frame

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
HINTS, DEVICES, STATES, BRIDGES, CHANNELS = LISTS

ALL = ["ExtensionStateList", "DBGetTree", "DeviceStateList", "BridgeList", "CoreShowChannels"]


def event(number: int) -> Frame:
    return {"Event": "Newchannel", "No": str(number)}


def answer(asked: list[Action], one: List, *numbers: int, complete: bool = True) -> list[Frame]:
    """What Asterisk sends for one of the actions."""
    (action_id,) = [str(fields["ActionID"]) for fields in asked if fields["Action"] == one.action]
    head = {"Response": "Success", "ActionID": action_id, "EventList": "start"}
    items = [{"Event": one.item or "ExtensionStatus", "ActionID": action_id, "No": str(number)} for number in numbers]
    return [head, *items, *([{"Event": one.complete, "ActionID": action_id}] if complete else [])]


def fed(listing: Listing, frames: Iterable[Frame]) -> list[str]:
    return told(one for frame in frames for one in listing.take(frame, AT))


def told(taken: Iterable[Taken]) -> list[str]:
    return [frame.get("No", frame["Event"]) for frame, _ in taken]


@pytest.fixture
def listing() -> Listing:
    """In the middle of a session, with nothing under way."""
    listing = Listing()
    listing.begin()
    asked = listing.ask()
    for one in LISTS:
        fed(listing, answer(asked, one))
    return listing


def test_after_a_login_the_lists_come_first_and_whole() -> None:
    listing = Listing()
    listing.begin()
    assert fed(listing, [event(1)]) == []
    asked = listing.ask()
    assert [fields["Action"] for fields in asked] == ALL
    assert fed(listing, [event(2)]) == []
    assert fed(listing, answer(asked, HINTS, 10)) == ["10", "ExtensionStateListComplete"]
    assert fed(listing, answer(asked, DEVICES, 15)) == ["15", "DBGetTreeComplete"]
    assert fed(listing, answer(asked, BRIDGES, 20, 21)) == ["20", "21", "BridgeListComplete"]
    assert fed(listing, answer(asked, CHANNELS, 30, complete=False)) == []
    assert fed(listing, answer(asked, CHANNELS)[1:]) == ["30", "CoreShowChannelsComplete", "1", "2"]
    assert fed(listing, [event(3)]) == ["3"]
    assert not listing.awaited


def test_events_that_no_list_concerns_never_wait() -> None:
    listing = Listing(apart=["Cdr"])
    listing.begin()
    listing.ask()
    assert fed(listing, [event(1), {"Event": "Cdr"}]) == ["Cdr"]


def test_lists_that_are_asked_for_in_the_middle_go_through_in_order(listing: Listing) -> None:
    asked = listing.ask([HINTS])
    assert fed(listing, [event(1)]) == ["1"]
    assert fed(listing, answer(asked, HINTS, 10)) == ["10", "ExtensionStateListComplete"]
    assert fed(listing, [event(2)]) == ["2"]


def test_lists_asked_for_while_others_are_under_way_come_afterwards_and_once() -> None:
    listing = Listing()
    listing.begin()
    asked = listing.ask()
    assert listing.ask([HINTS]) == []
    assert listing.ask([HINTS, CHANNELS]) == []
    assert listing.due() == []
    for one in LISTS:
        fed(listing, answer(asked, one))
    again = listing.due()
    assert [fields["Action"] for fields in again] == ["ExtensionStateList", "CoreShowChannels"]
    assert listing.due() == []
    assert fed(listing, [event(1)]) == ["1"], "nothing was lost: nothing waits"
    assert not {str(one["ActionID"]) for one in asked} & {str(one["ActionID"]) for one in again}


def test_after_a_loss_events_wait_for_new_lists(listing: Listing) -> None:
    asked = listing.ask_after_loss([(event(1), AT), ({"Event": "CoreShowChannel", "ActionID": "resync-1-x"}, AT)])
    assert fed(listing, [event(2)]) == []
    for one in (HINTS, DEVICES, BRIDGES):
        fed(listing, answer(asked, one))
    assert fed(listing, answer(asked, CHANNELS, 30)) == ["30", "CoreShowChannelsComplete", "1", "2"]


def test_a_loss_while_lists_are_under_way_drops_those_and_keeps_what_waits() -> None:
    listing = Listing()
    listing.begin()
    first = listing.ask()
    fed(listing, [event(1)])
    fed(listing, answer(first, HINTS))
    fed(listing, answer(first, DEVICES))
    assert fed(listing, answer(first, BRIDGES)) == ["BridgeListComplete"]
    assert fed(listing, answer(first, CHANNELS, 30, complete=False)) == []
    second = listing.ask_after_loss()
    assert fed(listing, answer(first, CHANNELS, 31)) == [], "of a list that began before the loss"
    assert fed(listing, [event(2)]) == []
    for one in (HINTS, DEVICES, BRIDGES):
        fed(listing, answer(second, one))
    assert fed(listing, answer(second, CHANNELS, 32)) == ["32", "CoreShowChannelsComplete", "1", "2"]


def test_a_list_that_never_ends_is_not_half_given_and_holds_nothing_up() -> None:
    listing = Listing()
    listing.begin()
    asked = listing.ask()
    fed(listing, [event(1)])
    fed(listing, answer(asked, CHANNELS, 30, complete=False))
    assert listing.awaited == ALL
    assert told(listing.give_up()) == ["1"]
    assert fed(listing, [event(2)]) == ["2"]
    assert not listing.awaited
    assert fed(listing, answer(asked, CHANNELS, 31)) == ["30", "31", "CoreShowChannelsComplete"], "late, but whole"


def test_after_giving_up_lists_can_be_asked_for_again() -> None:
    listing = Listing()
    listing.begin()
    first = listing.ask()
    listing.give_up()
    second = listing.ask()
    assert len(second) == len(LISTS)
    assert fed(listing, answer(first, CHANNELS, 30)) == []
    assert fed(listing, answer(second, CHANNELS, 31)) == ["31", "CoreShowChannelsComplete"]


def test_a_refused_list_holds_nothing_up() -> None:
    listing = Listing()
    listing.begin()
    asked = listing.ask()
    fed(listing, [event(1)])
    refused = [{"Response": "Error", "Message": "Permission denied", "ActionID": str(one["ActionID"])} for one in asked]
    assert [refusal(frame) for frame in refused] == [ALL[0], None, None, *ALL[3:]], "not every PBX has these"
    assert fed(listing, refused) == ["1"]


def test_a_new_session_forgets_what_was_under_way(listing: Listing) -> None:
    before = listing.ask_after_loss()
    fed(listing, [event(1)])
    listing.begin()
    assert not listing.awaited
    asked = listing.ask()
    assert fed(listing, answer(before, CHANNELS, 30)) == []
    assert fed(listing, answer(asked, CHANNELS)) == ["CoreShowChannelsComplete"]


def test_progress_shows_whether_lists_come_on(listing: Listing) -> None:
    asked = listing.ask()
    before = listing.progress
    fed(listing, [event(1)])
    assert listing.progress == before
    fed(listing, answer(asked, HINTS, 1, 2, complete=False))
    assert listing.progress == before + 3


def test_responses_to_nothing_of_ours_go_nowhere(listing: Listing) -> None:
    assert fed(listing, [{"Response": "Success", "ActionID": "of-an-action-that-timed-out"}]) == []


def test_the_tracker_knows_each_list_that_it_needs() -> None:
    assert {"CoreShowChannel", "CoreShowChannelsComplete", "BridgeListItem"} <= OF_LISTS & Tracker.EVENTS
    assert "ExtensionStatus" not in OF_LISTS, "it comes by itself, too"


STEPS = st.lists(
    st.sampled_from(
        ["event", "ask", "reload", "loss", "hints", "devices", "states", "bridges", "channels", "give up", "due"]
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_whatever_happens_each_event_goes_on_once_and_in_order(steps: list[str]) -> None:
    listing = Listing()
    listing.begin()
    asked: dict[str, Action] = {}
    sent, given_on = 0, []
    for step in steps:
        actions: list[Action] = []
        frames: list[Frame] = []
        if step == "event":
            sent += 1
            frames = [event(sent)]
        elif step == "ask":
            actions = listing.ask()
        elif step == "reload":
            actions = listing.ask([HINTS])
        elif step == "loss":
            actions = listing.ask_after_loss()
        elif step == "due":
            actions = listing.due()
        elif step == "give up":
            given_on += told(listing.give_up())
        else:
            one = dict(zip(["hints", "devices", "states", "bridges", "channels"], LISTS, strict=True))[step]
            if one.action in asked:
                frames = answer([asked[one.action]], one)
        asked |= {str(action["Action"]): action for action in actions}
        given_on += fed(listing, frames)
    given_on += told(listing.give_up())
    assert [name for name in given_on if name.isdecimal()] == [str(number + 1) for number in range(sent)]

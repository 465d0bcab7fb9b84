"""Whether an extension's phone can be rung, from what the PBX tells."""

from __future__ import annotations

import pytest

from crmbridge.calls.phone_states import PhoneState, PhoneStates

MAY_RING, TALKS, AWAY = PhoneState.MAY_RING, PhoneState.TALKS, PhoneState.AWAY
FREEPBX = "PJSIP/101&PJSIP/99101&Custom:DND101,CustomPresence:101"


def device(name: str, state: str, **more: str) -> dict[str, str]:
    return {"Event": "DeviceStateChange", "Device": name, "State": state, **more}


def hint(exten: str, hint: str, status: str, **more: str) -> dict[str, str]:
    return {"Event": "ExtensionStatus", "Exten": exten, "Context": "c", "Hint": hint, "Status": status, **more}


CHANGE = device("PJSIP/another", "INUSE")


def complete(what: str, items: int, action_id: str = "1") -> dict[str, str]:
    return {"Event": f"{what}Complete", "ActionID": action_id, "ListItems": str(items)}


def phones(*events: dict[str, str]) -> PhoneStates:
    made = PhoneStates()
    for event in events:
        made.handle(event)
    return made


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("NOT_INUSE", MAY_RING),
        ("INUSE", TALKS),
        ("BUSY", TALKS),
        ("RINGINUSE", TALKS),
        ("RINGING", MAY_RING),
        ("ONHOLD", TALKS),
        ("UNAVAILABLE", AWAY),
        ("INVALID", AWAY),
        ("UNKNOWN", MAY_RING),
        ("SOMETHING NEW", MAY_RING),
    ],
)
def test_of_a_device(state: str, expected: PhoneState) -> None:
    assert phones(device("PJSIP/777", state)).of("777", "PJSIP/777") is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *(("0", MAY_RING), ("1", TALKS), ("2", TALKS), ("4", AWAY), ("8", MAY_RING), ("9", TALKS), ("16", TALKS)),
        *(("17", TALKS), ("-1", MAY_RING), ("-2", MAY_RING), ("", MAY_RING)),
    ],
)
def test_of_a_hint_where_devices_are_not_known(status: str, expected: PhoneState) -> None:
    assert phones(hint("101", FREEPBX, status)).of("101", None) is expected
    assert phones(hint("101", "PJSIP/101", status)).of("101", "PJSIP/101") is expected


def test_nothing_known() -> None:
    assert phones().of("777", "PJSIP/777") is MAY_RING
    assert phones().of("777", None) is MAY_RING


@pytest.mark.parametrize(
    ("desk", "browser", "expected"),
    [
        ("UNAVAILABLE", "UNAVAILABLE", AWAY),
        ("UNAVAILABLE", "NOT_INUSE", MAY_RING),
        ("UNAVAILABLE", "INUSE", TALKS),
        ("INUSE", "NOT_INUSE", TALKS),
        ("NOT_INUSE", "NOT_INUSE", MAY_RING),
    ],
)
def test_the_phones_of_a_hint_say_more_than_its_sum(desk: str, browser: str, expected: PhoneState) -> None:
    """Which is free as long as the lamp for do-not-disturb is off."""
    known = phones(
        hint("101", FREEPBX, "0"),
        device("PJSIP/101", desk),
        device("PJSIP/99101", browser),
        device("Custom:DND101", "NOT_INUSE"),
    )
    assert known.of("101", None) is expected


def test_a_hint_decides_where_one_of_its_phones_is_not_known() -> None:
    assert phones(hint("101", FREEPBX, "4"), device("PJSIP/101", "UNAVAILABLE")).of("101", None) is AWAY
    assert phones(hint("101", FREEPBX, "0"), device("PJSIP/101", "UNAVAILABLE")).of("101", None) is MAY_RING


def test_changes() -> None:
    known = phones(device("PJSIP/777", "INUSE"), device("PJSIP/777", "NOT_INUSE"))
    assert known.of("777", "PJSIP/777") is MAY_RING


def test_lists_replace_what_was_known() -> None:
    known = phones(
        device("PJSIP/777", "INUSE"),
        hint("778", "PJSIP/778", "1"),
        device("PJSIP/779", "UNAVAILABLE", ActionID="1"),
        complete("DeviceStateList", 1),
        hint("780", "", "4", ActionID="1"),
        complete("ExtensionStateList", 1),
        CHANGE,
    )
    assert known.of("777", "PJSIP/777") is known.of("778", None) is MAY_RING
    assert known.of("779", "PJSIP/779") is known.of("780", None) is AWAY


def test_half_a_list_is_taken_and_drops_nothing() -> None:
    known = phones(
        device("PJSIP/777", "UNAVAILABLE"),
        device("PJSIP/779", "UNAVAILABLE", ActionID="1"),
        complete("DeviceStateList", 2),
        hint("778", "", "4"),
        complete("ExtensionStateList", 2),
    )
    assert [known.of(one, f"PJSIP/{one}") for one in ("777", "778", "779")] == [AWAY] * 3


def test_a_round_without_a_list_forgets() -> None:
    """Asterisk came back without the module that lists device states, or with other hints."""
    known = phones(
        device("PJSIP/777", "UNAVAILABLE"),
        hint("778", "", "4"),
        {"Event": "CoreShowChannelsComplete", "ActionID": "1"},
        CHANGE,
    )
    assert known.of("777", "PJSIP/777") is known.of("778", None) is MAY_RING


def test_a_round_with_its_lists_forgets_nothing() -> None:
    known = phones(
        device("PJSIP/777", "UNAVAILABLE", ActionID="1"),
        complete("DeviceStateList", 1),
        {"Event": "CoreShowChannelsComplete", "ActionID": "2"},
        CHANGE,
    )
    assert known.of("777", "PJSIP/777") is AWAY


def test_states_of_a_list_without_changes_after_it_are_not_believed() -> None:
    """An event filter may keep changes away: a phone that talked at the login would be busy for ever."""
    listed = (
        device("PJSIP/777", "INUSE", ActionID="1"),
        complete("DeviceStateList", 1),
        {"Event": "CoreShowChannelsComplete", "ActionID": "2"},
    )
    known = phones(*listed)
    assert known.of("777", "PJSIP/777") is MAY_RING
    known.handle(CHANGE)
    assert known.of("777", "PJSIP/777") is TALKS
    for event in listed:
        known.handle(event)
    assert known.of("777", "PJSIP/777") is MAY_RING, "another session, another filter perhaps"


def test_what_is_no_phone_takes_no_memory() -> None:
    known = phones(*(device(name, "INUSE") for name in ("Queue:600_avail", "MWI:1@default", "Local/1@x", "Custom:D")))
    assert known._devices == {}


def test_a_phone_is_known_by_its_hint_or_its_device() -> None:
    assert not phones().knows("777", "PJSIP/777")
    assert not phones(CHANGE).knows("777", None)
    assert phones(hint("777", "SIP/desk", "4")).knows("777", "PJSIP/777"), "away, but there"
    assert not phones(hint("778", "SIP/desk", "0")).knows("777", "PJSIP/777")
    assert phones(device("PJSIP/777", "UNAVAILABLE")).knows("777", "PJSIP/777")
    assert not phones(device("PJSIP/777", "INVALID")).knows("777", "PJSIP/777"), "what Asterisk says of no device"
    listed = device("PJSIP/777", "NOT_INUSE", ActionID="1")
    assert phones(listed, complete("DeviceStateList", 1)).knows("777", "PJSIP/777")

"""Whether an extension's phone can be rung at all, as the PBX's own events tell it. Pure.

Two things say so. Asterisk's device states (DeviceStateList, DeviceStateChange) are those of single phones. Hints
(ExtensionStateList, ExtensionStatus) say which phones an extension has, and its state when its phones' own are not
known. Devices come first: a hint is the sum of all that it names, and one with a `Custom:` device that is free, as
FreePBX's for do-not-disturb, is free though all phones are away (tests/asterisk/test_clicks.py).

Only what is certain counts: an extension of which nothing is known may be rung. Listed device states are certain once
one change was heard since: they do come through the manager user's event filter then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

from crmbridge.calls.channels import PHONE
from crmbridge.calls.listing import Headers, Listing

AWAY = frozenset({"UNAVAILABLE", "INVALID"})
"""Not registered or not answering to OPTIONS; or there is none (main/devicestate.c)."""
TALKS = frozenset({"INUSE", "BUSY", "RINGINUSE", "ONHOLD"})
"""ONHOLD is the phone that was put on hold; the one that has put the other there stays INUSE, on 16 and 22. RINGING is
not among them: it ends in a moment."""
UNKNOWN = "UNKNOWN"

_HINT = {"0": "NOT_INUSE", "1": "INUSE", "2": "BUSY", "3": "BUSY", "4": "UNAVAILABLE", "8": "RINGING"}
_HINT |= {"9": "RINGINUSE", "16": "ONHOLD", "17": "INUSE"}
"""ExtensionStatus' Status, a sum of bits (AST_EXTENSION_*, include/asterisk/pbx.h); below 0 are hints that are gone."""

_MOST_DEVICES = 20_000
"""Devices whose states are kept: Locals and guests have states, too."""


class PhoneState(StrEnum):
    """What a click for an extension has to expect."""

    MAY_RING = "may_ring"
    TALKS = "talks"
    AWAY = "away"


class PhoneStates:
    """The states of one PBX's phones."""

    def __init__(self) -> None:
        self._devices: dict[str, str] = {}
        self._changes_come = False
        """Whether changes of devices are told at all: an event filter of before may keep them from us, and then the
        states of the list would be believed for ever."""
        self._hints: dict[str, tuple[str, str]] = {}
        """By extension: its hint, and its state."""
        self._device_list = Listing("Device")
        self._hint_list = Listing("Exten", "Context")
        self._listed: set[str] = set()
        """The lists that have come since that of all channels, which is the last of each round, came before."""

    def handle(self, event: Headers) -> None:
        """Take one AMI event in."""
        transition = self._TRANSITIONS.get(event.get("Event", ""))
        if transition is not None:
            transition(self, event)

    def of(self, extension: str, device: str | None) -> PhoneState:
        """What a click has to expect that rings this device; None: whatever the extension's hint names."""
        hint, state = self._hints.get(extension, ("", UNKNOWN))
        devices = [device] if device else [one.strip() for one in hint.partition(",")[0].split("&")]
        states = self._devices if self._changes_come else {}
        known = [states.get(one, UNKNOWN) for one in devices if PHONE.fullmatch(one)]
        if not known or UNKNOWN in known:
            known = [state]
        if any(one in TALKS for one in known):
            return PhoneState.TALKS
        return PhoneState.AWAY if all(one in AWAY for one in known) else PhoneState.MAY_RING

    def knows(self, extension: str, device: str | None) -> bool:
        """Whether there is such a phone, as far as the PBX has said: the extension's hint, or this device."""
        hint, _ = self._hints.get(extension, ("", UNKNOWN))
        return bool(hint) or self._devices.get(device or "", UNKNOWN) not in {UNKNOWN, "INVALID"}

    def _device(self, event: Headers) -> None:
        if "ActionID" in event:
            self._device_list.add(event)
        else:
            self._changes_come = True
            self._take_device(event)

    def _take_device(self, event: Headers) -> None:
        device = event.get("Device", "")
        if PHONE.fullmatch(device) and (device in self._devices or len(self._devices) < _MOST_DEVICES):
            self._devices[device] = event.get("State", UNKNOWN)

    def _all_devices(self, event: Headers) -> None:
        items, whole = self._device_list.complete(event)
        self._listed.add("devices")
        if whole:
            self._devices = {}
        self._take_all(items, self._take_device)

    def _hint(self, event: Headers) -> None:
        if "ActionID" in event:
            self._hint_list.add(event)
        else:
            self._take_hint(event)

    def _take_hint(self, event: Headers) -> None:
        self._hints[event.get("Exten", "")] = (event.get("Hint", ""), _HINT.get(event.get("Status", ""), UNKNOWN))

    def _all_hints(self, event: Headers) -> None:
        items, whole = self._hint_list.complete(event)
        self._listed.add("hints")
        if whole:
            self._hints = {}
        self._take_all(items, self._take_hint)

    def _end_of_round(self, event: Headers) -> None:
        """After a login all is listed anew. What was not is not known any more: it may be another Asterisk by now."""
        del event
        if "devices" not in self._listed:
            self._devices = {}
        if "hints" not in self._listed:
            self._hints = {}
        self._listed, self._changes_come = set(), False

    def _take_all(self, items: Iterable[Headers], take: Callable[[Headers], None]) -> None:
        for item in items:
            take(item)

    _TRANSITIONS: Mapping[str, Callable[[PhoneStates, Headers], None]] = {
        "DeviceStateChange": _device,
        "DeviceStateListComplete": _all_devices,
        "ExtensionStatus": _hint,
        "ExtensionStateListComplete": _all_hints,
        "CoreShowChannelsComplete": _end_of_round,
    }

    EVENTS = frozenset(_TRANSITIONS)
    """The AMI events that this class wants."""

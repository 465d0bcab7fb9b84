"""What of Asterisk's events is asked for."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from crmbridge.calls.click_calls import ClickCalls
from crmbridge.calls.phone_states import PhoneStates
from crmbridge.calls.tracker import Tracker
from crmbridge.demo.traces import shipped
from crmbridge.pbx import filters
from crmbridge.pbx.actions import LONGEST_LINE
from crmbridge.pbx.listing import OF_LISTS
from crmbridge.pbx.wire import FrameReader

CONF = Path(__file__).parents[2] / "asterisk-conf"
OF_APP = {"Cdr", "OriginateResponse"}
WANTED = Tracker.EVENTS | ClickCalls.EVENTS | PhoneStates.EVENTS | OF_APP
PATTERN = filters.pattern(WANTED)


def passes(event: bytes) -> bool:
    """By the C library's own matcher, as Asterisk compiles it (REG_EXTENDED | REG_NOSUB)."""
    libc = ctypes.CDLL(None)
    compiled = ctypes.create_string_buffer(256)  # regex_t
    assert libc.regcomp(compiled, PATTERN.encode(), 1 | 8) == 0
    try:
        return bool(libc.regexec(compiled, event, 0, None, 0) == 0)
    finally:
        libc.regfree(compiled)


@pytest.mark.parametrize("name", sorted(WANTED - OF_LISTS | filters.OF_SESSION))
def test_all_that_is_wanted_passes(name: str) -> None:
    assert passes(b"Event: %s\r\nPrivilege: call,all\r\n\r\n" % name.encode())


@pytest.mark.parametrize(
    "event",
    [
        b"Event: VarSet\r\nVariable: X\r\nValue: Event: Newchannel\r\n\r\n",
        b"Event: VarSet\r\nEvent: Newchannel\r\n\r\n",
        b"Event: NewchannelX\r\n\r\n",
        b"Event: XNewchannel\r\n\r\n",
        b"Event: HangupHandlerPush\r\n\r\n",
        b"Privilege: call\r\nEvent: Newchannel\r\n\r\n",
    ],
)
def test_nothing_else_passes_whatever_it_holds(event: bytes) -> None:
    assert not passes(event)


@pytest.mark.parametrize("file", ["vanilla/manager.d/crmbridge.conf", "freepbx/manager_custom.conf"])
def test_the_shipped_files_let_through_just_what_is_handled(file: str) -> None:
    lines = re.findall(r"^eventfilter = (.*)$", (CONF / file).read_text(), re.MULTILINE)
    assert lines == [PATTERN]


def test_it_fits_into_a_line() -> None:
    assert len(f"Filter: {PATTERN}\r\n") <= LONGEST_LINE


def test_the_classes_at_the_login_hold_every_event_that_was_ever_recorded() -> None:
    asked = set(filters.CLASSES.split(","))
    seen = set()
    for trace in shipped():
        for frame in FrameReader(WANTED | filters.OF_SESSION).feed(trace.raw):
            if "Privilege" in frame:
                seen.add(frame["Event"])
                assert set(frame["Privilege"].split(",")) <= {*asked, "all"}, frame
    assert seen > {"Newchannel", "DialBegin", "BridgeEnter", "Cdr", "Hangup", "FullyBooted"}


@pytest.mark.parametrize(
    ("lines", "hidden"),
    [
        ([], []),
        ([PATTERN], []),
        ([PATTERN.replace("Hangup|", "")], ["Hangup"]),
        (["!Event: Hangup"], ["Hangup", "HangupRequest"]),
        (["Event: .*", "!^Event: Cdr[[:cntrl:]]"], ["Cdr"]),
        (["^Event: (Newchannel|Cdr)[[:space:]]", "Privilege: (call|system|user)"], []),
        (["Event: Newchannel"], sorted(WANTED | filters.OF_SESSION - {"Newchannel"})),
    ],
)
def test_what_a_users_own_filter_hides(lines: list[str], hidden: list[str]) -> None:
    assert filters.hidden(lines, WANTED) == sorted(set(hidden) - {"Newchannel"} - OF_LISTS)


def test_a_filter_that_can_not_be_read_is_not_judged() -> None:
    with pytest.raises(ValueError, match=r"\(Event"):
        filters.hidden(["(Event"], WANTED)

"""The files in asterisk-conf/, on a real Asterisk: put in place as they say, they do what they say and no more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.ami import Frame, RefusedError, session
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import LAB_SECRET, LAB_USER, SECRET, SHIPPED, USER, Pbx
from tests.asterisk.lab.stage import perform
from tests.asterisk.scenarios import SCENARIOS

from crmbridge.calls.phone_states import PhoneStates
from crmbridge.calls.tracker import Tracker
from crmbridge.pbx import filters
from crmbridge.pbx.listing import LISTS

pytestmark = pytest.mark.needs("asterisk")

USER_FILE = "manager.d/crmbridge.conf"
NEEDED = {"Originate", *(one.action for one in LISTS), "ListCommands", "Ping", "Challenge", "Login", "Logoff"}
LIMIT_S = 120
FORBIDDEN = {
    "Hangup",
    "Redirect",
    "Setvar",
    "Command",
    "GetConfig",
    "UpdateConfig",
    "ModuleLoad",
    "Reload",
    "DBPut",
    "DBDel",
    "UserEvent",
}


@pytest.fixture
def bare_pbx(root: tuple[str, Path]) -> Iterator[Pbx]:
    """An Asterisk without anything of ours."""
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network, shipped=None) as pbx:
        yield pbx


async def refused(pbx: Pbx, secret: str) -> bool:
    try:
        async with session(pbx, USER, secret):
            return False
    except RefusedError:
        return True


async def test_without_a_secret_nobody_logs_in(bare_pbx: Pbx) -> None:
    bare_pbx.configure(USER_FILE, (SHIPPED / USER_FILE).read_text())
    bare_pbx.cli("manager reload")
    assert f"username: {USER}" in bare_pbx.cli(f"manager show user {USER}")
    for secret in ("", "REPLACE-ME", SECRET):
        assert await refused(bare_pbx, secret)


async def test_both_files_are_taken_up_without_a_restart(bare_pbx: Pbx) -> None:
    assert await refused(bare_pbx, SECRET)
    assert "cdr_manager\n" not in bare_pbx.cli("cdr show status")
    async with session(bare_pbx, LAB_USER, LAB_SECRET) as logged_in_before:
        filled_in = (SHIPPED / USER_FILE).read_text().replace(";secret = REPLACE-ME", f"secret = {SECRET}")
        bare_pbx.configure(USER_FILE, filled_in)
        bare_pbx.cli("manager reload")
        bare_pbx.configure("cdr_manager.conf", (SHIPPED / "cdr_manager.conf").read_text())
        bare_pbx.cli("module reload cdr_manager.so")
        assert (await logged_in_before.action("Ping"))["Response"] == "Success"
    assert "cdr_manager\n" in bare_pbx.cli("cdr show status")
    recording = await perform(bare_pbx, SCENARIOS["did_answered"])
    assert [frame["Event"] for frame in recording.frames if frame.get("Event") == "Cdr"]


async def test_the_user_may_do_what_is_needed_and_nothing_else(pbx: Pbx) -> None:
    async with session(pbx, USER, SECRET) as ami:
        allowed = set(await ami.action("ListCommands")) - {"Response", "ActionID"}
        assert allowed >= NEEDED
        assert not allowed & FORBIDDEN
        command = await ami.action("Command", Command="core show uptime")
        assert (command["Response"], command["Message"]) == ("Error", "Permission denied")
        program = await ami.action(
            "Originate", Channel="Local/777@from-internal", Application="System", Data="true", Async="true"
        )
        assert program["Response"] == "Error", "an application that runs programs was let through"


async def test_the_user_hears_what_is_needed_and_is_spared_the_rest(pbx: Pbx) -> None:
    """All that the bridge hears of some calls is all of these events that there were, byte for byte."""
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
        everything = await stack.enter_async_context(session(pbx, LAB_USER, LAB_SECRET))
        ours = await stack.enter_async_context(session(pbx, USER, SECRET))
        for name in ("did_answered", "queue_local_members", "attended_by_refer", "click_to_call"):
            await perform(pbx, SCENARIOS[name])
        pbx.cli("module reload app_queue.so")
        # It says that it did so after the command has come back.
        await everything.until(lambda frame: frame.get("Event") == "Reload")
        await everything.action("UserEvent", UserEvent="UserDeviceAdded", Data="105,9105")
        for ami in (everything, ours):
            await ami.until(lambda frame: frame.get("Event") == "UserEvent")
    wanted = Tracker.EVENTS | PhoneStates.EVENTS | {"Cdr", "OriginateResponse"} | filters.OF_SESSION
    heard = [frame for frame in ours.frames if "Event" in frame]
    assert {frame["Event"] for frame in heard} <= wanted
    happened = [frame for frame in everything.frames if frame.get("Event") in wanted]
    # FullyBooted is sent to each session by itself, with the uptime of that second; and some events have an empty line
    # too many behind them.
    for frames in (heard, happened):
        frames[:] = [
            {name: value for name, value in frame.items() if name}
            for frame in frames
            if frame["Event"] != "FullyBooted"
        ]
    assert heard == happened
    names = {frame["Event"] for frame in heard}
    assert names >= {"Newchannel", "DialBegin", "DialEnd", "BridgeEnter", "Hangup", "Cdr", "Reload"}
    assert names >= {"OriginateResponse", "UserEvent", "LocalBridge", "AttendedTransfer"}
    assert {frame.get("Event") for frame in everything.frames} >= {
        "VarSet",
        "Newexten",
        "BridgeCreate",
        "MusicOnHoldStart",
    }


def is_event(name: str) -> Callable[[Frame], bool]:
    return lambda frame: frame.get("Event") == name


async def test_no_list_is_filtered(pbx: Pbx) -> None:
    async with asyncio.timeout(LIMIT_S), session(pbx, USER, SECRET) as ami:
        for one in LISTS:
            answer = await ami.action(one.action, **({"Family": one.family} if one.family else {}))
            if not (one.optional and answer["Response"] == "Error"):
                await ami.until(is_event(one.complete))
        assert ami.events("ExtensionStatus"), "the lab's dialplan has hints"


@pytest.mark.parametrize("style", ["by name", "by regular expression"])
async def test_a_filter_by_name_does_the_same_where_asterisk_knows_it(bare_pbx: Pbx, style: str) -> None:
    """Newer ones do (18.26, 20.11, 21.6, 22.1); older ones pass over such lines, and would send everything."""
    names = re.findall(r"\w+", filters.pattern(Tracker.EVENTS).partition("(")[2].partition(")")[0])
    by_name = "\n".join(f"eventfilter(action(include),name({name})) =" for name in names)
    filled_in = (SHIPPED / USER_FILE).read_text().replace(";secret = REPLACE-ME", f"secret = {SECRET}")
    if style == "by name":
        filled_in = re.sub(r"^eventfilter = .*$", by_name, filled_in, flags=re.MULTILINE)
    bare_pbx.configure(USER_FILE, filled_in)
    bare_pbx.cli("manager reload")
    async with asyncio.timeout(LIMIT_S), session(bare_pbx, USER, SECRET) as ours:
        await perform(bare_pbx, SCENARIOS["did_answered"])
        await ours.until(lambda frame: frame.get("Event") == "Hangup")
        filtered = not {"BridgeCreate", "NewConnectedLine"} & {frame.get("Event") for frame in ours.frames}
    assert filtered == (style == "by regular expression" or bare_pbx.version == "22")


async def test_call_records_carry_what_joins_them(pbx: Pbx) -> None:
    recording = await perform(pbx, SCENARIOS["did_answered"])
    (record,) = [frame for frame in recording.frames if frame.get("Event") == "Cdr"]
    assert record["LinkedID"] == record["UniqueID"]
    assert record["Sequence"].isdecimal()
    assert record["DID"] == "0723456777"
    assert record["RecordingFile"] == f"in-0723456777-{record['UniqueID']}.wav"
    recording = await perform(pbx, SCENARIOS["queue_local_members"])
    records = [frame for frame in recording.frames if frame.get("Event") == "Cdr"]
    assert len(records) == 4
    assert len({record["LinkedID"] for record in records}) == 1
    assert len({record["Sequence"] for record in records}) == 4

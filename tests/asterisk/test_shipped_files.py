"""The files in asterisk-conf/, on a real Asterisk: put in place as they say, they do what they say and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.ami import RefusedError, session
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import LAB_SECRET, LAB_USER, SECRET, SHIPPED, USER, Pbx
from tests.asterisk.lab.stage import perform
from tests.asterisk.scenarios import SCENARIOS

pytestmark = pytest.mark.needs("asterisk")

USER_FILE = "manager.d/crmbridge.conf"
NEEDED = {"Originate", "CoreShowChannels", "BridgeList", "ExtensionStateList", "Ping", "Challenge", "Login", "Logoff"}
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
    async with session(pbx) as ami:
        allowed = set(await ami.action("ListCommands")) - {"Response", "ActionID"}
        assert allowed >= NEEDED
        assert not allowed & FORBIDDEN
        command = await ami.action("Command", Command="core show uptime")
        assert (command["Response"], command["Message"]) == ("Error", "Permission denied")
        program = await ami.action(
            "Originate", Channel="Local/777@from-internal", Application="System", Data="true", Async="true"
        )
        assert program["Response"] == "Error", "an application that runs programs was let through"


async def test_the_user_is_spared_what_nobody_needs(pbx: Pbx) -> None:
    async with session(pbx, LAB_USER, LAB_SECRET) as all_of_it:
        recording = await perform(pbx, SCENARIOS["did_answered"])
        await all_of_it.until(lambda frame: frame.get("Event") == "Cdr")
    ours = {frame["Event"] for frame in recording.frames if "Event" in frame}
    assert {frame.get("Event") for frame in all_of_it.frames} >= {"VarSet", "Newexten"}
    assert not ours & {"VarSet", "Newexten", "RTCPSent", "CEL"}
    assert ours >= {"FullyBooted", "Newchannel", "DialBegin", "DialEnd", "BridgeEnter", "Hangup", "Cdr"}


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

"""Clicks through the installed bridge on a live Asterisk: what the phones saw, what the CRM and the operator are told.

Each test makes several clicks with one bridge, one after the other: an agent whose phone does this, a number that does
that. What became of each is known from the phones, and the bridge's word for it is compared with that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.asterisk.faults.relay import relaying
from tests.asterisk.lab.bridge import COMMAND, Bridge, ask, configured, started
from tests.asterisk.lab.pbx import AMI, SIP, Pbx
from tests.asterisk.lab.phone import ANSWER, BUSY, NO_ANSWER, Call, Phone, Plan

from crmbridge.demo.receiver import Receiver

pytestmark = pytest.mark.needs("asterisk")

LIMIT_S = 60
RELAY = ("127.0.0.1", 5039)
UNAVAILABLE = Plan(final=480)
DECLINES = Plan(ring=None, after_s=0, final=603)
WRONG_NUMBER = Plan(ring=None, after_s=0, final=404)
PICK_UP = Plan(ring=None, after_s=0)
OFFICE = {"777": "127.0.0.77", "778": "127.0.0.78", "trunk": "127.0.0.2"}
FREEPBX = {"101": "127.0.2.101", "106": "127.0.2.106", "trunk": "127.0.2.2"}
AS_ON_FREEPBX = {
    "CRMBRIDGE_DIALER__CHANNEL": "Local/{ext}@originate-skipvm",
    "CRMBRIDGE_PBX__EXTENSIONS": r"1\d\d",
}
QUICK = {
    "CRMBRIDGE_DIALER__PER_EXTENSION_PER_MINUTE": "60",
    "CRMBRIDGE_DIALER__TIMEOUT_S": "1.5",
    "CRMBRIDGE_DIALER__AUTO_ANSWER": "true",
}


@dataclass(frozen=True)
class Case:
    """A click, how the agent's phone and the number answer it, and how the bridge must say that it ended."""

    outcome: str
    agent: Plan = ANSWER
    number: Plan = ANSWER
    ext: str = "777"
    gives_up: bool = False
    """The agent hangs up while the number rings."""


DIRECT = (
    Case("answered"),
    Case("busy", number=BUSY),
    Case("no_answer", number=UNAVAILABLE),
    Case("declined", number=DECLINES),
    Case("wrong_number", number=WRONG_NUMBER),
    Case("given_up", number=NO_ANSWER, gives_up=True),
    Case("agent_busy", agent=BUSY),
    Case("agent_declined", agent=DECLINES),
    Case("agent_no_answer", agent=NO_ANSWER),
)
THROUGH_LOCAL = (
    Case("answered", ext="101"),
    Case("busy", number=BUSY, ext="101"),
    Case("given_up", number=NO_ANSWER, gives_up=True, ext="101"),
    Case("agent_busy", agent=BUSY, ext="101"),
    Case("agent_no_answer", agent=NO_ANSWER, ext="101"),
    Case("agent_no_answer", agent=UNAVAILABLE, ext="101"),
    Case("agent_unreachable", ext="108"),
)


class Desk:
    """A bridge, and the phones of agents and of whom they call."""

    def __init__(self, pbx: Pbx, folder: Path, running: Bridge, phones: dict[str, Phone]) -> None:
        self.pbx, self.folder, self.running, self.phones = pbx, folder, running, phones
        self.trunk = phones["trunk"]

    async def click(self, ext: str, number: str) -> tuple[int, str]:
        """What the CRM is answered: HTTP status, and the error's code."""
        status, body = await ask(self.pbx.network, f"/dialer/sodialer.php?sExt={ext}&sNumber={number}&ClientId=10")
        return status, "" if body["success"] else body["error"]["code"]

    async def called(self, name: str) -> Call:
        """The next call of a phone."""
        phone = self.phones[name]
        return await phone.called(len(phone.calls) + 1)

    async def play(self, case: Case, number: str) -> tuple[Call | None, Call | None]:
        """A click from its beginning to its end; the calls of the agent's phone and of the number."""
        phone, ended = self.phones.get(case.ext), self.running.count("click.ended")
        calls, numbers = len(phone.calls) if phone else 0, len(self.trunk.calls)
        self.trunk.plan = case.number
        if phone:
            phone.plan = case.agent
        assert await self.click(case.ext, number) == (200, "")
        if case.outcome == "answered":
            assert phone
            await self._talk(await phone.called(calls + 1), await self.trunk.called(numbers + 1))
        elif case.gives_up:
            assert phone
            await (await self.trunk.called(numbers + 1)).until_ringing()
            await phone.calls[-1].hang_up()
        await self.running.logged("click.ended", times=ended + 1)
        agent = phone.calls[-1] if phone and len(phone.calls) > calls else None
        return agent, self.trunk.calls[-1] if len(self.trunk.calls) > numbers else None

    async def _talk(self, agent: Call, number: Call) -> None:
        await asyncio.gather(agent.audio.until_hears(number.audio), number.audio.until_hears(agent.audio))
        await asyncio.sleep(1.2)  # they talk: the call list counts whole seconds
        await agent.hang_up()
        await number.until_over()

    async def knows(self, device: str, state: str) -> None:
        """Wait until the bridge has heard this of a device, and nothing else since."""
        await self.running.until(lambda: self._states().get(device) == state)
        assert self._states().get(device) == state

    def _states(self) -> dict[str, str]:
        lines = [json.loads(line) for line in self.running.lines if line.startswith("{")]
        return {line["device"]: line["state"] for line in lines if line.get("device")}

    async def clicks(self, *filters: str) -> list[dict[str, Any]]:
        """What `crmbridge clicks` shows, oldest first."""
        config = str(self.folder / "config.toml")
        process = await asyncio.create_subprocess_exec(
            *self.pbx.network.command(COMMAND, "clicks", "--json", *filters, "--config", config),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        rows: list[dict[str, Any]] = json.loads(output)
        return rows[::-1]

    async def outcomes(self) -> list[str]:
        return [click["outcome"] for click in await self.clicks()]


@asynccontextmanager
async def desk(
    pbx: Pbx, folder: Path, phones: dict[str, str], settings: dict[str, str], *, ami: tuple[str, int] = AMI
) -> AsyncIterator[Desk]:
    """The bridge, which knows the state of each phone."""
    config = configured(folder, ami=ami)
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
        by_name = {
            name: await stack.enter_async_context(Phone(pbx.network, address, name, pbx=SIP))
            for name, address in phones.items()
        }
        command = pbx.network.command(COMMAND, "run", "--config", str(config))
        running = await stack.enter_async_context(started(command, settings))
        await running.until(lambda: "CoreShowChannelsComplete" in "".join(running.lines))
        yield Desk(pbx, folder, running, by_name)


def numbers(prefix: str = "052") -> Iterator[str]:
    """Another number for each click: none repeats the one before. 058 goes out by the FreePBX-shaped dialplan."""
    return (f"{prefix}11111{count:02}" for count in range(11, 99))


async def test_how_clicks_end(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    async with desk(pbx, tmp_path, OFFICE, QUICK) as lab:
        for case, number in zip(DIRECT, numbers(), strict=False):
            agent, callee = await lab.play(case, number)
            assert agent is not None
            assert agent.header("From").startswith(f'"CRM {number}" <sip:777@'), "whom the agent is about to talk with"
            assert "info=alert-autoanswer" in agent.header("Alert-Info")
            assert "answer-after=0" in agent.header("Call-Info")
            assert (callee is None) == case.outcome.startswith("agent"), case
            if callee is not None:
                assert (callee.dialed, callee.caller) == (number, "0723456777"), "the extension's outgoing number"
        rows = await lab.clicks()
        assert [row["outcome"] for row in rows] == [case.outcome for case in DIRECT]
        answered = rows[0]
        assert (answered["phone"], answered["number_state"], answered["user"]) == ("answered", "answered", "crm")
        assert 1 <= answered["talk"] <= 3
        assert [row["click"] for row in await lab.clicks("--outcome", "busy")] == [rows[1]["click"]]
        await lab.running.logged("cdr.stored")  # of the first, which was answered
        status, listed = await ask(pbx.network, f"/calls?number={answered['dialed']}")
        assert status == 200
        assert [(one["ext"], one["number"], one["incoming"]) for one in listed["result"]] == [
            ("777", answered["dialed"], False)
        ]
        assert not any(phone.calls for name, phone in lab.phones.items() if name == "778")
    assert crm.targets == [], "the CRM has asked for these calls: it is told of none"


async def test_how_clicks_end_through_a_local(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    async with desk(pbx, tmp_path, FREEPBX, {**QUICK, **AS_ON_FREEPBX}) as lab:
        for case, number in zip(THROUGH_LOCAL, numbers("058"), strict=False):
            agent, callee = await lab.play(case, number)
            assert (agent is None) == (case.outcome == "agent_unreachable"), case
            if agent is not None:
                assert agent.header("From").startswith(f'"CRM {number}" <sip:101@')
                assert "info=alert-autoanswer" in agent.header("Alert-Info")
            assert (callee is None) == case.outcome.startswith("agent"), case
            if callee is not None:
                assert (callee.dialed, callee.caller) == (number, "0723457000")
        rows = await lab.clicks()
        assert [row["outcome"] for row in rows] == [case.outcome for case in THROUGH_LOCAL]
        await lab.running.logged("cdr.stored")
        _, listed = await ask(pbx.network, f"/calls?number={rows[0]['dialed']}")
        assert [(one["ext"], one["incoming"]) for one in listed["result"]] == [("101", False)]
    assert crm.targets == []


async def test_no_phone_is_rung_in_vain(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    number = numbers()
    async with desk(pbx, tmp_path, OFFICE, {**QUICK, "CRMBRIDGE_DIALER__MAX_CALLS": "1"}) as lab:
        agent = lab.phones["777"]
        talking = agent.dial("0529999999")
        await talking.until_answered()
        await lab.knows("PJSIP/777", "INUSE")
        assert await lab.click("783", next(number)) == (409, "extension_unreachable")
        assert await lab.click("777", next(number)) == (409, "extension_busy")
        assert len(agent.calls) == 1
        await talking.hang_up()
        await lab.knows("PJSIP/777", "NOT_INUSE")
        agent.plan = lab.phones["778"].plan = NO_ANSWER
        assert await lab.click("777", next(number)) == (200, "")
        ringing = await agent.called(2)
        await ringing.until_ringing()
        assert await lab.click("778", next(number)) == (429, "too_many")
        await ringing.follow(BUSY)
        await lab.running.logged("click.ended")
        assert await lab.click("778", next(number)) == (200, "")
        await (await lab.phones["778"].called()).follow(BUSY)
        await lab.running.logged("click.ended", times=2)
        assert [(row["ext"], row["outcome"], row["code"]) for row in await lab.clicks()] == [
            ("783", "refused", "extension_unreachable"),
            ("777", "refused", "extension_busy"),
            ("777", "agent_busy", None),
            ("778", "refused", "too_many"),
            ("778", "agent_busy", None),
        ]
    assert crm.targets == []


@contextmanager
def hint(pbx: Pbx, exten: str, devices: str) -> Iterator[None]:
    pbx.cli(f"dialplan add extension {exten},hint,{devices} into ext-local")
    try:
        yield
    finally:
        pbx.cli(f"dialplan remove extension {exten}@ext-local hint")


async def test_the_phones_of_a_hint_and_not_its_sum(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    """FreePBX's hints name a lamp for do-not-disturb, which is free: so is the hint, though the phone is away."""
    number = numbers("058")
    pbx.cli("devstate change Custom:DND109 NOT_INUSE")  # before the hint, which then needs no time to follow
    with hint(pbx, "109", "PJSIP/783&Custom:DND109"):
        assert "State:Idle" in next(line for line in pbx.cli("core show hints").splitlines() if "109@" in line)
        async with desk(pbx, tmp_path, FREEPBX, {**QUICK, **AS_ON_FREEPBX}) as lab:
            talking = lab.phones["106"].dial("0589999999")
            await talking.until_answered()
            await lab.knows("PJSIP/106", "INUSE")
            assert await lab.click("109", next(number)) == (409, "extension_unreachable")
            assert await lab.click("106", next(number)) == (409, "extension_busy")
            await talking.hang_up()
            await lab.knows("PJSIP/106", "NOT_INUSE")
            await lab.play(Case("agent_no_answer", agent=BUSY, ext="106"), next(number))
            assert await lab.outcomes() == ["refused", "refused", "agent_no_answer"]
        as_wanted = {"CRMBRIDGE_DIALER__WHEN_AWAY": "ring", "CRMBRIDGE_DIALER__WHEN_TALKING": "ring"}
        async with desk(pbx, tmp_path, FREEPBX, {**QUICK, **AS_ON_FREEPBX, **as_wanted}) as lab:
            await lab.play(Case("agent_unreachable", ext="109"), next(number))
            talking = lab.phones["106"].dial("0589999999")
            await talking.until_answered()
            await lab.knows("PJSIP/106", "INUSE")
            await lab.play(Case("agent_no_answer", agent=UNAVAILABLE, ext="106"), next(number))
            assert len(lab.phones["106"].calls) == 2
            await talking.hang_up()
            assert (await lab.outcomes())[-2:] == ["agent_unreachable", "agent_no_answer"]
    assert crm.targets == []


async def test_a_click_across_the_loss_of_the_session(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    """What was not heard is not known; what goes on is followed to its end; nothing is rung again."""
    number = numbers()
    async with (
        relaying(pbx.network, RELAY, AMI) as relay,
        desk(pbx, tmp_path, OFFICE, QUICK, ami=RELAY) as lab,
    ):
        agent = lab.phones["777"]
        agent.plan = NO_ANSWER
        assert await lab.click("777", next(number)) == (200, "")
        ringing = await agent.called()
        await ringing.until_ringing()
        await lab.running.logged("click.phone")
        relay.freeze()
        await ringing.follow(BUSY)
        relay.reset()
        relay.thaw()
        await lab.running.logged("click.ended")
        agent.plan = PICK_UP
        assert await lab.click("777", next(number)) == (200, "")
        talking, callee = await agent.called(2), await lab.trunk.called()
        await callee.until_answered()
        await lab.running.logged("click.number", times=2)
        relay.reset()
        await lab.running.logged("ami.connected", times=3)
        await talking.hang_up()
        await callee.until_over()
        await lab.running.logged("click.ended", times=2)
        assert await lab.outcomes() == ["unknown", "answered"]
        assert (len(agent.calls), len(lab.trunk.calls)) == (2, 1)
    assert crm.targets == []


async def test_a_click_across_a_kill_of_the_bridge(pbx: Pbx, crm: Receiver, tmp_path: Path) -> None:
    number = next(numbers())
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(desk(pbx, tmp_path, OFFICE, QUICK))
        assert await first.click("777", number) == (200, "")
        callee = await first.trunk.called()
        await callee.until_answered()
        await first.running.logged("click.number", times=2)
        first.running.process.kill()
        await first.running.process.wait()
        async with desk(pbx, tmp_path, {"trunk": "127.0.0.9"}, QUICK) as second:
            assert await second.outcomes() == ["in_progress"]
            await first.phones["777"].calls[0].hang_up()
            await second.running.logged("click.ended")
            (row,) = await second.clicks()
            assert (row["outcome"], row["number_state"]) == ("answered", "answered")
            assert row["talk"] is not None
    assert crm.targets == []

"""Calls that follow somebody from phone to mobile, and that have to be accepted by whoever answers."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.phone import NO_ANSWER, RING_S, Call, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

SLOW = Plan(after_s=1.0)


@scenario(
    "777 rings for a second, then the mobile 0521111111, which answers",
    expected=(rings("777"),),
    notes="the mobile is a trunk's leg: nobody's phone, so nobody's conversation",
)
async def followme_then_mobile(stage: Stage) -> None:
    stage.phone("777").plan = NO_ANSWER
    caller = stage.outside("0723458210")
    mobile = await stage.trunk.called(2)
    assert mobile.dialed == "0521111111"
    await stage.talk(caller, mobile, for_s=0.5)
    await caller.hang_up()


async def _mobile_answers(stage: Stage, did: str) -> None:
    stage.phone("777").plan = NO_ANSWER
    caller = stage.outside(did)
    await (await stage.phone("777").called()).until_ringing()
    await stage.talk(caller, await stage.trunk.called(2), for_s=0.5)
    await caller.hang_up()


async def _phone_answers(stage: Stage, did: str) -> None:
    stage.phone("777").plan = SLOW
    stage.trunk.plan = NO_ANSWER
    caller = stage.outside(did)
    await (await stage.trunk.called(2)).until_ringing()
    await stage.talk(caller, await stage.phone("777").called(), for_s=0.5)
    await caller.hang_up()


@scenario("777 and a mobile (Local/n) ring at once; the mobile answers", expected=(rings("777"),))
async def followme_at_once_mobile(stage: Stage) -> None:
    await _mobile_answers(stage, "0723458211")


@scenario("777 and a mobile (Local/n) ring at once; 777 answers", expected=(rings("777"), talks("777")))
async def followme_at_once_phone(stage: Stage) -> None:
    await _phone_answers(stage, "0723458211")


@scenario(
    "777 and a mobile ring at once, both behind a Local without /n; the mobile answers",
    expected=(rings("777"),),
    notes="caller and mobile are left alone in one bridge once the Local is optimised away",
)
async def followme_locals_mobile(stage: Stage) -> None:
    await _mobile_answers(stage, "0723458212")


@scenario(
    "777 and a mobile ring at once, both behind a Local without /n; 777 answers",
    expected=(rings("777"), talks("777")),
)
async def followme_locals_phone(stage: Stage) -> None:
    await _phone_answers(stage, "0723458212")


# Confirmation prompts


PROMPT_S = 0.8
"""What is pressed before the question may go unheard."""


async def _asked(stage: Stage, did: str) -> tuple[Call, Call]:
    """The caller, and 777, which has answered and is asked."""
    caller = stage.outside(did)
    agent = await stage.phone("777").called()
    await agent.until_answered()
    await asyncio.sleep(PROMPT_S)
    return caller, agent


async def _accepted(stage: Stage, did: str) -> None:
    caller, agent = await _asked(stage, did)
    assert not agent.audio.hears(caller.audio)
    await agent.press("1")
    await stage.talk(caller, agent, for_s=0.5)
    await caller.hang_up()


async def _refused(stage: Stage, did: str, key: str = "2") -> None:
    caller, agent = await _asked(stage, did)
    await agent.press(key)
    await agent.until_over()
    await caller.hang_up()


async def _hung_up(stage: Stage, did: str) -> None:
    caller, agent = await _asked(stage, did)
    await agent.hang_up()
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario("Dial with U(confirm): 777 answers, is asked, presses 1", expected=(rings("777"), talks("777")))
async def confirm_accepted(stage: Stage) -> None:
    await _accepted(stage, "0723458220")


@scenario("Dial with U(confirm): 777 answers, is asked, presses 2: the call is not for them", expected=(rings("777"),))
async def confirm_refused(stage: Stage) -> None:
    await _refused(stage, "0723458220")


@scenario(
    "Dial with U(confirm): 777 answers, is asked, hangs up",
    expected=(rings("777"),),
    notes="the leg may share a bridge with the caller for a moment; its HangupRequest comes first",
)
async def confirm_hung_up(stage: Stage) -> None:
    await _hung_up(stage, "0723458220")


@scenario(
    "Dial with M(confirm): 777 answers, is asked, presses 1", expected=(rings("777"), talks("777")), versions=("16",)
)
async def confirm_macro_accepted(stage: Stage) -> None:
    await _accepted(stage, "0723458221")


@scenario("Dial with M(confirm): 777 answers, is asked, presses 2", expected=(rings("777"),), versions=("16",))
async def confirm_macro_refused(stage: Stage) -> None:
    await _refused(stage, "0723458221")


@scenario("Dial with M(confirm): 777 answers, is asked, hangs up", expected=(rings("777"),), versions=("16",))
async def confirm_macro_hung_up(stage: Stage) -> None:
    await _hung_up(stage, "0723458221")


@scenario("FollowMe: 777 answers, is asked, presses 1", expected=(rings("777"), talks("777")))
async def followme_app_accepted(stage: Stage) -> None:
    await _accepted(stage, "0723458222")


@scenario("FollowMe: 777 answers, is asked, presses 2", expected=(rings("777"),))
async def followme_app_refused(stage: Stage) -> None:
    await _refused(stage, "0723458222")


@scenario("FollowMe: 777 answers, is asked, hangs up", expected=(rings("777"),))
async def followme_app_hung_up(stage: Stage) -> None:
    await _hung_up(stage, "0723458222")


async def _mobile_is_asked(stage: Stage) -> tuple[Call, Call, Call]:
    """The caller, 777, which rings, and the mobile, which has answered and is asked."""
    stage.phone("777").plan = NO_ANSWER
    caller = stage.outside("0723458223")
    agent = await stage.phone("777").called()
    await agent.until_ringing()
    mobile = await stage.trunk.called(2)
    await mobile.until_answered()
    await asyncio.sleep(RING_S)
    return caller, agent, mobile


@scenario(
    "777 and a mobile ring at once; the mobile answers, is asked, and presses 1",
    expected=(rings("777"),),
)
async def confirm_mobile_accepted(stage: Stage) -> None:
    caller, agent, mobile = await _mobile_is_asked(stage)
    assert not agent.over
    await mobile.press("1")
    await stage.talk(caller, mobile, for_s=0.5)
    await caller.hang_up()


@scenario(
    "777 and a mobile ring at once; the mobile's voicemail answers, is asked, and says nothing; 777 answers",
    expected=(rings("777"), talks("777")),
)
async def confirm_mobile_voicemail(stage: Stage) -> None:
    stage.phone("777").plan = SLOW
    caller = stage.outside("0723458223")
    mobile = await stage.trunk.called(2)
    await mobile.until_answered()
    await stage.talk(caller, await stage.phone("777").called(), for_s=0.5)
    await caller.hang_up()

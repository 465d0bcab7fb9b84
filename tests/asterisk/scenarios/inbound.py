"""Somebody outside calls one number, and one extension is meant."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.listed import missed
from tests.asterisk.lab.phone import BUSY, NO_ANSWER, RING_S, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks


@scenario(
    "DID to Dial(PJSIP/777): 777 rings and answers, the caller hangs up",
    expected=(rings("777"), talks("777")),
)
async def did_answered(stage: Stage) -> None:
    caller = stage.outside("0723456777")
    await stage.talk(caller, await stage.phone("777").called(), for_s=1.2)
    await caller.hang_up()


@scenario(
    "DID to Dial(PJSIP/777): 777 rings and answers, and hangs up first",
    expected=(rings("777"), talks("777")),
)
async def did_answered_agent_hangs_up(stage: Stage) -> None:
    caller = stage.outside("0723456777")
    agent = await stage.phone("777").called()
    await stage.talk(caller, agent)
    await agent.hang_up()


@scenario(
    "DID to Dial(PJSIP/777): 777 sends early media (183) instead of 180, then answers",
    expected=(rings("777"), talks("777")),
    notes="no state Ringing: DialState PROGRESS is the only sign before the answer",
)
async def early_media(stage: Stage) -> None:
    stage.phone("777").plan = Plan(ring=183)
    caller = stage.outside("0723456777")
    await stage.talk(caller, await stage.phone("777").called())
    await caller.hang_up()


@scenario(
    "Menu: Answer, Background; the caller presses 1, then Dial(PJSIP/777), 777 answers",
    expected=(rings("777"), talks("777")),
    notes="the inbound leg is Up before 777 is dialed",
)
async def ivr_then_extension(stage: Stage) -> None:
    caller = stage.outside("0723456001")
    await caller.until_answered()
    await caller.press("1")
    await stage.talk(caller, await stage.phone("777").called())
    await caller.hang_up()


@scenario(
    "Menu: the caller waits two seconds before pressing 2, then 777 and 778 ring for two seconds, and 778 answers",
    expected=(rings("777"), rings("778"), talks("778")),
    notes="the inbound leg is Up all the while: its records count seconds from the menu on",
)
async def ivr_then_group(stage: Stage) -> None:
    stage.phone("777").plan, stage.phone("778").plan = NO_ANSWER, Plan(after_s=2)
    caller = stage.outside("0723456001")
    await caller.until_answered()
    await asyncio.sleep(2)
    await caller.press("2")
    await (await stage.phone("777").called()).until_ringing()
    await stage.talk(caller, await stage.phone("778").called())
    await caller.hang_up()


@scenario(
    "DID to Dial(PJSIP/777): 777 refuses with 486 at once, without ringing",
    listed=(missed("777"),),
    notes="DialBegin comes all the same; nobody heard a ring",
)
async def busy(stage: Stage) -> None:
    stage.phone("777").plan = BUSY
    caller = stage.outside("0723456777")
    await caller.until_over()


@scenario(
    "DID to Dial(PJSIP/777,2): 777 rings and nobody answers; the caller gets the mailbox, and hangs up",
    expected=(rings("777"),),
    notes="the inbound leg goes Up for the mailbox",
)
async def no_answer_voicemail(stage: Stage) -> None:
    stage.phone("777").plan = NO_ANSWER
    caller = stage.outside("0723456003")
    await caller.until_answered()
    await caller.hang_up()


@scenario(
    "DID to Dial(PJSIP/777): 777 rings, the caller gives up",
    expected=(rings("777"),),
)
async def caller_gives_up(stage: Stage) -> None:
    stage.phone("777").plan = NO_ANSWER
    caller = stage.outside("0723456777")
    await (await stage.phone("777").called()).until_ringing()
    await caller.until_ringing()
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario(
    "The caller's name is in Hebrew (UTF-8)",
    expected=(rings("777"), talks("777")),
)
async def name_in_hebrew(stage: Stage) -> None:
    caller = stage.outside("0723456777", name="משה כהן")
    await stage.talk(caller, await stage.phone("777").called())
    await caller.hang_up()


@scenario(
    "The caller withholds the number (anonymous@anonymous.invalid, Privacy: id)",
    expected=(rings("777", "anonymous"), talks("777", "anonymous")),
)
async def anonymous(stage: Stage) -> None:
    caller = stage.outside("0723456777", caller="anonymous@anonymous.invalid", name="Anonymous", privacy="id")
    await stage.talk(caller, await stage.phone("777").called())
    await caller.hang_up()


@scenario(
    "DID to an endpoint whose name is not its extension (alice-desk is 781)",
    expected=(rings("781"), talks("781")),
    notes="the extension shows in the endpoint's caller id only",
)
async def endpoint_of_another_name(stage: Stage) -> None:
    caller = stage.outside("0723456781")
    await stage.talk(caller, await stage.phone("781").called())
    await caller.hang_up()

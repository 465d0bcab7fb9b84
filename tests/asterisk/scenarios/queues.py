"""Callers who wait in a queue, and agents who are rung in turn, again, at once, or not at all."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.listed import ReadAs, had, missed
from tests.asterisk.lab.phone import ANSWER, BUSY, NO_ANSWER, RING_S, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

PICK_UP = Plan(ring=None, after_s=0)
"""What somebody does whose phone was left to ring."""


async def _second_in_turn(stage: Stage, did: str) -> None:
    stage.phone("777").plan = NO_ANSWER
    caller = stage.outside(did)
    first = await stage.phone("777").called()
    await stage.talk(caller, await stage.phone("778").called())
    assert first.over
    await caller.hang_up()


@scenario(
    "Queue, linear, members PJSIP/777 and PJSIP/778: 777 rings for a second, then 778, which answers",
    expected=(rings("777"), rings("778"), talks("778")),
)
async def queue_in_turn(stage: Stage) -> None:
    await _second_in_turn(stage, "0723458101")


@scenario(
    "Queue, rrmemory, members Local/777@from-queue/n and Local/778@from-queue/n: one rings, then the other",
    expected=(rings("777"), rings("778"), talks("778")),
)
async def queue_in_turn_local(stage: Stage) -> None:
    await _second_in_turn(stage, "0723458106")


@scenario(
    "Queue, ringall, members PJSIP/778 and PJSIP/779: both ring for three seconds, then 779 answers",
    expected=(rings("778"), rings("779"), talks("779")),
    notes="the inbound leg is Up all the while: the record of 778 alone tells how long they rang",
)
async def queue_waits(stage: Stage) -> None:
    stage.phone("778").plan, stage.phone("779").plan = NO_ANSWER, Plan(after_s=3)
    caller = stage.outside("0723456006")
    await (await stage.phone("778").called()).until_ringing()
    await stage.talk(caller, await stage.phone("779").called())
    await caller.hang_up()


@scenario(
    "Queue, linear: 777 refuses with 486 without a ring, 778 rings and answers",
    expected=(rings("778"), talks("778")),
)
async def queue_member_busy(stage: Stage) -> None:
    stage.phone("777").plan = BUSY
    caller = stage.outside("0723458101")
    await stage.talk(caller, await stage.phone("778").called())
    await caller.hang_up()


async def _answers_the_second_time(stage: Stage, did: str) -> None:
    agent = stage.phone("777")
    agent.plan = NO_ANSWER
    caller = stage.outside(did)
    first = await agent.called()
    await first.until_ringing()
    agent.plan = ANSWER
    await stage.talk(caller, await agent.called(2))
    assert first.over
    await caller.hang_up()


@scenario(
    "Queue with PJSIP/777 alone: it rings for a second, and again a second later, then answers",
    expected=(rings("777"), talks("777")),
    notes="two legs of one phone for one caller: one popup",
)
async def queue_rings_again(stage: Stage) -> None:
    await _answers_the_second_time(stage, "0723458102")


@scenario(
    "Queue with Local/777@from-queue/n alone: 777 rings for a second, and again a second later, then answers",
    expected=(rings("777"), talks("777")),
    notes="two Locals and two legs of one phone for one caller: one popup",
)
async def queue_local_rings_again(stage: Stage) -> None:
    await _answers_the_second_time(stage, "0723458103")


async def _both_answer(stage: Stage, did: str) -> None:
    agents = stage.phone("778"), stage.phone("779")
    for agent in agents:
        agent.plan = NO_ANSWER
    caller = stage.outside(did)
    calls = [await agent.called() for agent in agents]
    for call in calls:
        await call.until_ringing()
    await asyncio.sleep(RING_S)
    await asyncio.gather(*(call.follow(PICK_UP) for call in calls))
    talking = [asyncio.create_task(stage.talk(caller, call)) for call in calls]
    _, in_vain = await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(RING_S)
    for task in in_vain:
        task.cancel()
    await caller.hang_up()


@scenario(
    "Queue, ringall, members PJSIP/778 and PJSIP/779: both answer at the same instant, one gets the call",
    expected=(rings("778"), rings("779")),
    either=(talks("778"), talks("779")),
)
async def queue_both_answer(stage: Stage) -> None:
    await _both_answer(stage, "0723456005")


@scenario(
    "Queue, ringall, members Local/778@from-queue/n and Local/779@from-queue/n: both answer at the same instant, one "
    "gets the call",
    expected=(rings("778"), rings("779")),
    either=(talks("778"), talks("779")),
    notes="both phones' legs may be answered, and each in a bridge with its Local",
)
async def queue_local_both_answer(stage: Stage) -> None:
    await _both_answer(stage, "0723456004")


@scenario(
    "Queue with an announcement to the agent: 778 answers, hears it, then the caller",
    expected=(rings("778"), rings("779"), talks("778")),
    notes="DialEnd ANSWER comes before the announcement, the bridge after it",
)
async def queue_announcement(stage: Stage) -> None:
    stage.phone("779").plan = NO_ANSWER
    caller = stage.outside("0723458104")
    await (await stage.phone("779").called()).until_ringing()
    await stage.talk(caller, await stage.phone("778").called())
    await caller.hang_up()


@scenario(
    "Queue with an announcement to the agent: 778 answers, and the caller hangs up while 778 hears it",
    expected=(rings("778"), rings("779")),
    notes="778's leg is answered, nobody talked",
)
async def queue_gone_in_announcement(stage: Stage) -> None:
    await _gone_in_announcement(stage, "0723458104")


@scenario(
    "Queue that answers first, with an announcement to the agent: 778 answers, the caller hangs up while 778 hears it",
    expected=(rings("778"), rings("779")),
    read_as=ReadAs(
        (had("778", talk_s=2),), "the record is that of an agent who talks: the caller was up, 778 answered"
    ),
    notes="778's leg is answered, nobody talked",
)
async def queue_up_and_gone_in_announcement(stage: Stage) -> None:
    stage.phone("778").plan = Plan(after_s=1.3)
    await _gone_in_announcement(stage, "0723458108")


async def _gone_in_announcement(stage: Stage, did: str) -> None:
    stage.phone("779").plan = NO_ANSWER
    caller = stage.outside(did)
    await (await stage.phone("779").called()).until_ringing()
    await (await stage.phone("778").called()).until_answered()
    await stage.ami.until(lambda frame: frame.get("Event") == "DialEnd" and frame["DialStatus"] == "ANSWER")
    await caller.hang_up()


@scenario(
    "Queue, ringall: 778 and 779 ring, the caller gives up",
    expected=(rings("778"), rings("779")),
)
async def queue_abandoned(stage: Stage) -> None:
    await _given_up(stage, "0723456005")


@scenario(
    "Queue, ringall, Local members: 778 and 779 ring, the caller gives up",
    expected=(rings("778"), rings("779")),
)
async def queue_local_abandoned(stage: Stage) -> None:
    await _given_up(stage, "0723456004")


async def _given_up(stage: Stage, did: str) -> None:
    agents = stage.phone("778"), stage.phone("779")
    for agent in agents:
        agent.plan = NO_ANSWER
    caller = stage.outside(did)
    for agent in agents:
        await (await agent.called()).until_ringing()
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario(
    "Queue for a second: 778 and 779 ring, nobody answers; the caller leaves it by its time-out and hears a prompt",
    expected=(rings("778"), rings("779")),
)
async def queue_timed_out(stage: Stage) -> None:
    stage.phone("778").plan = stage.phone("779").plan = NO_ANSWER
    caller = stage.outside("0723458107")
    await (await stage.phone("778").called()).until_ringing()
    await (await stage.phone("779").called()).until_ringing()
    await caller.until_over()


@scenario("Queue with nobody logged in: the caller is not let in, and hears a prompt", listed=(missed(),))
async def queue_nobody_there(stage: Stage) -> None:
    caller = stage.outside("0723458105")
    await caller.until_answered()
    await caller.until_over()

"""Somebody outside calls, and several extensions are meant."""

from __future__ import annotations

from tests.asterisk.lab.phone import NO_ANSWER, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

LATER = Plan(after_s=0.7)
"""Answers when the others have rung for a while."""


async def _second_answers(stage: Stage, did: str, extensions: tuple[str, ...], answers: str) -> None:
    for ext in extensions:
        stage.phone(ext).plan = LATER if ext == answers else NO_ANSWER
    caller = stage.outside(did)
    for ext in extensions:
        await (await stage.phone(ext).called()).until_ringing()
    await stage.talk(caller, await stage.phone(answers).called())
    await caller.hang_up()


@scenario(
    "Dial(777&778&779): all ring, 778 answers",
    expected=(rings("777"), rings("778"), rings("779"), talks("778")),
)
async def ring_group(stage: Stage) -> None:
    await _second_answers(stage, "0723456002", ("777", "778", "779"), "778")


@scenario(
    "Queue, ringall, members Local/778@from-queue/n and Local/779@from-queue/n: both ring, 778 answers",
    expected=(rings("778"), rings("779"), talks("778")),
    notes="the phone's bridge and the caller's are two, joined by the Local; it is never optimised away",
)
async def queue_local_members(stage: Stage) -> None:
    await _second_answers(stage, "0723456004", ("778", "779"), "778")


@scenario(
    "Queue, ringall, members PJSIP/778 and PJSIP/779: both ring, 779 answers",
    expected=(rings("778"), rings("779"), talks("779")),
)
async def queue_direct_members(stage: Stage) -> None:
    await _second_answers(stage, "0723456005", ("778", "779"), "779")

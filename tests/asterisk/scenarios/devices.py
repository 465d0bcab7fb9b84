"""What kind of phone is called: one of several, one that refuses, that isn't there, or that answers by itself."""

from __future__ import annotations

from tests.asterisk.lab.listed import ReadAs, missed
from tests.asterisk.lab.phone import NO_ANSWER, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks


async def _other_device_answers(stage: Stage, did: str, desk: str, other: str) -> None:
    stage.phone(desk).plan = NO_ANSWER
    stage.phone(other).plan = Plan(after_s=0.6)
    caller = stage.outside(did)
    await (await stage.phone(desk).called()).until_ringing()
    await stage.talk(caller, await stage.phone(other).called())
    await caller.hang_up()


@scenario(
    "Two devices of 777, two endpoints (777 and soft-777), ring at once; soft-777 answers",
    expected=(rings("777"), talks("777")),
    notes="two legs of one extension: one popup",
)
async def two_devices(stage: Stage) -> None:
    await _other_device_answers(stage, "0723458301", "777", "777-soft")


@scenario(
    "Two devices of 782, two contacts of one endpoint, ring at once; one answers",
    expected=(rings("782"), talks("782")),
    notes="two legs of one extension: one popup",
)
async def two_contacts(stage: Stage) -> None:
    await _other_device_answers(stage, "0723458302", "782", "782-cell")


@scenario("777 rings, and refuses with 603", expected=(rings("777"),))
async def rejected(stage: Stage) -> None:
    stage.phone("777").plan = Plan(final=603)
    await stage.outside("0723456777").until_over()


@scenario(
    "783 is not registered: the caller is told so at once",
    listed=(missed(),),
    read_as=ReadAs((), "Asterisk writes no record of a call that reached no phone and was not answered"),
)
async def unregistered(stage: Stage) -> None:
    await stage.outside("0723458303").until_over()


@scenario(
    "783, which is not registered, and 777 are called; 777 rings and answers", expected=(rings("777"), talks("777"))
)
async def unregistered_in_a_group(stage: Stage) -> None:
    caller = stage.outside("0723458304")
    await stage.talk(caller, await stage.phone("777").called())
    await caller.hang_up()


@scenario(
    "784 is registered, but was switched off: it is called for a second",
    listed=(missed("784"),),
    notes="DialBegin comes all the same; nobody heard a ring",
)
async def switched_off(stage: Stage) -> None:
    await stage.outside("0723458305").until_over()


@scenario(
    "777 answers by itself: 200 without 180",
    expected=(rings("777"), talks("777")),
    notes="no ring at all: the answer is its first sign",
)
async def auto_answer(stage: Stage) -> None:
    stage.phone("777").plan = Plan(ring=None, after_s=0)
    caller = stage.outside("0723456777")
    await stage.talk(caller, await stage.phone("777").called())
    await caller.hang_up()


@scenario("The call goes straight to 777's mailbox", listed=(missed(),))
async def voicemail(stage: Stage) -> None:
    caller = stage.outside("0723458306")
    await caller.until_answered()
    await caller.hang_up()

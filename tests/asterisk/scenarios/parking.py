"""A caller is parked; those who wait together hear music, and not one another."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.ami import Frame
from tests.asterisk.lab.listed import CALLER
from tests.asterisk.lab.phone import RING_S, Call
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

OTHER = "035555555"
ANSWERED = (rings("777"), talks("777"))


async def _answered(stage: Stage, ext: str = "777", *, caller: str = CALLER) -> tuple[Call, Call]:
    guest = stage.outside(f"0723456{ext}", caller=caller)
    agent = await stage.phone(ext).called()
    await stage.talk(guest, agent)
    return guest, agent


async def _park(stage: Stage, channel: str) -> str:
    """AMI Park; the space where it waits."""
    await stage.manage("Park", Channel=channel)
    return await _space(stage, channel)


async def _space(stage: Stage, channel: str) -> str:
    def is_it(frame: Frame) -> bool:
        return frame.get("Event") == "ParkedCall" and frame["ParkeeChannel"] == channel

    return (await stage.ami.until(is_it))["ParkingSpace"]


@scenario(
    "777 talks, the caller is parked (AMI Park), 778 takes the call from parking",
    expected=(*ANSWERED, talks("778")),
)
async def parked_and_taken(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    space = await _park(stage, stage.channel("trunk-bezeq"))
    await agent.until_over()
    taking = stage.phone("778").dial(space)
    await stage.talk(guest, taking)
    await guest.hang_up()


@scenario(
    "777 talks, parks by REFER to 700, and 778 takes the call from parking",
    expected=(*ANSWERED, talks("778")),
)
async def parked_by_transfer(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    assert await agent.refer("700") < 300
    space = await _space(stage, stage.channel("trunk-bezeq"))
    await agent.until_over()
    taking = stage.phone("778").dial(space)
    await stage.talk(guest, taking)
    await guest.hang_up()


@scenario(
    "777 talks, parks by keys (##700), and takes the call back",
    expected=ANSWERED,
    notes="777 talks twice in one call: told once",
)
async def parked_and_taken_back(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await agent.dials("##700")
    space = await _space(stage, stage.channel("trunk-bezeq"))
    # Not hung up by 777: one that does so at the very moment at which it is let go stays in Asterisk 22 for ever.
    await agent.until_over()
    await stage.talk(guest, stage.phone("777").dial(space))
    await guest.hang_up()


@scenario(
    "777 talks, parks by REFER to 710, nobody takes the call: 777 rings again and talks",
    expected=ANSWERED,
    notes="777 rings and talks twice in one call: told once",
)
async def parked_too_long(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    assert await agent.refer("710") < 300
    await agent.until_over()
    await stage.talk(guest, await stage.phone("777").called(2))
    await guest.hang_up()


@scenario("777 talks, the caller is parked (AMI Park) and hangs up", expected=ANSWERED)
async def parked_and_gives_up(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await _park(stage, stage.channel("trunk-bezeq"))
    await agent.until_over()
    await guest.hang_up()


@scenario(
    "A caller of 777 and a caller of 778 are parked together; 779 takes the second, 780 the first",
    expected=(
        *ANSWERED,
        rings("778", OTHER),
        talks("778", OTHER),
        talks("779", OTHER),
        talks("780"),
    ),
)
async def two_parked(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    first = stage.channel("trunk-bezeq")
    other, colleague = await _answered(stage, "778", caller=OTHER)
    spaces = [await _park(stage, first), await _park(stage, stage.channel("trunk-bezeq"))]
    await asyncio.gather(agent.until_over(), colleague.until_over())
    await asyncio.sleep(RING_S)  # together, in silence
    assert not guest.audio.hears(other.audio)
    await stage.talk(other, stage.phone("779").dial(spaces[1]))
    await stage.talk(guest, stage.phone("780").dial(spaces[0]))
    await guest.hang_up()
    await other.hang_up()


@scenario(
    "A caller of 777, and 779 who had called 778, are parked together: they don't talk; both hang up",
    expected=ANSWERED,
    notes="an extension's phone and an inbound leg in one holding bridge",
)
async def parked_beside_a_colleague(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    inside = stage.phone("779").dial("778")
    colleague = await stage.phone("778").called()
    await stage.talk(inside, colleague)
    await _park(stage, stage.channel("trunk-bezeq"))
    await _park(stage, stage.channel("779"))
    await asyncio.gather(agent.until_over(), colleague.until_over())
    await asyncio.sleep(RING_S)
    assert not guest.audio.hears(inside.audio)
    await guest.hang_up()
    await inside.hang_up()

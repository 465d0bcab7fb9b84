"""Several calls at once, call waiting, and hold."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.phone import NO_ANSWER, RING_S
from tests.asterisk.lab.stage import APART_S, Stage, rings, scenario, talks

OTHER = "035555555"
TALKED = (rings("777"), talks("777"))


@scenario(
    "777 talks; another caller rings 777 (call waiting), and 777 takes that call, with the first on hold",
    expected=(*TALKED, rings("777", OTHER), talks("777", OTHER)),
)
async def call_waiting_taken(stage: Stage) -> None:
    guest = stage.outside("0723456777")
    agent = await stage.phone("777").called()
    await stage.talk(guest, agent, for_s=APART_S)
    other = stage.outside("0723456777", caller=OTHER)
    second = await stage.phone("777").called(2)
    await second.until_ringing()
    await agent.hold()
    await stage.talk(other, second)
    await other.hang_up()
    await agent.resume()
    await stage.talk_again(guest, agent)
    await guest.hang_up()


@scenario(
    "777 talks; another caller rings 777 (call waiting), and gives up",
    expected=(*TALKED, rings("777", OTHER)),
)
async def call_waiting_gives_up(stage: Stage) -> None:
    guest = stage.outside("0723456777")
    await stage.talk(guest, await stage.phone("777").called(), for_s=APART_S)
    stage.phone("777").plan = NO_ANSWER
    other = stage.outside("0723456777", caller=OTHER)
    await (await stage.phone("777").called(2)).until_ringing()
    await other.until_ringing()
    await asyncio.sleep(RING_S)
    await other.hang_up()
    await guest.hang_up()


@scenario("777 talks, puts the caller on hold (re-INVITE), and takes the call back", expected=TALKED)
async def hold_and_resume(stage: Stage) -> None:
    guest = stage.outside("0723456777")
    agent = await stage.phone("777").called()
    await stage.talk(guest, agent)
    await agent.hold()
    await asyncio.sleep(RING_S)
    await agent.resume()
    await stage.talk_again(guest, agent)
    await guest.hang_up()


@scenario(
    "Two calls from one number at once, to 777 and to 778",
    expected=(*TALKED, rings("778"), talks("778")),
)
async def one_number_twice_at_once(stage: Stage) -> None:
    guests = [stage.outside("0723456777"), stage.outside("0723456778")]
    agents = [await stage.phone("777").called(), await stage.phone("778").called()]
    await asyncio.gather(*(stage.talk(guest, agent) for guest, agent in zip(guests, agents, strict=True)))
    for guest in guests:
        await guest.hang_up()


@scenario("Two calls from one number to 777, one after the other", expected=(*TALKED, *TALKED))
async def one_number_twice_in_a_row(stage: Stage) -> None:
    for times in (1, 2):
        guest = stage.outside("0723456777")
        await stage.talk(guest, await stage.phone("777").called(times), for_s=APART_S)
        await guest.hang_up()

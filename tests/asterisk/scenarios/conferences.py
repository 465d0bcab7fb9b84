"""More than two in a call, or one who listens."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.listed import ReadAs, had
from tests.asterisk.lab.phone import RING_S, Call
from tests.asterisk.lab.stage import Stage, rings, scenario, talks


@scenario(
    "A caller, 777 and 778 meet in a conference room",
    expected=(talks("777"), talks("778")),
    notes="nobody's phone rang; bridge technology softmix",
)
async def conference(stage: Stage) -> None:
    guest = stage.outside("0723456205")
    await guest.until_answered()
    one = stage.phone("777").dial("8600")
    await stage.talk(guest, one)
    one.audio.silent = True  # else 778 hears a mixture
    other = stage.phone("778").dial("8600")
    await stage.talk(guest, other)
    await guest.hang_up()
    await one.hang_up()
    await other.hang_up()


@scenario("777, 778 and 779 meet in a conference room")
async def conference_internal(stage: Stage) -> None:
    calls = [stage.phone(ext).dial("8600") for ext in ("777", "778", "779")]
    await asyncio.gather(*(call.until_answered() for call in calls))
    await asyncio.sleep(RING_S)
    for call in calls:
        await call.hang_up()


async def _listened(stage: Stage, key: str) -> tuple[Call, Call, Call]:
    guest = stage.outside("0723456777")
    agent = await stage.phone("777").called()
    await stage.talk(guest, agent)
    listening = stage.phone("779").dial(key)
    await listening.until_answered()
    agent.audio.silent = True  # else 779 hears a mixture
    await listening.audio.until_hears(guest.audio)
    return guest, agent, listening


@scenario(
    "777 talks, 779 listens (ChanSpy): the caller does not hear 779",
    expected=(rings("777"), talks("777")),
)
async def spied_upon(stage: Stage) -> None:
    guest, _, listening = await _listened(stage, "*5777")
    assert not guest.audio.hears(listening.audio)
    await guest.hang_up()
    await listening.hang_up()


@scenario(
    "777 talks, 779 joins in (ChanSpy with B): the caller and 779 hear one another",
    expected=(rings("777"), talks("777")),
    optional=(talks("779"),),
    listed=(had("777"), had("779")),
    read_as=ReadAs((had("777"),), "the record of 779 is one with ChanSpy, whether it listens or joins in"),
    notes="nothing that AMI says tells who joins in from who merely listens",
)
async def joined_by_barging(stage: Stage) -> None:
    guest, _, joining = await _listened(stage, "*6777")
    await stage.talk(guest, joining)
    await guest.hang_up()
    await joining.hang_up()

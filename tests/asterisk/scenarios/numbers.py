"""Numbers and names as trunks deliver them."""

from __future__ import annotations

from tests.asterisk.lab.listed import CALLER
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

TALKED = (rings("777"), talks("777"))


@scenario("The number comes in E.164 (+97233004799)", expected=TALKED)
async def number_e164(stage: Stage) -> None:
    guest = stage.outside("0723456777", caller="+97233004799", told=CALLER)
    await stage.talk(guest, await stage.phone("777").called())
    await guest.hang_up()


@scenario(
    "The number comes with a 9 before it, which the dialplan takes away before the first Dial",
    expected=TALKED,
    notes="Newchannel has 9033004799, NewCallerid 033004799",
)
async def number_rewritten(stage: Stage) -> None:
    guest = stage.outside("0723456201", caller=f"9{CALLER}", shown=CALLER, told=CALLER)
    await stage.talk(guest, await stage.phone("777").called())
    await guest.hang_up()


@scenario("No number at all (a From without a user)", expected=(rings("777", "anonymous"), talks("777", "anonymous")))
async def number_missing(stage: Stage) -> None:
    guest = stage.outside("0723456777", caller="", shown="anonymous", told="anonymous")
    await stage.talk(guest, await stage.phone("777").called())
    await guest.hang_up()


@scenario("The caller's name is hostile: quotes, backslashes, brackets, separators", expected=TALKED)
async def name_hostile(stage: Stage) -> None:
    name = 'Rob"ert\\" <sip:666@evil>; tag=x\\\\ ${SHELL(id)}, \'--; Event: Hangup\\r\\n'
    guest = stage.outside("0723456777", name=name)
    await stage.talk(guest, await stage.phone("777").called())
    await guest.hang_up()


@scenario(
    "The caller's name is in Latin-1, no UTF-8",
    expected=TALKED,
    notes="16 sends the byte as it came, 22 repairs it",
)
async def name_in_latin1(stage: Stage) -> None:
    guest = stage.outside("0723456777", name="Andr\udce9 M\udcfcller")
    await stage.talk(guest, await stage.phone("777").called())
    await guest.hang_up()

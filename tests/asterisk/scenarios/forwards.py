"""A call for 777 that goes elsewhere: the phone says so (302), or the dialplan."""

from __future__ import annotations

from tests.asterisk.lab.listed import missed
from tests.asterisk.lab.phone import Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

MOBILE = "0521111111"


def _forwards(number: str, *, rings_first: bool = False) -> Plan:
    to = f"sip:{number}@127.0.0.1"
    return Plan(final=302, forward_to=to) if rings_first else Plan(ring=None, after_s=0, final=302, forward_to=to)


async def _reaches(stage: Stage, did: str, ext: str) -> None:
    guest = stage.outside(did)
    await stage.talk(guest, await stage.phone(ext).called())
    await guest.hang_up()


async def _reaches_mobile(stage: Stage, did: str) -> None:
    guest = stage.outside(did)
    mobile = await stage.trunk.called(2)
    assert mobile.dialed == MOBILE
    await stage.talk(guest, mobile)
    await guest.hang_up()


@scenario(
    "777's phone forwards at once (302) to 778, which rings and answers",
    expected=(rings("778"), talks("778")),
)
async def forward_302(stage: Stage) -> None:
    stage.phone("777").plan = _forwards("778")
    await _reaches(stage, "0723456777", "778")


@scenario(
    "777's phone rings, then forwards (302) to 778, which rings and answers",
    expected=(rings("777"), rings("778"), talks("778")),
)
async def forward_302_after_ringing(stage: Stage) -> None:
    stage.phone("777").plan = _forwards("778", rings_first=True)
    await _reaches(stage, "0723456777", "778")


@scenario("777's phone forwards at once (302) to a mobile, through the trunk, which answers", listed=(missed("777"),))
async def forward_302_to_mobile(stage: Stage) -> None:
    stage.phone("777").plan = _forwards(MOBILE)
    await _reaches_mobile(stage, "0723456777")


@scenario(
    "777's phone rings, then forwards (302) to a mobile, through the trunk, which answers",
    expected=(rings("777"),),
)
async def forward_302_to_mobile_after_ringing(stage: Stage) -> None:
    stage.phone("777").plan = _forwards(MOBILE, rings_first=True)
    await _reaches_mobile(stage, "0723456777")


@scenario(
    "The dialplan forwards 777 to 778 (Dial(Local/778@from-internal))",
    expected=(rings("778"), talks("778")),
)
async def forward_in_dialplan(stage: Stage) -> None:
    await _reaches(stage, "0723456202", "778")


@scenario(
    "The dialplan forwards 777 to a mobile (Dial(Local/0521111111@from-internal)), which answers", listed=(missed(),)
)
async def forward_in_dialplan_to_mobile(stage: Stage) -> None:
    await _reaches_mobile(stage, "0723456203")

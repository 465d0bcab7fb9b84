"""The main kinds of calls over the old driver: its trunk says Down, then Ring, where PJSIP says Ring at once."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.listed import made, missed
from tests.asterisk.lab.office import CHAN_SIP
from tests.asterisk.lab.phone import BUSY, NO_ANSWER, RING_S, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

OLD = ("16",)
SLOW = Plan(after_s=0.7)


@scenario(
    "DID to Dial(SIP/771): 771 rings and answers",
    expected=(rings("771"), talks("771")),
    office=CHAN_SIP,
    versions=OLD,
)
async def sip_did(stage: Stage) -> None:
    caller = stage.outside("0723458471")
    await stage.talk(caller, await stage.phone("771").called(), for_s=0.5)
    await caller.hang_up()


@scenario(
    "DID to Dial(SIP/771): 771 rings, the caller gives up", expected=(rings("771"),), office=CHAN_SIP, versions=OLD
)
async def sip_caller_gives_up(stage: Stage) -> None:
    stage.phone("771").plan = NO_ANSWER
    caller = stage.outside("0723458471")
    await (await stage.phone("771").called()).until_ringing()
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario(
    "DID to Dial(SIP/771): 771 refuses with 486 without a ring",
    office=CHAN_SIP,
    versions=OLD,
    listed=(missed("771"),),
)
async def sip_busy(stage: Stage) -> None:
    stage.phone("771").plan = BUSY
    await stage.outside("0723458471").until_over()


async def _second_answers(stage: Stage, did: str, extensions: tuple[str, ...], answers: str) -> None:
    for ext in extensions:
        stage.phone(ext).plan = SLOW if ext == answers else NO_ANSWER
    caller = stage.outside(did)
    for ext in extensions:
        await (await stage.phone(ext).called()).until_ringing()
    await stage.talk(caller, await stage.phone(answers).called())
    await caller.hang_up()


@scenario(
    "Dial(SIP/771&SIP/772&SIP/773): all ring, 772 answers",
    expected=(rings("771"), rings("772"), rings("773"), talks("772")),
    office=CHAN_SIP,
    versions=OLD,
)
async def sip_ring_group(stage: Stage) -> None:
    await _second_answers(stage, "0723458501", ("771", "772", "773"), "772")


@scenario(
    "Queue, ringall, members SIP/772 and SIP/773: both ring, 773 answers",
    expected=(rings("772"), rings("773"), talks("773")),
    office=CHAN_SIP,
    versions=OLD,
)
async def sip_queue(stage: Stage) -> None:
    await _second_answers(stage, "0723458502", ("772", "773"), "773")


@scenario(
    "Queue, ringall, members Local/772@old-phones/n and Local/773@old-phones/n: both ring, 772 answers",
    expected=(rings("772"), rings("773"), talks("772")),
    office=CHAN_SIP,
    versions=OLD,
)
async def sip_queue_local(stage: Stage) -> None:
    await _second_answers(stage, "0723458503", ("772", "773"), "772")


@scenario(
    "771 talks with a caller and gives them to 772 (REFER), which answers",
    expected=(rings("771"), talks("771"), rings("772"), talks("772")),
    office=CHAN_SIP,
    versions=OLD,
)
async def sip_blind_transfer(stage: Stage) -> None:
    caller = stage.outside("0723458471")
    agent = await stage.phone("771").called()
    await stage.talk(caller, agent)
    answer = await agent.request(
        "REFER", headers=[("Refer-To", "<sip:772@127.0.0.1>"), ("Referred-By", "<sip:771@127.0.0.1>")]
    )
    assert answer.status == 202
    await stage.talk(caller, await stage.phone("772").called())
    await agent.hang_up()
    await caller.hang_up()


@scenario("771 calls 772, which rings and answers", office=CHAN_SIP, versions=OLD)
async def sip_internal(stage: Stage) -> None:
    one = stage.phone("771").dial("772")
    await stage.talk(one, await stage.phone("772").called())
    await one.hang_up()


@scenario(
    "771 calls a customer through the trunk, who answers",
    office=CHAN_SIP,
    versions=OLD,
    listed=(made("771", "0521111111"),),
)
async def sip_outbound(stage: Stage) -> None:
    agent = stage.phone("771").dial("0521111111")
    customer = await stage.trunk.called()
    assert customer.dialed == "0521111111"
    await stage.talk(agent, customer, for_s=0.5)
    await agent.hang_up()

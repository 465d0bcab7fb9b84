"""A PBX in the shape of FreePBX, and a bridge that was told nothing of it but what its extensions look like."""

from __future__ import annotations

import asyncio

from tests.asterisk.lab.listed import ReadAs, made
from tests.asterisk.lab.office import FREEPBX
from tests.asterisk.lab.phone import ANSWER, NO_ANSWER, RING_S, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

SLOW = Plan(after_s=0.8)
CUSTOMER, MOBILE = "0581234567", "0581112222"


async def _answered(stage: Stage, did: str, ext: str) -> None:
    caller = stage.outside(did)
    await stage.talk(caller, await stage.phone(ext).called(), for_s=0.5)
    await caller.hang_up()


# From outside


@scenario("Inbound route to extension 101, which answers", expected=(rings("101"), talks("101")), office=FREEPBX)
async def freepbx_did(stage: Stage) -> None:
    await _answered(stage, "0723457101", "101")


@scenario(
    "Inbound route to extension 102, whose phone stands in a context of another name; it answers",
    expected=(rings("102"), talks("102")),
    office=FREEPBX,
)
async def freepbx_did_class_of_service(stage: Stage) -> None:
    await _answered(stage, "0723457202", "102")


@scenario("Inbound route to extension 101, which rings; the caller gives up", expected=(rings("101"),), office=FREEPBX)
async def freepbx_caller_gives_up(stage: Stage) -> None:
    stage.phone("101").plan = NO_ANSWER
    caller = stage.outside("0723457101")
    await (await stage.phone("101").called()).until_ringing()
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario(
    "Inbound route to extension 101, which doesn't answer for a second; then its mailbox",
    expected=(rings("101"),),
    office=FREEPBX,
)
async def freepbx_voicemail(stage: Stage) -> None:
    stage.phone("101").plan = NO_ANSWER
    caller = stage.outside("0723457201")
    await caller.until_answered()
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario("IVR: the caller presses 2, 102 answers", expected=(rings("102"), talks("102")), office=FREEPBX)
async def freepbx_ivr(stage: Stage) -> None:
    caller = stage.outside("0723457602")
    await caller.until_answered()
    await caller.press("2")
    await stage.talk(caller, await stage.phone("102").called(), for_s=0.5)
    await caller.hang_up()


@scenario(
    "Ring group: one Dial of 101, 102 and 103; 102 answers",
    expected=(rings("101"), rings("102"), rings("103"), talks("102")),
    office=FREEPBX,
    notes="the group's prefix stands in the caller's name",
)
async def freepbx_ring_group(stage: Stage) -> None:
    for ext in ("101", "102", "103"):
        stage.phone(ext).plan = SLOW if ext == "102" else NO_ANSWER
    caller = stage.outside("0723457601", name="Dana")
    for ext in ("101", "103"):
        await (await stage.phone(ext).called()).until_ringing()
    await stage.talk(caller, await stage.phone("102").called())
    await caller.hang_up()


@scenario(
    "Queue with members Local/101@from-queue/n and Local/102@from-queue/n: both ring, 102 answers",
    expected=(rings("101"), rings("102"), talks("102")),
    office=FREEPBX,
)
async def freepbx_queue(stage: Stage) -> None:
    stage.phone("101").plan, stage.phone("102").plan = NO_ANSWER, SLOW
    caller = stage.outside("0723457600")
    await (await stage.phone("101").called()).until_ringing()
    await stage.talk(caller, await stage.phone("102").called(), for_s=0.5)
    await caller.hang_up()


@scenario(
    "Queue: 101 and 102 ring for two seconds, and again a second later; then 101 answers",
    expected=(rings("101"), rings("102"), talks("101")),
    office=FREEPBX,
)
async def freepbx_queue_rings_again(stage: Stage) -> None:
    stage.phone("101").plan = stage.phone("102").plan = NO_ANSWER
    caller = stage.outside("0723457600")
    await (await stage.phone("101").called()).until_ringing()
    await (await stage.phone("102").called()).until_ringing()
    stage.phone("101").plan = ANSWER
    await stage.talk(caller, await stage.phone("101").called(2), for_s=0.5)
    await caller.hang_up()


@scenario("Queue: 101 and 102 ring, the caller gives up", expected=(rings("101"), rings("102")), office=FREEPBX)
async def freepbx_queue_abandoned(stage: Stage) -> None:
    stage.phone("101").plan = stage.phone("102").plan = NO_ANSWER
    caller = stage.outside("0723457600")
    await (await stage.phone("101").called()).until_ringing()
    await (await stage.phone("102").called()).until_ringing()
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario(
    "Follow-me, at once: Local/FMPR-102 and Local/FMGL-…#, the phone answers",
    expected=(rings("102"), talks("102")),
    office=FREEPBX,
)
async def freepbx_followme_phone(stage: Stage) -> None:
    stage.phone("102").plan, stage.trunk.plan = SLOW, NO_ANSWER
    caller = stage.outside("0723457102")
    await (await stage.trunk.called(2)).until_ringing()
    await stage.talk(caller, await stage.phone("102").called(), for_s=0.5)
    await caller.hang_up()


@scenario(
    "Follow-me, at once: Local/FMPR-102 and Local/FMGL-…#, the mobile answers",
    expected=(rings("102"),),
    office=FREEPBX,
    notes="the mobile's leg is a trunk's, and stands in the trunk's inbound context",
)
async def freepbx_followme_mobile(stage: Stage) -> None:
    stage.phone("102").plan = NO_ANSWER
    caller = stage.outside("0723457102")
    await (await stage.phone("102").called()).until_ringing()
    mobile = await stage.trunk.called(2)
    assert mobile.dialed == MOBILE
    await stage.talk(caller, mobile, for_s=0.5)
    await caller.hang_up()


@scenario(
    "Follow-me, one after the other: 103 rings for a second, then the mobile, which answers",
    expected=(rings("103"),),
    office=FREEPBX,
)
async def freepbx_followme_then_mobile(stage: Stage) -> None:
    stage.phone("103").plan = NO_ANSWER
    caller = stage.outside("0723457103")
    await stage.talk(caller, await stage.trunk.called(2), for_s=0.5)
    await caller.hang_up()


@scenario(
    "104 has all calls forwarded to 103: 103 is dialed directly, and answers",
    expected=(rings("103"), talks("103")),
    office=FREEPBX,
)
async def freepbx_forward(stage: Stage) -> None:
    await _answered(stage, "0723457104", "103")


@scenario(
    "101 rings; 102 picks it up with **101",
    expected=(rings("101"), talks("102")),
    office=FREEPBX,
    notes="102 never rang",
)
async def freepbx_pickup(stage: Stage) -> None:
    stage.phone("101").plan = NO_ANSWER
    caller = stage.outside("0723457101")
    await (await stage.phone("101").called()).until_ringing()
    await asyncio.sleep(RING_S)
    await stage.talk(caller, stage.phone("102").dial("**101"), for_s=0.5)
    await caller.hang_up()


@scenario(
    "Inbound route to 101, which talks and gives the call to 103 (REFER)",
    expected=(rings("101"), talks("101"), rings("103"), talks("103")),
    office=FREEPBX,
)
async def freepbx_blind_transfer(stage: Stage) -> None:
    caller = stage.outside("0723457101")
    agent = await stage.phone("101").called()
    await stage.talk(caller, agent)
    answer = await agent.request("REFER", headers=[("Refer-To", "<sip:103@127.0.0.1>"), ("Referred-By", "<sip:101@1>")])
    assert answer.status == 202
    await stage.talk(caller, await stage.phone("103").called())
    await agent.hang_up()
    await caller.hang_up()


# From inside


@scenario("102, in a context of another name, calls 101, which answers", office=FREEPBX)
async def freepbx_internal(stage: Stage) -> None:
    one = stage.phone("102").dial("101")
    await stage.talk(one, await stage.phone("101").called(), for_s=0.5)
    await one.hang_up()


@scenario("101 calls queue 600; 102 answers", office=FREEPBX, notes="nobody outside is in it")
async def freepbx_internal_queue(stage: Stage) -> None:
    stage.phone("101").plan = NO_ANSWER
    one = stage.phone("103").dial("600")
    await stage.talk(one, await stage.phone("102").called(), for_s=0.5)
    await one.hang_up()


@scenario(
    "103, in a context of another name, calls a customer through the trunk, who answers",
    office=FREEPBX,
    listed=(made("103", CUSTOMER),),
    notes="the trunk's leg stands in from-pstn, where calls come in",
)
async def freepbx_outbound(stage: Stage) -> None:
    agent = stage.phone("103").dial(CUSTOMER)
    customer = await stage.trunk.called()
    assert customer.dialed == CUSTOMER
    await stage.talk(agent, customer, for_s=0.5)
    await agent.hang_up()


@scenario(
    "101 calls a customer through the trunk, who is busy",
    office=FREEPBX,
    listed=(made("101", CUSTOMER, talked=False),),
)
async def freepbx_outbound_busy(stage: Stage) -> None:
    stage.trunk.plan = Plan(ring=None, after_s=0, final=486)
    await stage.phone("101").dial(CUSTOMER).until_over()


# Clicks


async def _click(stage: Stage, channel: str) -> None:
    answer = await stage.ami.action(
        "Originate",
        Channel=channel,
        ChannelId="crmbridge-1",
        Context="from-internal",
        Exten=CUSTOMER,
        Priority="1",
        CallerID=f'"CRM {CUSTOMER}" <101>',
        Timeout="30000",
        Async="true",
    )
    assert answer["Response"] == "Success", answer


async def _click_answered(stage: Stage, channel: str) -> None:
    await _click(stage, channel)
    agent = await stage.phone("101").called()
    await stage.talk(agent, await stage.trunk.called(), for_s=0.8)
    await agent.hang_up()


@scenario("Click to call, PJSIP/101: 101 answers, then the customer", office=FREEPBX, listed=(made("101", CUSTOMER),))
async def freepbx_click_pjsip(stage: Stage) -> None:
    await _click_answered(stage, "PJSIP/101")


@scenario(
    "Click to call, Local/101@originate-skipvm: 101 answers, then the customer",
    office=FREEPBX,
    listed=(made("101", CUSTOMER),),
)
async def freepbx_click_local(stage: Stage) -> None:
    await _click_answered(stage, "Local/101@originate-skipvm")


@scenario(
    "Click to call, Local/101@originate-skipvm: 101 does not answer",
    office=FREEPBX,
    notes="no mailbox answers in its place, and the customer is not called",
)
async def freepbx_click_local_no_answer(stage: Stage) -> None:
    stage.phone("101").plan = Plan(after_s=0.5, final=480)
    await _click(stage, "Local/101@originate-skipvm")
    await (await stage.phone("101").called()).until_over()
    await stage.ami.until(lambda frame: frame.get("Event") == "OriginateResponse" and frame["Response"] == "Failure")
    assert not stage.trunk.calls


@scenario(
    "Click to call, Local/101@from-internal, as it should not be done: 101 does not answer, its mailbox does",
    office=FREEPBX,
    read_as=ReadAs((made("101", CUSTOMER, talked=False),), "the customer was called in the name of 101, who is busy"),
    notes="the customer is called, and gets to hear the mailbox of 101",
)
async def freepbx_click_into_mailbox(stage: Stage) -> None:
    stage.phone("101").plan = Plan(after_s=0.5, final=480)
    await _click(stage, "Local/101@from-internal")
    customer = await stage.trunk.called()
    await customer.until_answered()
    await asyncio.sleep(RING_S)
    await customer.hang_up()

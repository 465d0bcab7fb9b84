"""A call that is handed on: blindly, after asking a colleague, or while the colleague's phone still rings."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.asterisk.lab.listed import CALLER, ReadAs, had, made
from tests.asterisk.lab.phone import NO_ANSWER, Call, CallFailedError, Phone, Plan
from tests.asterisk.lab.stage import APART_S, Stage, rings, scenario, talks

MOBILE = "0521111111"
OTHER = "035555555"
"""Another caller."""
TO_778 = (rings("777"), talks("777"), rings("778"), talks("778"))
CONSULTED = (rings("777"), talks("777"), talks("778"))
"""778 rang for 777, and talks with the caller in the end."""


async def _answered(stage: Stage, *, caller: str = CALLER, times: int = 1) -> tuple[Call, Call]:
    """Somebody outside talks with 777; both sides' calls."""
    guest = stage.outside("0723456777", caller=caller)
    agent = await stage.phone("777").called(times)
    await stage.talk(guest, agent)
    return guest, agent


async def _with_778(stage: Stage, guest: Call, agent: Call) -> None:
    """The guest talks with 778 and 777 is out of it; the guest hangs up."""
    await stage.talk(guest, await stage.phone("778").called())
    await agent.until_over()
    await guest.hang_up()


# Blind, each way to do it


@scenario("777 talks and is transferred away by AMI BlindTransfer to 778, which answers", expected=TO_778)
async def blind_by_ami(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await stage.manage("BlindTransfer", Channel=stage.channel("777"), Exten="778", Context="from-internal")
    await _with_778(stage, guest, agent)


@scenario("777 talks and transfers to 778 by REFER, which answers", expected=TO_778)
async def blind_by_refer(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    assert await agent.refer("778") < 300
    await _with_778(stage, guest, agent)


@scenario("777 talks and transfers to 778 by keys (##778), which answers", expected=TO_778)
async def blind_by_keys(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await agent.dials("##778")
    await _with_778(stage, guest, agent)


@scenario(
    "777 transfers by REFER to a phone known by its caller id only (781, endpoint alice-desk)",
    expected=(rings("777"), talks("777"), rings("781"), talks("781")),
)
async def blind_to_another_name(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    assert await agent.refer("781") < 300
    await stage.talk(guest, await stage.phone("781").called())
    await agent.until_over()
    await guest.hang_up()


# Blind, to each kind of target


@scenario(
    "777 transfers by REFER to a queue (760) whose members are PJSIP/778 and PJSIP/779: both ring, 779 answers",
    expected=(rings("777"), talks("777"), rings("778"), rings("779"), talks("779")),
)
async def blind_to_queue(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    stage.phone("778").plan = NO_ANSWER
    stage.phone("779").plan = Plan(after_s=0.5)
    assert await agent.refer("760") < 300
    await stage.talk(guest, await stage.phone("779").called())
    await agent.until_over()
    await guest.hang_up()


@scenario(
    "777 transfers by REFER to a mobile, through the trunk, which answers",
    expected=(rings("777"), talks("777")),
    notes="the dialplan sets the outgoing caller id on the inbound leg",
)
async def blind_to_mobile(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    assert await agent.refer(MOBILE) < 300
    mobile = await stage.trunk.called(2)
    await stage.talk(guest, mobile)
    await agent.until_over()
    await guest.hang_up()


@scenario(
    "777 transfers by REFER to a number that is not there (799): refused, they talk on",
    expected=(rings("777"), talks("777")),
)
async def blind_to_nowhere(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    assert await agent.refer("799") >= 400
    await stage.talk_again(guest, agent)
    await guest.hang_up()


@scenario(
    "777 transfers by keys to a number that is not there (##799): a prompt says so, they talk on",
    expected=(rings("777"), talks("777")),
)
async def blind_by_keys_to_nowhere(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await agent.dials("##799")
    await stage.talk_again(guest, agent)
    await guest.hang_up()


@scenario(
    "777 transfers by REFER to 778, which rings and does not answer; the caller is hung up",
    expected=(rings("777"), talks("777"), rings("778")),
)
async def blind_to_no_answer(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    stage.phone("778").plan = NO_ANSWER
    assert await agent.refer("758") < 300
    await guest.until_over()


@scenario(
    "778, to whom 777 has transferred by REFER, transfers back to 777",
    expected=TO_778,
    notes="777 rings and talks twice in one call: told once",
)
async def blind_there_and_back(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    assert await agent.refer("778") < 300
    colleague = await stage.phone("778").called()
    await stage.talk(guest, colleague)
    assert await colleague.refer("777") < 300
    await stage.talk(guest, await stage.phone("777").called(2))
    await guest.hang_up()


# After asking a colleague


@scenario(
    "777 talks, asks 778 (AMI Atxfer), and hangs up: the caller talks with 778",
    expected=CONSULTED,
    notes="778 rings for 777; the Local in between is optimised away",
)
async def attended_by_ami(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await stage.manage("Atxfer", Channel=stage.channel("777"), Exten="778", Context="from-internal")
    await stage.talk(agent, await stage.phone("778").called())
    await agent.hang_up()
    await _with_778(stage, guest, agent)


@scenario(
    "777 talks, asks 778 by keys (*2778), and hangs up: the caller talks with 778",
    expected=CONSULTED,
)
async def attended_by_keys(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await agent.dials("*2778")
    await stage.talk(agent, await stage.phone("778").called())
    await agent.hang_up()
    await _with_778(stage, guest, agent)


async def _asks(stage: Stage, agent: Call, number: str) -> Call:
    """777 puts the one it talks with on hold and calls a number; 777's new call."""
    await agent.hold()
    return stage.phone("777").dial(number)


@scenario(
    "777 holds the caller, calls 778, and joins them (REFER with Replaces)",
    expected=CONSULTED,
    notes="777's call to 778 is a call of its own",
)
async def attended_by_refer(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    asking = await _asks(stage, agent, "778")
    await stage.talk(asking, await stage.phone("778").called())
    assert await agent.refer("778", replacing=asking) < 300
    await _with_778(stage, guest, agent)


@scenario(
    "777 holds the caller, calls 778, and 778 doesn't want it: 777 goes back to the caller",
    expected=(rings("777"), talks("777")),
    notes="778 rings for, and talks with, 777 only",
)
async def attended_not_wanted(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    asking = await _asks(stage, agent, "778")
    colleague = await stage.phone("778").called()
    await stage.talk(asking, colleague)
    await colleague.hang_up()
    await asking.until_over()
    await agent.resume()
    await stage.talk_again(guest, agent)
    await guest.hang_up()


@scenario(
    "777 holds the caller, calls a mobile, and joins them (REFER with Replaces)",
    expected=(rings("777"), talks("777")),
    listed=(had("777"), made("777", MOBILE)),
)
async def attended_to_mobile(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    asking = await _asks(stage, agent, MOBILE)
    mobile = await stage.trunk.called(2)
    await stage.talk(asking, mobile)
    assert await agent.refer(MOBILE, replacing=asking) < 300
    await stage.talk(guest, mobile)
    await agent.until_over()
    await guest.hang_up()


@scenario(
    "777 talks with two callers, and joins them (REFER with Replaces): no extension talks any more",
    expected=(rings("777"), talks("777"), rings("777", OTHER), talks("777", OTHER)),
    read_as=ReadAs((had("777", talk_s=4), had("777", OTHER, talk_s=1)), "whom 777 has on hold is still in its call"),
)
async def two_callers_joined(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await agent.hold()
    await asyncio.sleep(APART_S)
    other, second = await _answered(stage, caller=OTHER, times=2)
    assert await agent.refer("778", replacing=second) < 300
    await stage.talk(guest, other)
    await agent.until_over()
    await second.until_over()
    await guest.hang_up()


# While the colleague's phone still rings


@scenario(
    "777 asks 778 (AMI Atxfer) and hangs up while 778 still rings; 778 answers",
    expected=TO_778,
    notes="778 began to ring for 777, and rings on for the caller",
)
async def half_attended_by_ami(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    stage.phone("778").plan = NO_ANSWER
    await stage.manage("Atxfer", Channel=stage.channel("777"), Exten="778", Context="from-internal")
    ringing = await stage.phone("778").called()
    await ringing.until_ringing()
    await agent.hang_up()
    stage.left_to(guest, ringing)
    await ringing.follow(Plan(ring=None))
    await _with_778(stage, guest, agent)


@scenario(
    "777 holds the caller, calls 778, and joins them (REFER with Replaces) while 778 still rings; 778 answers",
    expected=TO_778,
    notes="778 began to ring for 777, and rings on for the caller",
)
async def half_attended_by_refer(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    stage.phone("778").plan = NO_ANSWER
    asking = await _asks(stage, agent, "778")
    await asking.until_ringing()
    assert await agent.refer("778", replacing=asking) < 300
    await agent.until_over()
    await asking.until_over()
    ringing = await stage.phone("778").called()
    stage.left_to(guest, ringing)
    await ringing.follow(Plan(ring=None))
    await _with_778(stage, guest, agent)


@scenario(
    "777 holds the caller, calls 778, cancels while it rings, and transfers blindly by REFER; 778 answers",
    expected=TO_778,
    notes="778 rings twice, for 777 and for the caller; many phones do a half-attended transfer so",
)
async def half_attended_by_cancel(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    stage.phone("778").plan = NO_ANSWER
    asking = await _asks(stage, agent, "778")
    await asking.until_ringing()
    await asking.hang_up()
    stage.phone("778").plan = Plan()
    assert await agent.refer("778") < 300
    await stage.talk(guest, await stage.phone("778").called(2))
    await agent.until_over()
    await guest.hang_up()


@scenario(
    "777 asks 778 (AMI Atxfer), which does not answer: 777 talks with the caller again",
    expected=(rings("777"), talks("777")),
)
async def attended_no_answer(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    stage.phone("778").plan = NO_ANSWER
    await stage.manage("Atxfer", Channel=stage.channel("777"), Exten="778", Context="from-internal")
    ringing = await stage.phone("778").called()
    await ringing.until_over()
    await stage.talk_again(guest, agent)
    await guest.hang_up()


@scenario(
    "777 asks 778 (AMI Atxfer), hangs up while it rings, 778 does not answer: 777 is called back and talks",
    expected=(rings("777"), talks("777"), rings("778")),
    notes="777 rings and talks twice in one call: told once",
)
async def transfer_returned(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    stage.phone("778").plan = NO_ANSWER
    await stage.manage("Atxfer", Channel=stage.channel("777"), Exten="778", Context="from-internal")
    ringing = await stage.phone("778").called()
    await ringing.until_ringing()
    await agent.hang_up()
    stage.left_to(guest, ringing)
    await stage.talk(guest, await _called_back(stage.phone("777")))
    await guest.hang_up()


async def _called_back(phone: Phone) -> Call:
    """The call that the phone answers: on a busy machine Asterisk may have given one up before."""
    times = 2
    while True:
        back = await phone.called(times)
        with suppress(CallFailedError):
            await back.until_answered()
            return back
        times += 1


# What came from inside


@scenario("777 calls 778, which transfers to 779 by REFER; 779 answers")
async def internal_transferred(stage: Stage) -> None:
    one = stage.phone("777").dial("778")
    colleague = await stage.phone("778").called()
    await stage.talk(one, colleague)
    assert await colleague.refer("779") < 300
    await stage.talk(one, await stage.phone("779").called())
    await one.hang_up()


async def _calls_out(stage: Stage) -> tuple[Call, Call]:
    agent = stage.phone("777").dial(MOBILE)
    customer = await stage.trunk.called()
    await stage.talk(agent, customer)
    return agent, customer


@scenario(
    "777 calls a customer and transfers to 778 by REFER, which answers",
    listed=(made("777", MOBILE), made("778", MOBILE)),
    notes="an outgoing call stays one, whoever goes on with it",
)
async def outbound_handed_on(stage: Stage) -> None:
    agent, customer = await _calls_out(stage)
    assert await agent.refer("778") < 300
    await stage.talk(customer, await stage.phone("778").called())
    await agent.until_over()
    await customer.hang_up()


@scenario(
    "777 calls a customer, asks 778, and joins them (REFER with Replaces)",
    listed=(made("777", MOBILE), made("778", MOBILE)),
    notes="an outgoing call stays one, whoever goes on with it",
)
async def outbound_handed_on_attended(stage: Stage) -> None:
    agent, customer = await _calls_out(stage)
    asking = await _asks(stage, agent, "778")
    colleague = await stage.phone("778").called()
    await stage.talk(asking, colleague)
    assert await agent.refer("778", replacing=asking) < 300
    await stage.talk(customer, colleague)
    await agent.until_over()
    await customer.hang_up()


@scenario(
    "777 talks with a caller, calls a customer, and joins the two (REFER with Replaces)",
    expected=(rings("777"), talks("777")),
    listed=(had("777"), made("777", MOBILE)),
)
async def caller_joined_with_an_outbound_call(stage: Stage) -> None:
    guest, agent = await _answered(stage)
    await agent.hold()
    asking = stage.phone("777").dial(MOBILE)
    customer = await stage.trunk.called(2)
    await stage.talk(asking, customer)
    assert await asking.refer("778", replacing=agent) < 300
    await asyncio.gather(agent.until_over(), asking.until_over())
    await stage.talk(guest, customer)
    await guest.hang_up()

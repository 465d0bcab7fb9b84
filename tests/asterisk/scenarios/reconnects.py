"""Lists of all channels, as the bridge asks for them when it (re)connects, in the middle of calls.

Each call goes on after the list; `tests/unit/test_tracker_listed.py` plays these recordings from the list on, too,
as if nothing had been heard before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.asterisk.lab.ami import Frame
from tests.asterisk.lab.listed import made
from tests.asterisk.lab.office import CHAN_SIP, FREEPBX
from tests.asterisk.lab.phone import NO_ANSWER, RING_S, Call, Plan
from tests.asterisk.lab.stage import Stage, rings, scenario, talks

PICK_UP = Plan(ring=None, after_s=0)
LISTS: dict[str, dict[str, str]] = {
    "ExtensionStateList": {},
    "DBGetTree": {"Family": "DEVICE"},
    "BridgeList": {},
    "CoreShowChannels": {},
}


async def _reconnected(stage: Stage) -> None:
    """All that the bridge asks for."""

    def last(frame: Frame) -> bool:
        return frame.get("Event") == f"{action}Complete"

    for action, headers in LISTS.items():
        answer = await stage.ami.action(action, **headers)
        if answer["Response"] == "Success":  # older Asterisks have no DBGetTree
            await stage.ami.until(last)


async def _while_ringing(stage: Stage, did: str, extensions: tuple[str, ...], answers: str) -> None:
    for ext in extensions:
        stage.phone(ext).plan = NO_ANSWER
    caller = stage.outside(did)
    calls = {ext: await stage.phone(ext).called() for ext in extensions}
    for call in calls.values():
        await call.until_ringing()
    await asyncio.sleep(RING_S)
    await _reconnected(stage)
    await calls[answers].follow(PICK_UP)
    await stage.talk(caller, calls[answers], for_s=RING_S)
    await caller.hang_up()


@scenario("777 rings, all channels are listed, 777 answers", expected=(rings("777"), talks("777")))
async def listed_while_ringing(stage: Stage) -> None:
    await _while_ringing(stage, "0723456777", ("777",), "777")


@scenario("777 talks, all channels are listed", expected=(rings("777"), talks("777")))
async def listed_while_talking(stage: Stage) -> None:
    caller = stage.outside("0723456777")
    await stage.talk(caller, await stage.phone("777").called(), for_s=RING_S)
    await _reconnected(stage)
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@scenario(
    "Ring group: 777, 778 and 779 ring, all channels are listed, 778 answers",
    expected=(rings("777"), rings("778"), rings("779"), talks("778")),
)
async def listed_ring_group(stage: Stage) -> None:
    await _while_ringing(stage, "0723456002", ("777", "778", "779"), "778")


@scenario(
    "Queue with PJSIP members: 778 and 779 ring, all channels are listed, 779 answers",
    expected=(rings("778"), rings("779"), talks("779")),
)
async def listed_queue(stage: Stage) -> None:
    await _while_ringing(stage, "0723456005", ("778", "779"), "779")


@scenario(
    "Queue with Local/n members: 778 and 779 ring, all channels are listed, 779 answers",
    expected=(rings("778"), rings("779"), talks("779")),
)
async def listed_queue_local(stage: Stage) -> None:
    await _while_ringing(stage, "0723456004", ("778", "779"), "779")


@scenario(
    "A Local behind a Local: 777 rings, all channels are listed, 777 answers",
    expected=(rings("777"), talks("777")),
)
async def listed_locals(stage: Stage) -> None:
    await _while_ringing(stage, "0723458203", ("777",), "777")


@scenario(
    "FollowMe: 777 rings, all channels are listed, 777 answers and accepts",
    expected=(rings("777"), talks("777")),
)
async def listed_followme(stage: Stage) -> None:
    agent = stage.phone("777")
    agent.plan = NO_ANSWER
    caller = stage.outside("0723458222")
    call = await agent.called()
    await call.until_ringing()
    await asyncio.sleep(RING_S)
    await _reconnected(stage)
    await call.follow(PICK_UP)
    await asyncio.sleep(0.8)
    await call.press("1")
    await stage.talk(caller, call, for_s=RING_S)
    await caller.hang_up()


@scenario("777 calls 778, which rings; all channels are listed; 778 answers")
async def listed_internal(stage: Stage) -> None:
    stage.phone("778").plan = NO_ANSWER
    one = stage.phone("777").dial("778")
    other = await stage.phone("778").called()
    await other.until_ringing()
    await asyncio.sleep(RING_S)
    await _reconnected(stage)
    await other.follow(PICK_UP)
    await stage.talk(one, other, for_s=RING_S)
    await one.hang_up()


@scenario(
    "777 calls a customer, whose phone rings; all channels are listed; the customer answers",
    listed=(made("777", "0521111111"),),
)
async def listed_outbound(stage: Stage) -> None:
    stage.trunk.plan = NO_ANSWER
    agent = stage.phone("777").dial("0521111111")
    customer = await stage.trunk.called()
    await customer.until_ringing()
    await asyncio.sleep(RING_S)
    await _reconnected(stage)
    await customer.follow(PICK_UP)
    await stage.talk(agent, customer, for_s=RING_S)
    await agent.hang_up()


@scenario("Click to call: 777 talks with the customer, all channels are listed", listed=(made("777", "0521111111"),))
async def listed_click(stage: Stage) -> None:
    answer = await stage.ami.action(
        "Originate",
        Channel="PJSIP/777",
        Context="from-internal",
        Exten="0521111111",
        Priority="1",
        Timeout="30000",
        Async="true",
    )
    assert answer["Response"] == "Success", answer
    agent = await stage.phone("777").called()
    stage.trunk.plan = Plan(after_s=0.8)
    customer = await stage.trunk.called()
    await customer.until_ringing()
    await _reconnected(stage)
    await stage.talk(agent, customer, for_s=RING_S)
    await agent.hang_up()


@scenario(
    "FreePBX: the queue rings 101 and 102, all channels are listed, 102 answers",
    expected=(rings("101"), rings("102"), talks("102")),
    office=FREEPBX,
)
async def listed_freepbx_queue(stage: Stage) -> None:
    await _while_ringing(stage, "0723457600", ("101", "102"), "102")


@scenario(
    "FreePBX: 103 calls a customer, whose phone rings; all channels are listed; the customer answers",
    office=FREEPBX,
    listed=(made("103", "0581234567"),),
    notes="with the list alone, 103's leg is a phone's, the other one a trunk's that was dialed",
)
async def listed_freepbx_outbound(stage: Stage) -> None:
    stage.trunk.plan = Plan(after_s=0.8)
    agent = stage.phone("103").dial("0581234567")
    customer = await stage.trunk.called()
    await customer.until_ringing()
    await _reconnected(stage)
    await stage.talk(agent, customer, for_s=RING_S)
    await agent.hang_up()


@scenario(
    "FreePBX: follow-me's mobile and 102 ring, all channels are listed, the mobile answers",
    expected=(rings("102"),),
    office=FREEPBX,
)
async def listed_freepbx_followme(stage: Stage) -> None:
    stage.phone("102").plan = NO_ANSWER
    stage.trunk.plan = Plan(after_s=0.8)
    caller = stage.outside("0723457102")
    await (await stage.phone("102").called()).until_ringing()
    mobile = await stage.trunk.called(2)
    await mobile.until_ringing()
    await asyncio.sleep(RING_S)
    await _reconnected(stage)
    await stage.talk(caller, mobile, for_s=RING_S)
    await caller.hang_up()


@scenario(
    "chan_sip: 771 rings, all channels are listed, 771 answers",
    expected=(rings("771"), talks("771")),
    office=CHAN_SIP,
    versions=("16",),
)
async def listed_sip(stage: Stage) -> None:
    await _while_ringing(stage, "0723458471", ("771",), "771")


async def _refer(one: Call, number: str) -> None:
    answer = await one.request(
        "REFER",
        headers=[("Refer-To", f"<sip:{number}@127.0.0.1>"), ("Referred-By", f"<sip:{one.phone.number}@127.0.0.1>")],
    )
    assert answer.status == 202


@scenario(
    "777 gives a caller to 778 (REFER), which rings; all channels are listed; 778 answers",
    expected=(rings("777"), talks("777"), rings("778"), talks("778")),
)
async def listed_after_blind_transfer(stage: Stage) -> None:
    stage.phone("778").plan = NO_ANSWER
    caller = stage.outside("0723456777")
    agent = await stage.phone("777").called()
    await stage.talk(caller, agent)
    await _refer(agent, "778")
    other = await stage.phone("778").called()
    await other.until_ringing()
    await agent.hang_up()
    await asyncio.sleep(RING_S)
    await _reconnected(stage)
    await other.follow(PICK_UP)
    await stage.talk(caller, other, for_s=RING_S)
    await caller.hang_up()


@scenario(
    "FreePBX: the hints are listed, then 106's phone and its browser (99106) ring, and the browser answers",
    expected=(rings("106"), talks("106")),
    office=FREEPBX,
    notes="the hint alone says that 99106 is 106's",
)
async def listed_freepbx_two_devices(stage: Stage) -> None:
    await _reconnected(stage)
    stage.phone("106").plan, stage.phone("99106").plan = NO_ANSWER, Plan(after_s=0.6)
    caller = stage.outside("0723457106")
    await (await stage.phone("106").called()).until_ringing()
    await stage.talk(caller, await stage.phone("99106").called(), for_s=RING_S)
    await caller.hang_up()


@scenario(
    "FreePBX: 106 and its browser ring, the browser takes it with **106; hints and channels are listed while they talk",
    expected=(rings("106"), talks("106")),
    office=FREEPBX,
    notes="the phone that takes the call is another device of the one that rang",
)
async def listed_freepbx_own_pickup(stage: Stage) -> None:
    stage.phone("106").plan = stage.phone("99106").plan = NO_ANSWER
    caller = stage.outside("0723457106")
    await (await stage.phone("99106").called()).until_ringing()
    picker = stage.phone("99106").dial("**106")
    await stage.talk(caller, picker, for_s=RING_S)
    await _reconnected(stage)
    await asyncio.sleep(RING_S)
    await caller.hang_up()


@asynccontextmanager
async def _logged_on(stage: Stage, user: str, device: str, *, hint: bool) -> AsyncIterator[None]:
    """Somebody is logged on to a phone, as FreePBX does it (its core's agi-bin/user_login_out.agi)."""
    entries = {
        ("DEVICE", f"{device}/dial"): f"PJSIP/{device}",
        ("DEVICE", f"{device}/user"): user,
        ("AMPUSER", f"{user}/device"): device,
    }
    for (family, key), value in entries.items():
        await stage.manage("DBPut", Family=family, Key=key, Val=value)
    if hint:
        await stage.manage(
            "Command", Command=f"dialplan add extension {user},hint,PJSIP/{device} into ext-local replace"
        )
    await stage.manage("UserEvent", UserEvent="UserDeviceAdded", Data=f"{user}\\,{device}")
    await stage.ami.until(lambda frame: frame.get("UserEvent") == "UserDeviceAdded")
    await _reconnected(stage)
    try:
        yield
    finally:
        if hint:
            await stage.manage("Command", Command=f"dialplan remove extension {user}@ext-local hint")
        for family, key in entries:
            await stage.manage("DBDel", Family=family, Key=key)


async def _call_105_at_9105(stage: Stage, *, hint: bool) -> None:
    stage.phone("9105").plan = Plan(after_s=0.6)
    async with _logged_on(stage, "105", "9105", hint=hint):
        caller = stage.outside("0723457105")
        await stage.talk(caller, await stage.phone("9105").called(), for_s=RING_S)
        await caller.hang_up()


@scenario(
    "FreePBX: 105 logs on to device 9105, which rings for 105 and answers",
    expected=(rings("105"), talks("105")),
    office=FREEPBX,
    notes="the hint that FreePBX writes when somebody logs on tells whose phone it is",
)
async def listed_freepbx_log_on(stage: Stage) -> None:
    await _call_105_at_9105(stage, hint=True)


@scenario(
    "FreePBX without hints: 105 logs on to device 9105, which rings for 105 and answers",
    expected=(rings("105"), talks("105")),
    office=FREEPBX,
    notes="FreePBX's own entries in Asterisk's database tell whose phone it is",
)
async def listed_freepbx_log_on_without_hint(stage: Stage) -> None:
    await _call_105_at_9105(stage, hint=False)

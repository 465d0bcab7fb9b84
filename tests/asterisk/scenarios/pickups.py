"""A colleague takes a call while another's phone rings; the taker's own phone never rang."""

from __future__ import annotations

from tests.asterisk.lab.phone import NO_ANSWER, RING_S, Call
from tests.asterisk.lab.stage import Stage, rings, scenario, talks


async def _picked_up(stage: Stage, did: str, *, ringing: tuple[str, ...], picker: str, key: str) -> None:
    for ext in ringing:
        stage.phone(ext).plan = NO_ANSWER
    guest = stage.outside(did)
    calls: list[Call] = [await stage.phone(ext).called() for ext in ringing]
    for call in calls:
        await call.until_ringing()
    taking = stage.phone(picker).dial(key)
    await stage.talk(guest, taking, for_s=RING_S)
    for call in calls:
        await call.until_over()
    await guest.hang_up()


@scenario(
    "777 rings, 778 dials **777: Pickup(777@PICKUPMARK)",
    expected=(rings("777"), talks("778")),
)
async def pickup_direct(stage: Stage) -> None:
    await _picked_up(stage, "0723456206", ringing=("777",), picker="778", key="**777")


@scenario("777 rings, 778 dials *8", expected=(rings("777"), talks("778")))
async def pickup_group(stage: Stage) -> None:
    await _picked_up(stage, "0723456777", ringing=("777",), picker="778", key="*8")


@scenario(
    "778 and 779 ring from a queue (PJSIP members), 777 dials *8",
    expected=(rings("778"), rings("779"), talks("777")),
    notes="AgentConnect names the member whose phone rang, not the one who talks",
)
async def pickup_from_queue(stage: Stage) -> None:
    await _in_a_queue(stage, "0723456005")


@scenario(
    "778 and 779 ring from a queue (Local members), 777 dials *8",
    expected=(rings("778"), rings("779"), talks("777")),
)
async def pickup_from_queue_of_locals(stage: Stage) -> None:
    await _in_a_queue(stage, "0723456004")


async def _in_a_queue(stage: Stage, did: str) -> None:
    await _picked_up(stage, did, ringing=("778", "779"), picker="777", key="*8")


@scenario("777 rings through a Local, 778 dials *8", expected=(rings("777"), talks("778")))
async def pickup_through_local(stage: Stage) -> None:
    await _picked_up(stage, "0723456204", ringing=("777",), picker="778", key="*8")


@scenario("All of a ring group ring, 780 dials *8", expected=(rings("777"), rings("778"), rings("779"), talks("780")))
async def pickup_from_ring_group(stage: Stage) -> None:
    await _picked_up(stage, "0723456002", ringing=("777", "778", "779"), picker="780", key="*8")


@scenario("777 calls 778, which rings, and 779 dials *8")
async def pickup_internal(stage: Stage) -> None:
    stage.phone("778").plan = NO_ANSWER
    one = stage.phone("777").dial("778")
    await (await stage.phone("778").called()).until_ringing()
    taking = stage.phone("779").dial("*8")
    await stage.talk(one, taking)
    await one.hang_up()

"""Calls that the office begins: the CRM is told nothing of them."""

from __future__ import annotations

from tests.asterisk.lab.listed import made
from tests.asterisk.lab.stage import Stage, scenario


@scenario("777 calls 778, which rings and answers")
async def internal(stage: Stage) -> None:
    one = stage.phone("777").dial("778")
    await stage.talk(one, await stage.phone("778").called())
    await one.hang_up()


@scenario("777 calls 0521111111 through the trunk, which answers", listed=(made("777", "0521111111"),))
async def outbound(stage: Stage) -> None:
    agent = stage.phone("777").dial("0521111111")
    outside = await stage.trunk.called()
    assert outside.dialed == "0521111111"
    await stage.talk(agent, outside, for_s=1.2)
    await agent.hang_up()

"""Click to call: the PBX calls the agent, then the customer. The CRM is told nothing of it."""

from __future__ import annotations

from tests.asterisk.lab.listed import ReadAs, had, made
from tests.asterisk.lab.stage import Stage, scenario


@scenario(
    "Originate PJSIP/777 to 0521111111@from-internal: 777 answers, then the customer",
    listed=(made("777", "0521111111"),),
)
async def click_to_call(stage: Stage) -> None:
    answer = await stage.ami.action(
        "Originate",
        Channel="PJSIP/777",
        ChannelId="crmbridge-1",
        Context="from-internal",
        Exten="0521111111",
        Priority="1",
        CallerID='"CRM 0521111111" <777>',
        Timeout="30000",
        Async="true",
    )
    assert answer["Response"] == "Success", answer
    agent = await stage.phone("777").called()
    customer = await stage.trunk.called()
    assert customer.dialed == "0521111111"
    await stage.talk(agent, customer, for_s=1.2)
    await agent.hang_up()


@scenario(
    "Callback, customer first: Originate PJSIP/0521111111@trunk-bezeq to 777@from-internal; 777 rings and answers",
    listed=(made("777", "0521111111"),),
    read_as=ReadAs(
        (had("777", "0723456777"),),
        "the record is that of a call that came in, from the number that the click gave; whom we called stands nowhere",
    ),
    notes="the trunk's leg is the root, stands in an inbound context, and never reaches Ring",
)
async def callback_customer_first(stage: Stage) -> None:
    answer = await stage.ami.action(
        "Originate",
        Channel="PJSIP/0521111111@trunk-bezeq",
        ChannelId="crmbridge-2",
        Context="from-internal",
        Exten="777",
        Priority="1",
        CallerID='"CRM" <0723456777>',
        Timeout="30000",
        Async="true",
    )
    assert answer["Response"] == "Success", answer
    customer = await stage.trunk.called()
    agent = await stage.phone("777").called()
    await stage.talk(agent, customer)
    await customer.hang_up()

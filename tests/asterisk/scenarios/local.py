"""Local channels between the caller and the phone: taken away once audio flows, kept (/n), one behind another."""

from __future__ import annotations

from tests.asterisk.lab.stage import Stage, rings, scenario, talks

TALK = (rings("777"), talks("777"))


async def _answered(stage: Stage, did: str, *, optimized: int) -> None:
    """777 answers; `optimized` Locals are taken away while they talk."""
    caller = stage.outside(did)
    agent = await stage.phone("777").called()
    await stage.talk(caller, agent)
    gone: set[str] = set()
    for _ in range(optimized):
        event = await stage.ami.until(
            lambda frame: frame.get("Event") == "LocalOptimizationEnd" and frame["LocalOneUniqueid"] not in gone
        )
        gone.add(event["LocalOneUniqueid"])
    await stage.talk(caller, agent, for_s=0.3)
    assert len(stage.ami.events("LocalOptimizationEnd")) == optimized
    await caller.hang_up()


@scenario("Dial(Local/777@from-internal): 777 answers, then the Local is optimised away", expected=TALK)
async def local_optimized(stage: Stage) -> None:
    await _answered(stage, "0723458200", optimized=1)


@scenario("Dial(Local/777@from-internal/n): 777 answers, and the Local stays", expected=TALK)
async def local_kept(stage: Stage) -> None:
    await _answered(stage, "0723458201", optimized=0)


@scenario("A Local behind a Local: 777 answers, then both are optimised away", expected=TALK)
async def local_nested_optimized(stage: Stage) -> None:
    await _answered(stage, "0723458202", optimized=2)


@scenario("A Local behind a Local, both /n: 777 answers, and both stay", expected=TALK)
async def local_nested_kept(stage: Stage) -> None:
    await _answered(stage, "0723458203", optimized=0)

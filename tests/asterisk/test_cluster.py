"""Two bridges, two PBXes, three database nodes, each a machine of its own; the long run is `make faults-cluster`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.asterisk.cluster.faults import single
from tests.asterisk.cluster.run import CALM_S, running
from tests.asterisk.conftest import Lab
from tests.asterisk.lab.rootfs import RECIPES
from tests.asterisk.lab.site import Site, standing

pytestmark = [
    pytest.mark.needs("asterisk", "sipp", "galera", "switch", "keepalived"),
    pytest.mark.alone,
]

CHOSEN = ("bridge-1 killed", "db-1 killed", "link bridge-2 – db-2 cut")
LASTS_S = 3.0


@pytest.fixture
def site(lab: Lab) -> Iterator[Site]:
    with standing({version: lab.root(version) for version in RECIPES}) as site:
        yield site


async def test_a_site_under_calls_loses_and_doubles_none_whatever_dies(site: Site) -> None:
    kinds = {fault.name: fault for fault in single(site)}
    async with running(site, per_s=5, seed=1) as (run, outcome):
        await run.calm(CALM_S)
        for name in CHOSEN:
            await run.suffer(kinds[name], LASTS_S)
        await run.click_often(1000)
    assert not outcome.broken
    assert all(spell.report.must > 0 for spell in outcome.spells)
    assert sum(spell.report.told for spell in outcome.spells) > 100

"""A CRM that misbehaves while calls come in, shortly; in all its ways, and longer: `make faults`.

A simulated PBX replays a recorded call; the bridge is the installed command. The judge is that of all faults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.asterisk.faults.crm import misbehaviours
from tests.asterisk.faults.crm_cases import CASES, CLOCK_CASES, Case
from tests.asterisk.faults.surroundings import Certificates, Place, certificates
from tests.asterisk.lab.network import Network

SHORT: Mapping[str, Mapping[str, object]] = {
    "accepts and never answers": {"settings": {"timeout_s": 1.0}, "patience_s": 1.0},
    "500": {},
    "success: false": {},
    "down longer than a ring is of use": {"settings": {"ring_expires_s": 1.0}, "lasts_s": 4.0},
}
WITH_A_NETWORK: Mapping[str, Mapping[str, object]] = {
    "certificate expired": {},
    "name not found": {},
    "address changes": {"lasts_s": 1.0},
}


def shortened(chosen: Mapping[str, Mapping[str, object]]) -> list[Case]:
    by_name = {case.name: case for case in CASES}
    short = {"lasts_s": 2.0, "gap_s": 1.0}
    return [replace(by_name[name], **{**short, **changes}) for name, changes in chosen.items()]  # type: ignore[arg-type]


pytestmark = pytest.mark.alone  # a popup that is late on a busy machine is late


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


async def test_a_crm_in_trouble_is_told_all_in_order_and_once(tmp_path: Path, made: Certificates) -> None:
    result = await misbehaviours(Place(), tmp_path, made, shortened(SHORT))
    assert not result.broken
    states = {told.case.name: {one["state"] for one in told.listed} for told in result.cases}
    assert states.pop("success: false") == {"confirmed", "refused"}
    assert states.pop("down longer than a ring is of use") == {"confirmed", "expired"}
    assert set(map(frozenset, states.values())) == {frozenset({"confirmed"})}


@pytest.mark.needs("namespaces")
async def test_a_crm_whose_name_and_certificate_are_in_trouble(
    tmp_path: Path, made: Certificates, network: Network
) -> None:
    result = await misbehaviours(Place(network), tmp_path, made, shortened(WITH_A_NETWORK), stopping=False)
    assert not result.broken
    assert {one["state"] for told in result.cases for one in told.listed} == {"confirmed"}


@pytest.mark.needs("faketime")
async def test_a_wall_clock_that_is_set_by_an_hour_makes_nothing_old(tmp_path: Path, made: Certificates) -> None:
    well = replace(CLOCK_CASES[0], lasts_s=4.0, gap_s=0.5)
    result = await misbehaviours(Place(), tmp_path, made, [well], stopping=False)
    assert not result.broken
    assert {one["state"] for told in result.cases for one in told.listed} == {"confirmed"}

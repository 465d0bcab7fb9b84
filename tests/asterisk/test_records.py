"""Call records on their way into the PBX's database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.asterisk.lab import mariadb
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.cdr import CdrTable, attached
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import Pbx
from tests.asterisk.lab.stage import perform
from tests.asterisk.scenarios import SCENARIOS

pytestmark = pytest.mark.needs("asterisk", "mariadb")


@pytest.fixture
def strict(root: tuple[str, Path]) -> Iterator[tuple[Pbx, CdrTable]]:
    """An Asterisk of its own, whose database takes nothing that it can't store as it is: MariaDB's default."""
    version, path = root
    with (
        Network() as its,
        mariadb.running(its) as database,
        Network() as network,
        lab_pbx.running(version, path, network) as pbx,
    ):
        yield pbx, attached(pbx, database, strict=True)


async def test_a_caller_whose_name_is_no_utf8_is_lost_where_the_database_is_strict(
    strict: tuple[Pbx, CdrTable],
) -> None:
    """16 hands the name on as it came (22 repairs it)."""
    pbx, table = strict
    await perform(pbx, SCENARIOS["name_in_latin1"])
    answered = await perform(pbx, SCENARIOS["did_answered"])
    assert answered.records == 1
    there = {"16": 1, "22": 2}[pbx.version]
    rows = await table.rows_of(there)
    assert len(rows) == there
    assert ("Incorrect string value" in pbx.log()) == (pbx.version == "16")

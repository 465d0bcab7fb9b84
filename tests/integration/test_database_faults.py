"""A database that is in trouble while calls come in, shortly; in all ways, and longer: `make faults`.

A simulated PBX replays a recorded call; the bridge is the installed command, the database a real MariaDB.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.asterisk.faults.databases import databases

pytestmark = [pytest.mark.needs("mariadb"), pytest.mark.alone]  # a popup that is late on a busy machine is late


async def test_callbacks_notice_nothing_answers_are_honest_and_the_list_catches_up(tmp_path: Path) -> None:
    result = await databases(tmp_path, ["killed, and away", "read-only", "without a connection left"], lasts_s=2.0)
    assert not result.broken
    killed, read_only, full = (outcome.answers for outcome in result.outcomes)
    assert set(killed) == set(full) == {503}
    assert set(read_only) == {200}
    assert all(outcome.report.must >= 8 for outcome in result.outcomes)

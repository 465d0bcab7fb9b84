"""What the daemon takes up: little at the start, and no more after a thousand calls (`make bench` has longer soaks)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.bench.bridge import COMMAND
from tests.bench.soak import soaked

CALLS = 1000
CUTS = 1
"""Of the session with the PBX, in the middle."""


async def test_a_thousand_calls_are_told_once_each_and_leave_nothing_open(tmp_path: Path) -> None:
    soak = await soaked(tmp_path, CALLS, cuts=CUTS)
    assert not soak.wrong
    assert soak.told == soak.due > CALLS
    assert soak.refused
    assert soak.failed
    assert soak.stored == soak.records > CALLS
    assert soak.sessions == 1 + CUTS
    assert [one.calls for one in soak.readings] == [tenth * CALLS // 10 for tenth in range(11)]
    first, *_, last = soak.readings[1:]  # from then on there are connections to the CRM
    assert last.descriptors <= first.descriptors
    assert last.threads <= first.threads


def test_the_daemon_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    program = (
        f"import sys; from crmbridge import entry; sys.argv = ['crmbridge', 'run', '-c', {str(tmp_path / 'none')!r}]\n"
        "try: entry.main()\n"
        "finally: print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "there is no" in ran.stderr
    loaded = set(ran.stdout.split())
    assert "crmbridge.app" in loaded
    assert not loaded & {"rich", "asyncmy", "sqlalchemy.orm", "crmbridge.cli", "crmbridge.demo", "crmbridge.checks"}


def test_the_orm_is_there_for_whoever_wants_it() -> None:
    program = (
        "import crmbridge.app; from sqlalchemy.ext.asyncio.session import AsyncSession; print(AsyncSession.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "AsyncSession\n"


@pytest.mark.parametrize(("option", "code", "shown"), [("--help", 0, "SIGHUP"), ("--wrong", 2, "No such option")])
def test_its_command_line_is_explained_all_the_same(option: str, code: int, shown: str) -> None:
    ran = subprocess.run([COMMAND, "run", option], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == code
    assert shown in ran.stdout + ran.stderr

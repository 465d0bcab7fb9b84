"""Call records on real Asterisks: what each backend writes, told to by our files, is the same record anywhere."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

import pytest
from tests.asterisk.lab import mariadb
from tests.asterisk.lab import pbx as lab_pbx
from tests.asterisk.lab.network import Network
from tests.asterisk.lab.pbx import SHIPPED, Pbx
from tests.asterisk.lab.stage import perform
from tests.asterisk.scenarios import SCENARIOS

from crmbridge.calls.cdr import Cdr, from_event
from crmbridge.calls.cdr_csv import OURS, from_line
from crmbridge.pbx.cdr_file import CdrFiles
from crmbridge.pbx.cdr_table import CdrTable

pytestmark = pytest.mark.needs("asterisk", "mariadb")

LIMIT_S = 30
EVER = (0, 4_000_000_000)


@pytest.fixture
def own_pbx(root: tuple[str, Path]) -> Iterator[Pbx]:
    """An Asterisk of this test's own, with our files in their places."""
    version, path = root
    with Network() as network, lab_pbx.running(version, path, network) as pbx:
        yield pbx


def inside(pbx: Pbx, path: str) -> Path:
    return Path(f"/proc/{pbx.pid}/root{path}")


def files(pbx: Pbx, path: str) -> CdrFiles:
    return CdrFiles(inside(pbx, path), from_line("pbx", UTC))


def records_in(some: CdrFiles) -> list[Cdr]:
    return some.part(some.path, some.beginning(some.path)).records


async def told(pbx: Pbx, *scenarios: str) -> list[Cdr]:
    """The records that cdr_manager told of."""
    found: list[Cdr] = []
    for name in scenarios:
        recording = await perform(pbx, SCENARIOS[name])
        frames = [frame for frame in recording.frames if frame.get("Event") == "Cdr"]
        found += [from_event(frame, pbx="pbx", timezone=UTC) for frame in frames]
    return sorted(found)


async def test_our_csv_file_is_what_the_events_tell(own_pbx: Pbx) -> None:
    """`cdr_custom.conf` as it is shipped, taken up without a restart."""
    own_pbx.cli("module load cdr_custom.so")
    expected = await told(own_pbx, "did_answered", "queue_local_members", "name_hostile")
    some = files(own_pbx, "/var/log/asterisk/cdr-custom/crmbridge.csv")
    assert len(expected) > 4
    assert sorted(records_in(some)) == expected
    assert some.path.read_text().startswith(f'"{OURS}",')
    assert some.path.stat().st_mode & 0o044, "others may read it, where they may enter the folder"


@pytest.mark.parametrize(
    "columns", ["", "loguserfield=yes\n", "newcdrcolumns=yes\n", "loguserfield=yes\nnewcdrcolumns=yes\n"]
)
async def test_master_csv_whatever_columns_it_has(own_pbx: Pbx, columns: str) -> None:
    own_pbx.configure("cdr.conf", f"[general]\nenable=yes\n[csv]\nusegmtime=yes\nloguniqueid=yes\n{columns}")
    own_pbx.cli("module load cdr_csv.so")
    expected = await told(own_pbx, "did_answered", "queue_local_members")
    found = records_in(files(own_pbx, "/var/log/asterisk/cdr-csv/Master.csv"))
    whole = "newcdrcolumns" in columns

    def comparable(one: Cdr) -> Cdr:
        # It has neither, nor, without newcdrcolumns, what joins records and tells them apart.
        bare = one._replace(did="", recordingfile="")
        return bare if whole else bare._replace(linkedid=one.uniqueid, sequence=-int(one.start_at.timestamp()))

    assert sorted(found) == sorted(map(comparable, expected))


@pytest.fixture
def with_odbc(tmp_path: Path) -> Path:
    """Our files, and the modules that the lab does without; as on Debian, where res_odbc.conf names no database."""
    folder = tmp_path / "etc"
    shutil.copytree(SHIPPED, folder)
    modules = (lab_pbx.HERE / "conf" / "modules.conf").read_text()
    (folder / "modules.conf").write_text(re.sub(r"noload = res_odbc\w*\.so\n", "", modules))
    (folder / "res_odbc.conf").write_text("[asterisk]\nenabled = no\n")
    return folder


@contextmanager
def by_odbc(root: tuple[str, Path], with_odbc: Path) -> Iterator[tuple[Pbx, mariadb.Database]]:
    """An Asterisk that writes into a database, by every step of asterisk-conf/vanilla/odbc, as its files say."""
    version, path = root
    with (
        Network() as network,
        mariadb.running(network, port=3306) as database,
        lab_pbx.running(version, path, network, shipped=with_odbc) as pbx,
    ):
        database.run(shipped("cdr.sql"))
        inside(pbx, "/etc/odbc.ini").write_text(shipped("odbc.ini"))
        pbx.configure("res_odbc.conf", shipped("res_odbc.conf").replace(";password =", "password ="))
        pbx.cli("module reload res_odbc.so")
        pbx.configure("cdr_adaptive_odbc.conf", shipped("cdr_adaptive_odbc.conf"))
        pbx.cli("module load cdr_adaptive_odbc.so")  # there was no file of that name
        yield pbx, database


async def test_the_table_by_odbc(root: tuple[str, Path], with_odbc: Path) -> None:
    """Every step of asterisk-conf/vanilla/odbc, as its files say."""
    with by_odbc(root, with_odbc) as (pbx, database):
        assert "Adaptive ODBC" in pbx.cli("cdr show status")
        expected = await told(pbx, "did_answered", "queue_local_members")
        count = "SELECT COUNT(*) FROM asteriskcdrdb.cdr"
        async with asyncio.timeout(LIMIT_S):
            while int(database.run(count).split()[1]) < len(expected):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)
        assert await rows(database) == expected


async def rows(database: mariadb.Database) -> list[Cdr]:
    """The table's records. Over the socket, which no network keeps us from, and so as root."""
    url = f"mysql+asyncmy://root@localhost/asteriskcdrdb?unix_socket={database.socket}"
    table = CdrTable(url, "cdr", pbx="pbx", timezone=UTC)
    try:
        shape = await table.shape()
        assert (shape.indexed, shape.lacking) == (True, ())
        return sorted(await table.read(*EVER))
    finally:
        await table.close()


def shipped(name: str) -> str:
    return (SHIPPED / "odbc" / name).read_text()
